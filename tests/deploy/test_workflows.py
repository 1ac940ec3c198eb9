"""actionlint and zizmor, and the house's own rules for workflows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import REPOSITORY, WORKFLOWS, run_tool, said

_LINT = REPOSITORY / "deploy" / "checks" / "actionlint.cjs"
_PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
_BROKEN = """\
on: push
jobs:
  greet:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: echo ${{ github.event.head_commit.message }}
      - run: echo ${{ matrix.nobody }}
"""

by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])


def _read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / ".github" / "workflows" / "broken.yml"
    path.parent.mkdir(parents=True)
    path.write_text(_BROKEN)
    return path


def test_there_are_workflows_for_tests_security_and_releases() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"test", "security", "release"}


def test_actionlint_finds_nothing() -> None:
    result = run_tool("node", _LINT, *WORKFLOWS)
    assert result.returncode == 0, said(result)


def test_actionlint_refuses_a_workflow_with_mistakes(broken: Path) -> None:
    result = run_tool("node", _LINT, broken)
    assert result.returncode == 1
    assert 'property "nobody" is not defined' in said(result)
    assert "potentially untrusted" in said(result)


def test_zizmor_finds_nothing() -> None:
    result = run_tool("zizmor", "--offline", "--persona=auditor", REPOSITORY / ".github")
    assert result.returncode == 0, said(result)
    assert all(
        f"completed {path.relative_to(REPOSITORY)}" in said(result).replace(f"{REPOSITORY}/", "") for path in WORKFLOWS
    )


def test_zizmor_refuses_an_unpinned_action_and_an_injection(broken: Path) -> None:
    result = run_tool("zizmor", "--offline", broken)
    assert result.returncode != 0
    assert "unpinned-uses" in said(result)
    assert "template-injection" in said(result)


@by_name
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(path: Path) -> None:
    used = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]
    loose = [line for line in used if not _PINNED.search(line)]
    assert used
    assert not loose


def test_an_action_is_pinned_to_the_same_commit_everywhere() -> None:
    commits: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, commit in re.findall(r"uses: ([^@\s]+)@(.*)", path.read_text()):
            commits.setdefault("/".join(name.split("/")[:2]), set()).add(commit)
    assert {name: found for name, found in commits.items() if len(found) > 1} == {}


@by_name
def test_a_workflow_may_do_nothing_and_each_job_only_what_it_names(path: Path) -> None:
    workflow = _read(path)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, name
        assert job["timeout-minutes"] <= 15, name


@by_name
def test_no_checkout_leaves_a_token_behind(path: Path) -> None:
    for name, job in _read(path)["jobs"].items():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


def test_every_target_of_make_in_a_step_is_there() -> None:
    steps = [step for path in WORKFLOWS for job in _read(path)["jobs"].values() for step in job["steps"]]
    targets = {name for step in steps for name in re.findall(r"\bmake ([a-z][a-z-]*)", step.get("run", ""))}
    assert {"test", "test-hooks", "test-containers"} <= targets
    for target in sorted(targets):
        result = subprocess.run(
            ["make", "--dry-run", target], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=20
        )
        assert result.returncode == 0, result.stderr


def test_every_script_of_ours_in_a_step_is_there() -> None:
    steps = [step for path in WORKFLOWS for job in _read(path)["jobs"].values() for step in job["steps"]]
    scripts = {name for step in steps for name in re.findall(r"deploy/[\w/-]+\.sh", step.get("run", ""))}
    assert "deploy/image-size.sh" in scripts
    assert [name for name in sorted(scripts) if not os.access(REPOSITORY / name, os.X_OK)] == []


def test_a_person_who_starts_the_tests_may_choose_the_mode() -> None:
    workflow = _read(REPOSITORY / ".github" / "workflows" / "test.yml")
    # YAML 1.1 reads the bare word `on` as true.
    mode = workflow[True]["workflow_dispatch"]["inputs"]["mode"]  # type: ignore[index]
    assert mode["options"] == ["all", "polling", "activated", "hooks", "hybrid"]
    matrix = workflow["jobs"]["stack"]["strategy"]["matrix"]["mode"]
    assert '["hooks", "hybrid"]' in matrix
