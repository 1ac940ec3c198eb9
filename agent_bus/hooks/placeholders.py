"""`${name}` in the paths, payloads and formats of hook rules.

Values are put into the parsed structure, never into its text: a payload stays what it is, whatever a tool was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from agent_bus.hooks.events import HookEvent

_VALUES: Final[Mapping[str, Callable[[HookEvent], str | None]]] = {
    "timestamp": lambda event: event.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    "tool_name": lambda event: event.tool_name,
    "tool_args": lambda event: event.tool_args,
    "error": lambda event: event.error,
    "file_path": lambda event: event.file_path,
    "worker": lambda event: event.worker,
    "task_id": lambda event: event.task_id,
    "session_id": lambda event: event.session_id,
    "event": lambda event: event.hook,
    "prompt": lambda event: event.prompt,
    "message": lambda event: event.message,
}

PLACEHOLDERS: Final = tuple(_VALUES)
"""Every name that a rule may use."""

_PLACEHOLDER: Final = re.compile(r"\$\{([^{}]*)\}")
_LONGEST_VALUE: Final = 10_000
_LONGEST_IN_PATH: Final = 100


def unknown_placeholders(template: object) -> Iterator[str]:
    """Yield the names in a text, or in the texts of a JSON value, that are no placeholders."""
    if isinstance(template, str):
        for match in _PLACEHOLDER.finditer(template):
            if match[1] not in _VALUES:
                yield match[1]
    elif isinstance(template, dict):
        for value in template.values():
            yield from unknown_placeholders(value)
    elif isinstance(template, list):
        for value in template:
            yield from unknown_placeholders(value)


def _value(name: str, event: HookEvent) -> str:
    return (_VALUES[name](event) or "")[:_LONGEST_VALUE]


def fill(template: Any, event: HookEvent) -> Any:
    """Return a copy of the JSON value with the placeholders in its texts filled in."""
    if isinstance(template, str):
        return _PLACEHOLDER.sub(lambda match: _value(match[1], event), template)
    if isinstance(template, dict):
        return {key: fill(value, event) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, event) for value in template]
    return template


def fill_line(template: str, event: HookEvent) -> str:
    """Fill in a line of a log; no value can begin another line, nor write to a terminal."""

    def one_line(match: re.Match[str]) -> str:
        value = _value(match[1], event)
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)

    return _PLACEHOLDER.sub(one_line, template)


def fill_path(template: str, event: HookEvent) -> str:
    """Fill in a path; a value is a part of a file's name and can name no other directory."""

    def harmless(match: re.Match[str]) -> str:
        value = re.sub(r"[^A-Za-z0-9._-]+", "-", _value(match[1], event))[:_LONGEST_IN_PATH].strip(".-")
        return value or "none"

    return _PLACEHOLDER.sub(harmless, template)


def without_placeholders(template: str) -> str:
    """Return the path as if each value were `x`."""
    return _PLACEHOLDER.sub("x", template)
