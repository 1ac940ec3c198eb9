"""The Claude Code command line: which program, and with which flags. Knows nothing of processes or the SDK."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent_bus.messages import Task
from worker_service.settings import ClaudeSettings

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def find_cli(settings: ClaudeSettings, environment: Mapping[str, str]) -> Path | None:
    """Return the program: the one that is set, else the one in the SDK's wheel, else `claude` on the PATH."""
    if settings.cli is not None:
        return settings.cli
    # The SDK is not imported for this: that takes most of a second.
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bundled" / "claude"
        if bundled.is_file():
            return bundled
    found = shutil.which("claude", path=environment.get("PATH", os.defpath))
    return None if found is None else Path(found)


@dataclass(frozen=True)
class Profile:
    """What a Claude process is started for. Tasks of the same profile can be served by the same process.

    All of these are flags of the start: turns, budget and schema cannot be changed in a living process.
    """

    workspace: Path
    model: str | None = None
    allowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    max_budget_usd: float | None = None
    output_schema: str | None = None
    """The JSON text of the schema."""


def usual_profile(settings: ClaudeSettings, workspace: Path) -> Profile:
    """Return the profile of a task that asks for nothing special; warm processes have this one."""
    return Profile(
        workspace=workspace,
        model=settings.model,
        allowed_tools=settings.allowed_tools,
        max_turns=settings.max_turns,
        max_budget_usd=settings.max_budget_usd,
    )


def profile_of(task: Task, usual: Profile, spent_usd: float = 0.0) -> Profile:
    """Return the profile that the task needs; equal to `usual` where it asks for nothing else.

    Args:
        task: The task.
        usual: The profile of one that asks for nothing.
        spent_usd: What earlier attempts at it have cost. A process holds only what it spends itself against its budget.
    """
    budget_usd = task.max_budget_usd if task.max_budget_usd is not None else usual.max_budget_usd
    return Profile(
        workspace=Path(task.workspace) if task.workspace is not None else usual.workspace,
        model=task.model if task.model is not None else usual.model,
        allowed_tools=tuple(task.allowed_tools) if task.allowed_tools is not None else usual.allowed_tools,
        max_turns=task.max_turns if task.max_turns is not None else usual.max_turns,
        max_budget_usd=None if budget_usd is None else budget_usd - spent_usd,
        output_schema=None if task.output_schema is None else json.dumps(task.output_schema, sort_keys=True),
    )


def is_style_file(style: str) -> bool:
    """Tell whether an output style is given as the path of a file, rather than by its name."""
    return Path(style).suffix == ".md" or "/" in style


def style_flags(style: str | None) -> list[str]:
    """Return the flags that put the text of a style file into the system prompt; none where there is no file.

    Raises:
        OSError: the file cannot be read.
    """
    if not style or not is_style_file(style):
        return []
    return ["--append-system-prompt", _FRONT_MATTER.sub("", Path(style).read_text()).strip()]


def command_line(
    cli: Path,
    settings: ClaudeSettings,
    profile: Profile,
    *,
    session_id: str,
    resume: bool,
    style: list[str],
    session_settings: str,
    isolated: bool = False,
    tells_progress: bool = False,
    asks: bool = False,
) -> list[str]:
    """Return the whole command.

    Args:
        cli: The program.
        settings: What all sessions of the worker have in common.
        profile: What this one is for.
        session_id: The new conversation's, or with `resume` the one to go on in.
        resume: Whether to go on in a conversation.
        style: From `style_flags`.
        session_settings: JSON for `--settings`.
        isolated: Whether shell commands run isolated. Claude Code then forces the permission mode `default`; that
            edits in the workspace need no permission, which `acceptEdits` means, is said by a rule instead.
        tells_progress: Whether it shows a message while the model writes it: else a long one looks like silence.
        asks: Whether what the rules leave open is asked over the process's own pipes; else Claude Code denies it.
    """
    command = [str(cli), "--output-format", "stream-json", "--verbose", "--input-format", "stream-json"]
    if tells_progress:
        command.append("--include-partial-messages")
    # One word for flag and value: no value can then be taken for a flag.
    command.append(f"--resume={session_id}" if resume else f"--session-id={session_id}")
    command.append(f"--permission-mode={settings.permission_mode}")
    command.append(f"--settings={session_settings}")
    if asks:
        command.append("--permission-prompt-tool=stdio")
    allowed = profile.allowed_tools
    if isolated and settings.permission_mode == "acceptEdits":
        allowed = (*allowed, f"Edit(/{profile.workspace.absolute()}/**)")
    if allowed:
        command.append(f"--allowedTools={','.join(allowed)}")
    if profile.model is not None:
        command.append(f"--model={profile.model}")
    if profile.max_turns is not None:
        command.append(f"--max-turns={profile.max_turns}")
    if profile.max_budget_usd is not None:
        command.append(f"--max-budget-usd={profile.max_budget_usd}")
    if profile.output_schema is not None:
        command.append(f"--json-schema={profile.output_schema}")
    return command + style
