"""The tier that needs a container engine: left out by `pytest` alone, and never silently."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_tier_but_the_containers_is_run_by_default() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    tiers = {path.parent.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "tests").rglob("test_*.py")}
    assert set(project["tool"]["pytest"]["ini_options"]["testpaths"]) == tiers - {"tests/containers"}


@pytest.mark.parametrize("skip", ["0", "1"])
def test_without_an_engine_it_fails_unless_it_may_be_skipped(skip: str, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "CONTAINER_ENGINE": "docker",
        "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock",
        "CODEHORNETS_SKIP_CONTAINERS": skip,
    }
    test = "tests/containers/test_images.py::test_only_the_worker_has_claude_code_and_git"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert "No container engine answers" in ran.stdout, ran.stdout + ran.stderr
    assert ("1 skipped" if skip == "1" else "1 error") in ran.stdout
    assert ran.returncode == (0 if skip == "1" else 1)
