"""The runner of the suite: what fails fails, and what passes only alone is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness import REPOSITORY
from tests.waiting import wait_until

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

SLOW_TO_END = """
import pathlib, time
import pytest

@pytest.fixture
def server():
    yield
    time.sleep(1)
    pathlib.Path("ended").touch()

def test_slow(server):
    pathlib.Path("begun").touch()
    time.sleep(60)
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


def test_ctrl_c_lets_the_tests_end_what_they_have_started(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(SLOW_TO_END)
    command = [sys.executable, "-m", "tests.run_suite", "-q", f"--rootdir={tmp_path}", "--numprocesses=0", "test_it.py"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    suite = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    wait_until((tmp_path / "begun").exists, 30)
    os.killpg(suite.pid, signal.SIGINT)
    said = suite.communicate(timeout=30)[0].decode()
    assert suite.returncode == pytest.ExitCode.INTERRUPTED, said
    assert (tmp_path / "ended").exists() and "once more" not in said and "subprocess" not in said


def test_a_good_run_runs_once(tmp_path: Path) -> None:
    told = run_suite(tmp_path, "def test_good(): pass", "--numprocesses=0")
    assert told.returncode == 0
    assert "alone" not in told.stdout
