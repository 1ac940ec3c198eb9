"""The runner of the suite: what fails fails, and what passes only alone is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness import REPOSITORY

FLAKY = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range({failing}))
def test_flaky(number):
    mark = pathlib.Path(f"{{number}}.ran")
    was_there = mark.exists()
    mark.touch()
    assert was_there

def test_good(): pass
"""


def run_suite(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "tests.run_suite",
        "-q",
        f"--rootdir={folder}",
        *options,
        str(folder / "test_it.py"),
    ]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_what_passes_alone_is_told_and_passes(tmp_path: Path) -> None:
    told = run_suite(tmp_path, FLAKY.format(failing=2), "--numprocesses=2")
    assert told.returncode == 0, told.stdout
    assert "2 failed; once more, alone:" in told.stdout
    assert "FLAKY" in told.stdout and told.stdout.rstrip().endswith("test_flaky[1]")


@pytest.mark.parametrize(
    ("source", "again"),
    [
        ("def test_bad(): assert False", True),
        (FLAKY.format(failing=5), False),
        ("def test_broken(: pass", False),
    ],
)
def test_what_is_broken_stays_so(tmp_path: Path, source: str, again: bool) -> None:
    told = run_suite(tmp_path, source, "--numprocesses=0")
    assert told.returncode != 0
    assert ("once more, alone" in told.stdout) is again
    assert "FLAKY" not in told.stdout


def test_a_good_run_runs_once(tmp_path: Path) -> None:
    told = run_suite(tmp_path, "def test_good(): pass", "--numprocesses=0")
    assert told.returncode == 0
    assert "alone" not in told.stdout
