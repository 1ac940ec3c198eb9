"""check-jsonschema and yamllint: each file has the form that its reader expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.tools import REPOSITORY, WORKFLOWS, run_tool, said, tracked

_FORMS = REPOSITORY / ".github" / "ISSUE_TEMPLATE"

KINDS = {
    "github-workflows": WORKFLOWS,
    "dependabot": [REPOSITORY / ".github" / "dependabot.yml"],
    "github-issue-forms": [path for path in sorted(_FORMS.glob("*.yml")) if path.name != "config.yml"],
    "github-issue-config": [_FORMS / "config.yml"],
    "compose-spec": tracked("compose*.yaml"),
}
# One file of a form that it must not have, for two kinds: the tool is the same for all.
BROKEN = {
    "github-workflows": "on: push\njobs: {greet: {steps: []}}\n",
    "compose-spec": "services: {marie: {image: it, cap_dropp: [ALL]}}\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_form_of_its_kind(kind: str) -> None:
    result = run_tool("check-jsonschema", "--builtin-schema", f"vendor.{kind}", *KINDS[kind])
    assert result.returncode == 0, said(result)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_of_another_form_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(BROKEN[kind])
    result = run_tool("check-jsonschema", "--builtin-schema", f"vendor.{kind}", path)
    assert result.returncode == 1, said(result)
    assert "validation errors were encountered" in said(result)


def test_every_yaml_file_is_well_formed() -> None:
    # What a template makes is looked at when it is rendered.
    paths = [path for path in tracked("*.yml", "*.yaml") if "templates" not in path.parts]
    assert set(WORKFLOWS) <= set(paths)
    result = run_tool("yamllint", "--strict", "--config-file", "deploy/checks/yamllint.yaml", *paths)
    assert result.returncode == 0, said(result)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.yml"
    path.write_text("name: one\nname: two\n")
    result = run_tool("yamllint", "--strict", "--config-file", "deploy/checks/yamllint.yaml", path)
    assert result.returncode != 0
    assert "duplication of key" in said(result)
