"""What a release says is what the changelog says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from agent_bus import VERSION
from tests.deploy.tools import REPOSITORY

_CHANGELOG = f"""\
# Changelog

## [Unreleased]
- Later.

## [{VERSION}] - 2030-01-01

### Added
- A thing.

## [0.0.1] - 2029-01-01
- The first.
"""


def _notes(version: str, changelog: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CHANGELOG": str(changelog)}
    script = REPOSITORY / "deploy" / "release-notes.sh"
    return subprocess.run([script, version], capture_output=True, text=True, check=False, env=environment, timeout=20)


def test_a_release_gets_its_own_section_alone(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(_CHANGELOG)
    result = _notes(VERSION, changelog)
    assert result.returncode == 0
    assert result.stdout.strip() == "### Added\n- A thing."


def test_a_tag_of_another_version_than_the_code_is_refused(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(_CHANGELOG)
    result = _notes("0.0.1", changelog)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"the tag says 0.0.1 and agent_bus.VERSION is {VERSION}" in result.stderr


def test_a_version_without_a_section_is_refused(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## [Unreleased]\n- Later.\n")
    result = _notes(VERSION, changelog)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"nothing under '## [{VERSION}]'" in result.stderr
