"""The hooks in a Claude settings file: put in, taken out, and the rest as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.hooks.events import HOOKS
from orchestrator_service.hook_installation import SettingsFileError, hook_command, install_hooks, uninstall_hooks

COMMAND = hook_command(["/opt/x y/codehornets"], worker="marie", shared=Path("/srv/shared"))
OWN = {"matcher": "Bash", "hooks": [{"type": "command", "command": "my-own codehornets-thing"}]}


def test_they_are_put_in_once_and_taken_out_whole(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    text = '{\n    "zeta": 1.5,\n    "hooks": {\n        "Stop": []\n    },\n    "alpha": "ä"\n}\n'
    path.write_text(text)
    path.chmod(0o640)
    assert install_hooks(path, COMMAND)
    first = path.read_text()
    assert not install_hooks(path, COMMAND)
    assert path.read_text() == first
    assert path.stat().st_mode & 0o777 == 0o640
    settings = json.loads(first)
    assert list(settings) == ["zeta", "hooks", "alpha"]
    assert '\n    "zeta": 1.5' in first and "ä" in first
    assert set(settings["hooks"]) == set(HOOKS)
    assert settings["hooks"]["PreToolUse"][0]["hooks"][0]["async"] is True
    assert "async" not in settings["hooks"]["Stop"][0]["hooks"][0]
    assert uninstall_hooks(path)
    assert json.loads(path.read_text()) == {"zeta": 1.5, "alpha": "ä"}
    assert not uninstall_hooks(path)


def test_another_installation_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    install_hooks(path, COMMAND)
    other = hook_command(["/usr/bin/python3", "-P", "-m", "orchestrator_service.cli"], worker="a", shared=Path("/s"))
    assert install_hooks(path, other)
    groups = json.loads(path.read_text())["hooks"]["PreToolUse"]
    assert [entry["command"] for group in groups for entry in group["hooks"]] == [other]


def test_a_persons_own_hooks_stay(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"hooks": {"PreToolUse": [OWN], "Other": [OWN]}}))
    install_hooks(path, COMMAND)
    assert json.loads(path.read_text())["hooks"]["PreToolUse"][0] == OWN
    uninstall_hooks(path)
    assert json.loads(path.read_text()) == {"hooks": {"PreToolUse": [OWN], "Other": [OWN]}}


@pytest.mark.parametrize(
    "text",
    ['{"a": ', "[]", "7", '{"hooks": []}', '{"hooks": {"Stop": {}}}', '{"a": 1, "a": 2}', "// comment\n{}"],
)
def test_a_file_that_is_broken_is_refused_and_untouched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(SettingsFileError) as refusal:
        install_hooks(path, COMMAND)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "settings.json"
    real.write_text("{}")
    link.symlink_to(real)
    install_hooks(link, COMMAND)
    assert link.is_symlink() and "hooks" in json.loads(real.read_text())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "hooks"), _JSON, max_size=4))
def test_what_is_not_ours_means_the_same_afterwards(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("s") / "settings.json"
    path.write_text(json.dumps(settings, indent=2))
    before = path.read_text()
    install_hooks(path, COMMAND)
    assert {key: value for key, value in json.loads(path.read_text()).items() if key != "hooks"} == settings
    uninstall_hooks(path)
    assert json.loads(path.read_text()) == settings == json.loads(before)
    assert list(json.loads(path.read_text())) == list(settings)
