"""shellcheck: every script, and every piece of shell in a workflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.tools import REPOSITORY, WORKFLOWS, run_tool, said, shell_scripts


def test_shellcheck_finds_nothing_in_scripts() -> None:
    scripts = shell_scripts()
    assert REPOSITORY / ".ci" / "run" in scripts
    result = run_tool("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *scripts)
    assert result.returncode == 0, said(result)


def _pieces() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            for number, step in enumerate(job["steps"], 1):
                if "run" in step:
                    yield f"{path.name}:{name}:{number}", step["run"]


@pytest.mark.parametrize("piece", [pytest.param(text, id=name) for name, text in _pieces()])
def test_shellcheck_finds_nothing_in_a_step_of_a_workflow(piece: str) -> None:
    assert "${{" not in piece, "a step gets its values through the environment, never pasted into its text"
    result = run_tool("shellcheck", "--shell=bash", "-", stdin=f"set -e\n{piece}")
    assert result.returncode == 0, said(result)


def test_shellcheck_refuses_a_script_with_a_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sh"
    broken.write_text("#!/usr/bin/env bash\nrm -rf $1/*\n")
    result = run_tool("shellcheck", broken)
    assert result.returncode == 1
    assert "SC2086" in said(result)


def test_every_script_stops_at_its_first_mistake() -> None:
    for path in shell_scripts():
        text = path.read_text()
        sourced = not text.startswith("#!")
        assert sourced or "set -eu" in text, f"{path.relative_to(REPOSITORY)} goes on after a command that failed"
