"""What Claude Code's hooks tell, as one record: read from the JSON that a hook is given, written as an event's data.

Light to import: `codehornets hook` is a process of its own for each event, and most of its time is what it imports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from agent_bus.errors import BusError

HOOKS: Final = (
    "UserPromptSubmit",
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "Notification",
    "Stop",
    "SubagentStop",
    "SessionStart",
    "SessionEnd",
)
"""The hooks of Claude Code that become events."""

ON_ERROR: Final = "OnError"
"""Not one of Claude Code's: any turn that failed; in a rule, any tool that failed as well."""

TOOL_HOOKS: Final = frozenset(("PreToolUse", "PostToolUse", "PostToolUseFailure"))

_LONGEST_TEXT: Final = 2000
_LONGEST_ARGS: Final = 10_000
_OLDER_NAMES: Final = {
    "error": ON_ERROR,
    "failure": ON_ERROR,
    "failed": ON_ERROR,
    "taskerror": ON_ERROR,
    "taskfailed": ON_ERROR,
    "prompt": "UserPromptSubmit",
    "userprompt": "UserPromptSubmit",
    "promptsubmit": "UserPromptSubmit",
    "beforetool": "PreToolUse",
    "beforetooluse": "PreToolUse",
    "toolstart": "PreToolUse",
    "tooluse": "PostToolUse",
    "aftertool": "PostToolUse",
    "aftertooluse": "PostToolUse",
    "toolend": "PostToolUse",
    "toolerror": "PostToolUseFailure",
    "toolfailure": "PostToolUseFailure",
    "toolusefailure": "PostToolUseFailure",
    "notify": "Notification",
    "complete": "Stop",
    "taskcomplete": "Stop",
    "taskcompleted": "Stop",
    "subagentcomplete": "SubagentStop",
    "start": "SessionStart",
    "end": "SessionEnd",
}


def hook_named(text: str) -> str | None:
    """Return the hook (or `OnError`) that a name in a rule means, older spellings included; None for an unknown one."""
    word = re.sub(r"[^a-z]", "", text.lower())
    known = {name.lower(): name for name in (*HOOKS, ON_ERROR)} | _OLDER_NAMES
    return known.get(word) or known.get(word.removeprefix("on"))


class HookPayloadError(BusError):
    """What came as a hook's JSON is none; the text is one sentence."""


class Source(StrEnum):
    """How an event became known."""

    HOOK = "hook"
    """Claude Code ran the hook."""
    STREAM = "stream"
    """No hook came; it is filled in from the session's own messages or from its process."""


@dataclass(frozen=True, kw_only=True)
class HookEvent:
    """One thing that happened in a Claude session."""

    hook: str
    """One of `HOOKS`, or `OnError`."""
    worker: str
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    task_id: str | None = None
    session_id: str | None = None
    source: Source = Source.HOOK
    tool_name: str | None = None
    tool_use_id: str | None = None
    tool_input: Mapping[str, Any] = field(default_factory=dict)
    tool_output: str = ""
    """What the tool answered, as text."""
    prompt: str = ""
    message: str = ""
    """What a notification says, or the agent's last message."""
    error: str = ""
    reason: str = ""
    """Why a session began or ended: `startup`, `clear`, `resume`, `other`, …"""
    cwd: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether a rule for `OnError` means it."""
        return self.hook in (ON_ERROR, "PostToolUseFailure")

    @property
    def file_path(self) -> str:
        """The file that the tool is about, or an empty text."""
        for key in ("file_path", "notebook_path", "path"):
            if isinstance(value := self.tool_input.get(key), str):
                return value
        return ""

    @property
    def tool_args(self) -> str:
        """The tool's input as JSON on one line, cut at 10,000 characters."""
        if not self.tool_input:
            return ""
        return shortened(json.dumps(self.tool_input, ensure_ascii=False, default=str), _LONGEST_ARGS)

    @property
    def text(self) -> str:
        """What a rule's pattern looks at: the texts of the event, a line each, without JSON around them."""
        parts = [*_texts(self.tool_input), self.prompt, self.message, self.error, self.tool_output]
        return "\n".join(part for part in parts if part)

    def data(self) -> dict[str, Any]:
        """Return the data of its Event; what is long is shortened, what is empty is left out."""
        fields: dict[str, Any] = {
            "hook": self.hook,
            "source": self.source.value,
            "session_id": self.session_id,
            "tool_name": self.tool_name,
            "tool_use_id": self.tool_use_id,
            "tool_input": {key: _shortened_value(value) for key, value in self.tool_input.items()},
            "tool_output": shortened(self.tool_output),
            "prompt": shortened(self.prompt),
            "message": shortened(self.message),
            "error": shortened(self.error),
            "reason": self.reason,
            "cwd": self.cwd,
        }
        return {key: value for key, value in fields.items() if value}


def read_hook(
    payload: object, *, worker: str, task_id: str | None = None, hook: str | None = None, source: Source = Source.HOOK
) -> HookEvent:
    """Turn the JSON that Claude Code gives a hook into a record.

    Args:
        payload: The decoded JSON.
        worker: Whose session it is.
        task_id: The task that runs in it, if any.
        hook: The hook's name where it is known from elsewhere; None takes `hook_event_name`.
        source: How it became known.

    Raises:
        HookPayloadError: it is no object, or names no known hook.
    """
    if not isinstance(payload, dict):
        raise HookPayloadError("A hook's input must be a JSON object.")
    name = hook or payload.get("hook_event_name")
    if name not in (*HOOKS, ON_ERROR):
        raise HookPayloadError(f"hook_event_name is {_shown(name)}; known are {', '.join(HOOKS)}.")
    tool_input = payload.get("tool_input")
    return HookEvent(
        hook=str(name),
        worker=worker,
        task_id=task_id,
        source=source,
        session_id=_text_or_none(payload.get("session_id")),
        tool_name=_text_or_none(payload.get("tool_name")),
        tool_use_id=_text_or_none(payload.get("tool_use_id")),
        tool_input=tool_input if isinstance(tool_input, dict) else {},
        tool_output="\n".join(_texts(payload.get("tool_response"))),
        prompt=_text_or_none(payload.get("prompt")) or "",
        message=_text_or_none(payload.get("message")) or _text_or_none(payload.get("last_assistant_message")) or "",
        error=_text_or_none(payload.get("error")) or "",
        reason=_text_or_none(payload.get("reason")) or _text_or_none(payload.get("source")) or "",
        cwd=_text_or_none(payload.get("cwd")),
    )


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object, depth: int = 0) -> list[str]:
    """Return the texts in a JSON value, in order; what is nested deeper than anything sensible is left out."""
    if isinstance(value, str):
        return [value]
    if depth > 8:
        return []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, depth + 1)]
    return []


def _shortened_value(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return value if len(text) <= _LONGEST_TEXT else shortened(text)
    return value


def shortened(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Return the text, cut where it is longer than that."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
