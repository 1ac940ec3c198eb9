"""hadolint: what is known to go wrong in Dockerfiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.tools import REPOSITORY, run_tool, said, tracked

DOCKERFILES = tracked("Dockerfile", "*.dockerfile")


@pytest.mark.parametrize("path", DOCKERFILES, ids=[str(path.relative_to(REPOSITORY)) for path in DOCKERFILES])
def test_hadolint_finds_nothing(path: Path) -> None:
    result = run_tool("hadolint", path)
    assert result.returncode == 0, said(result)


def test_the_image_has_a_dockerfile() -> None:
    assert REPOSITORY / "Dockerfile" in DOCKERFILES


def test_hadolint_refuses_a_dockerfile_that_breaks_its_rules(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
    result = run_tool("hadolint", broken)
    assert result.returncode == 1
    assert "DL3006" in said(result)
