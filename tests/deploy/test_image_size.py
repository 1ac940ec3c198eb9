"""deploy/image-size.sh, with an engine that says what it is told to say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.tools import REPOSITORY

# Knows two images: `layered` with its size, and `packed`, of which its store knows only the compressed size.
_ENGINE = """\
#!/usr/bin/env bash
case "$1 $2" in
  "image inspect")
    case "${!#}" in
      layered) echo 699000001 ;;
      packed) echo 1000 ;;
      *) echo "no such image" >&2; exit 1 ;;
    esac ;;
  "create "*) echo "$2" ;;
  "export packed") head -c 3000000 /dev/zero ;;
  "export layered") head -c 10 /dev/zero ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with `podman` and `podman-compose`, to be put before all else."""
    for name, text in {"podman": _ENGINE, "podman-compose": "#!/bin/sh\n"}.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    return tmp_path / "bin"


def _sizes(programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CONTAINER_ENGINE": "podman", "PATH": f"{programs}:{os.environ['PATH']}"}
    script = REPOSITORY / "deploy" / "image-size.sh"
    return subprocess.run(
        [script, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=20
    )


def test_images_within_their_limits_pass(programs: Path) -> None:
    result = _sizes(programs, "layered", "700", "packed", "3")
    assert result.returncode == 0, result.stderr
    assert "| layered | 700 MB | 700 MB | ✓ |" in result.stdout
    assert "| packed | 3 MB | 3 MB | ✓ |" in result.stdout


def test_an_image_over_its_limit_fails_and_the_others_are_still_told(programs: Path) -> None:
    result = _sizes(programs, "layered", "699", "packed", "3")
    assert result.returncode == 1
    assert "| layered | 700 MB | 699 MB | ✗ too large |" in result.stdout
    assert "| packed |" in result.stdout


def test_a_store_that_knows_only_compressed_sizes_hides_nothing(programs: Path) -> None:
    assert _sizes(programs, "packed", "2").returncode == 1


def test_an_image_that_is_not_there_is_named(programs: Path) -> None:
    result = _sizes(programs, "elsewhere", "700")
    assert result.returncode == 2
    assert "podman has no image elsewhere" in result.stderr


def test_an_image_without_a_limit_is_refused(programs: Path) -> None:
    result = _sizes(programs, "layered")
    assert result.returncode == 2
    assert "in pairs" in result.stderr
