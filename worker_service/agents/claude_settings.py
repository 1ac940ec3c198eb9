"""The settings that every Claude session of a worker is started with: `--settings`, one JSON object.

Claude Code merges it with the settings of the user and of the project: their hooks run beside ours, and their rules
hold beside these. What is denied here nobody else can allow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent_bus.layout import WorkerLayout
from worker_service.agents.claude_command import is_style_file

MACHINERY: Final = (
    "triggers",
    "tasks",
    "results",
    "pipes",
    "heartbeats",
    "gates",
    "events",
    "watcher-logs",
    "hooks-config",
    "questions",
)
"""Directories of the shared directory that no agent has any business in; its workspace may lie beside them."""

_SECRETS: Final = Path("/run/secrets")
"""Where deployments mount secrets as files."""

_FILE_TOOLS: Final = ("Read", "Edit", "Write", "Glob", "Grep")
_WRITING_TOOLS: Final = ("Edit", "Write")


def machinery(layout: WorkerLayout) -> list[Path]:
    """Return the directories that the agents are kept out of, at their real places as well."""
    named = [layout.shared / name for name in MACHINERY]
    own = [
        layout.triggers,
        layout.tasks,
        layout.results,
        layout.pipes,
        layout.heartbeats,
        layout.logs,
        layout.events,
        layout.gates,
        layout.hooks_config,
        layout.orchestrator_triggers,
        layout.questions,
    ]
    found: dict[Path, None] = {}
    for path in (*named, *own):
        for place in (path, Path(os.path.realpath(path))):
            if not any(place.is_relative_to(known) for known in found):
                found[place] = None
    return list(found)


def _places(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each path that is there, and its real place where that is another one.

    With isolation Claude Code would put something in the place of what is not there, which it may not be allowed to.
    """
    for path in paths:
        if path.exists():
            yield from dict.fromkeys((path, Path(os.path.realpath(path))))


def deny_rules(
    layout: WorkerLayout, *, home: str | None, workspace: Path, hook_rules: Path, secrets: Iterable[Path] = ()
) -> Iterator[str]:
    """Yield the permission rules that keep an agent from the worker's machinery, its secrets and its own settings.

    Claude Code holds its file tools to them, and the files that it finds named in a shell command. A program that a
    shell command starts is held to them only with isolation.
    """
    for directory in (*machinery(layout), *_places([_SECRETS])):
        # Two slashes begin an absolute path; one would mean the folder of the settings file.
        yield from (f"{tool}(/{directory}/**)" for tool in _FILE_TOOLS)
    # Claude Code's own login; it reads that itself, not by a tool.
    login = [Path(home) / ".claude" / ".credentials.json"] if home else []
    for file in (hook_rules, *_places([*secrets, *login])):
        yield from (f"{tool}(/{file})" for tool in _FILE_TOOLS)
    folders = [workspace / ".claude", *([Path(home) / ".claude"] if home else [])]
    for folder in folders:
        for name in ("settings.json", "settings.local.json"):
            yield from (f"{tool}(/{folder / name})" for tool in _WRITING_TOOLS)


def session_settings(
    layout: WorkerLayout,
    *,
    environment: Mapping[str, str],
    workspace: Path,
    hook_rules: Path,
    secrets: Iterable[Path] = (),
    style: str | None,
) -> str:
    """Return the JSON for `--settings`.

    Args:
        layout: The directories to be kept out of.
        environment: What the agent sees; its HOME says where the user's settings are.
        workspace: Where the agent works.
        hook_rules: The file of hook rules.
        secrets: Files that hold the worker's secrets.
        style: An output style; the name of one goes here, a file's text into the system prompt.
    """
    home = environment.get("HOME")
    denied = list(deny_rules(layout, home=home, workspace=workspace, hook_rules=hook_rules, secrets=secrets))
    settings: dict[str, Any] = {"permissions": {"deny": denied}}
    if style and not is_style_file(style):
        settings["outputStyle"] = style
    return json.dumps(settings)
