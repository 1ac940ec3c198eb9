"""Which hook events become a trigger file or a line in a log: the rules of `hooks-config/NAME-hooks.json`.

A file is a list of rules, or an object whose `hooks` is that list. It is checked as a whole when it is read; what is
wrong is told with the file, the rule and the field. docs/hooks.md describes every field.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from agent_bus.errors import BusError
from agent_bus.hooks.bounded_pattern import BoundedPattern
from agent_bus.hooks.events import HOOKS, ON_ERROR, HookEvent, hook_named
from agent_bus.hooks.placeholders import PLACEHOLDERS, unknown_placeholders, without_placeholders

_LONGEST_FILE: Final = 1 << 20
_LONGEST_PATTERN: Final = 2000
_CONDITION_TYPES: Final = {
    "pattern": "pattern",
    "regex": "pattern",
    "match": "pattern",
    "tool_name": "tool_name",
    "tool": "tool_name",
    "toolname": "tool_name",
    "always": "always",
    "any": "always",
}
_ACTION_TYPES: Final = {
    "trigger": "trigger",
    "write_trigger": "trigger",
    "create_trigger": "trigger",
    "log": "log",
    "write_log": "log",
    "append": "log",
}
_USUAL_FORMAT: Final = "${timestamp} ${event} ${tool_name} ${tool_args} ${error}"


class RuleError(BusError):
    """A file of rules is wrong. `problems` has a sentence for each thing that is; the text is the first of them."""

    def __init__(self, problems: list[str]) -> None:
        more = f" ({len(problems) - 1} more: `codehornets doctor` tells all)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(problems)


class ActionType(StrEnum):
    """What a rule does."""

    TRIGGER = "trigger"
    """Rename a file into place."""
    LOG = "log"
    """Append a line to a file."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """The two directories that rules may write below."""

    shared: Path
    """What `/shared` means in a rule."""
    logs: Path
    """What `/var/log` means in a rule."""

    def resolve(self, path: str) -> Path:
        """Return the real place that a rule's path means; symbolic links are followed.

        Raises:
            ValueError: it is neither below `/shared` nor below `/var/log`.
        """
        meant = self._meant(path)
        # The file itself may be a link, too: what it points to is not to be written.
        real = Path(os.path.realpath(meant))
        for root in (self.shared, self.logs):
            top = Path(os.path.realpath(root))
            if real != top and real.is_relative_to(top):
                return real
        raise ValueError(path)

    def _meant(self, path: str) -> str:
        for name, root in (("/shared", self.shared), ("/var/log", self.logs)):
            if path.startswith(name + "/"):
                return os.path.join(root, path[len(name) + 1 :])
        # `join` leaves an absolute path as it is.
        return os.path.join(self.shared, path)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule, checked."""

    name: str
    event: str
    """One of Claude Code's hooks, or `OnError`."""
    action: ActionType
    path: str
    """As it is in the file, placeholders included."""
    description: str = ""
    pattern: BoundedPattern | None = None
    tools: tuple[str, ...] = ()
    """Names of tools, `*` allowed in them; empty means any."""
    payload: Any = None
    """What the trigger holds; None means the event itself."""
    format: str = _USUAL_FORMAT
    """The log's line."""

    def applies_to(self, event: HookEvent) -> bool:
        """Tell whether the event is one that the rule waits for.

        Raises:
            agent_bus.hooks.bounded_pattern.PatternTooSlow: the pattern could not be searched for in time.
        """
        if self.event != event.hook and not (self.event == ON_ERROR and event.is_error):
            return False
        if self.tools and not any(fnmatch.fnmatchcase(event.tool_name or "", tool) for tool in self.tools):
            return False
        return self.pattern is None or self.pattern.is_found_in(event.text)


def load_rules(path: Path, places: Places) -> list[Rule]:
    """Read a file of rules; a file that is not there has none.

    Raises:
        RuleError: it cannot be read, or something in it is wrong.
    """
    try:
        with path.open("rb") as file:
            body = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RuleError([f"{path} cannot be read: {error.strerror}."]) from error
    if len(body) > _LONGEST_FILE:
        raise RuleError([f"{path} is larger than {_LONGEST_FILE >> 20} MiB; a file of rules is a few kilobytes."])
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RuleError([f"{path} is not valid JSON: {error}."]) from error
    entries = content.get("hooks") if isinstance(content, dict) else content
    if isinstance(entries, dict):
        raise RuleError(
            [f"{path}: hooks is an object, as in Claude Code's own settings; here it must be a list of rules."]
        )
    if not isinstance(entries, list):
        raise RuleError([f'{path} holds no rules; it must be a list of rules, or {{"hooks": [rules]}}.'])
    reader = _Reader(path, places)
    rules = [rule for number, entry in enumerate(entries, 1) if (rule := reader.rule(number, entry)) is not None]
    if reader.problems:
        raise RuleError(reader.problems)
    return rules


def check_rules(path: Path, places: Places) -> list[str]:
    """Return a sentence for each thing that is wrong with a file of rules."""
    try:
        load_rules(path, places)
    except RuleError as error:
        return list(error.problems)
    return []


class _Wrong(Exception):
    """The rule is wrong; what and where has been noted."""


class _Reader:
    """Reads the rules of one file and notes all that is wrong."""

    def __init__(self, path: Path, places: Places) -> None:
        self._path = path
        self._places = places
        self._names: set[str] = set()
        self._where = ""
        self.problems: list[str] = []

    def rule(self, number: int, entry: object) -> Rule | None:
        self._where = f"rule {number}"
        before = len(self.problems)
        if not isinstance(entry, dict):
            self._note("", entry, "an object with name, event and action")
            return None
        name = entry.get("name")
        if isinstance(name, str) and name:
            self._where = f"rule {name!r}"
        event = self._tried(lambda: self._event(entry))
        pattern, tools = self._tried(lambda: self._condition(entry.get("condition"))) or (None, ())
        action = self._tried(lambda: self._action(entry))
        description = self._tried(lambda: self._text(entry, "description", ""))
        name = self._tried(lambda: self._text(entry, "name", f"rule {number}"))
        if len(self.problems) > before or event is None or action is None or name is None:
            return None
        return Rule(name=name, event=event, pattern=pattern, tools=tools, description=description or "", **action)

    def _note(self, field: str, value: object, allowed: str) -> None:
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}…"
        at = f"{self._where}, {field}" if field else self._where
        self.problems.append(f"{self._path}: {at} is {shown}; allowed is {allowed}.")

    def _missing(self, field: str, needed: str) -> _Wrong:
        self.problems.append(f"{self._path}: {self._where} has no {field}; it must be {needed}.")
        return _Wrong()

    def _refuse(self, field: str, value: object, allowed: str) -> _Wrong:
        self._note(field, value, allowed)
        return _Wrong()

    @staticmethod
    def _tried(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except _Wrong:
            return None

    def _text(self, table: dict[str, Any], key: str, default: str, *, prefix: str = "") -> str:
        value = table.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._refuse(f"{prefix}{key}", value, "a text")
        return value

    def _event(self, entry: dict[str, Any]) -> str:
        allowed = f"{', '.join(HOOKS)} or {ON_ERROR}"
        value = entry.get("event")
        if value is None:
            raise self._missing("event", allowed)
        event = hook_named(value) if isinstance(value, str) else None
        if event is None:
            raise self._refuse("event", value, allowed)
        return event

    def _condition(self, value: object) -> tuple[BoundedPattern | None, tuple[str, ...]]:
        if value is None or value == {}:
            return None, ()
        if not isinstance(value, dict):
            raise self._refuse("condition", value, "an object with type pattern or tool_name")
        written = value.get("type")
        if written is None:
            written = next((key for key in ("pattern", "tool_name", "tool", "tools") if key in value), None)
            written = "tool_name" if written in ("tool", "tools") else written
        meant = _CONDITION_TYPES.get(written.lower()) if isinstance(written, str) else None
        match meant:
            case "pattern":
                return self._pattern(value), ()
            case "tool_name":
                return None, self._tools(value)
            case "always":
                return None, ()
        raise self._refuse("condition.type", written, "pattern or tool_name")

    @staticmethod
    def _first(table: dict[str, Any], *keys: str) -> tuple[str, Any]:
        return next(((key, table[key]) for key in keys if table.get(key) is not None), (keys[0], None))

    def _pattern(self, condition: dict[str, Any]) -> BoundedPattern:
        key, text = self._first(condition, "pattern", "value", "regex", "match")
        if text is None:
            raise self._missing("condition.pattern", "a regular expression")
        if not isinstance(text, str) or not text or len(text) > _LONGEST_PATTERN:
            raise self._refuse(f"condition.{key}", text, f"a regular expression of 1 to {_LONGEST_PATTERN} characters")
        ignore_case = condition.get("ignore_case", "i" in str(condition.get("flags") or ""))
        if not isinstance(ignore_case, bool):
            raise self._refuse("condition.ignore_case", ignore_case, "true or false")
        try:
            return BoundedPattern(text, ignore_case=ignore_case)
        except ValueError as error:
            raise self._refuse(f"condition.{key}", text, f"a regular expression ({error})") from error

    def _tools(self, condition: dict[str, Any]) -> tuple[str, ...]:
        key, value = self._first(condition, "tool_name", "value", "tools", "tool", "name", "names", "pattern")
        if value is None:
            raise self._missing("condition.tool_name", "the name of a tool, or a list of names")
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise self._refuse(f"condition.{key}", value, "the name of a tool, or a list of names")
        return tuple(part.strip() for name in names for part in re.split(r"[|,]", name) if part.strip())

    def _action(self, entry: dict[str, Any]) -> dict[str, Any]:
        action = entry.get("action")
        if action is None:
            raise self._missing("action", "an object with type trigger or log, and a path")
        if not isinstance(action, dict):
            raise self._refuse("action", action, "an object with type trigger or log, and a path")
        written = action.get("type")
        known = _ACTION_TYPES.get(written.lower()) if isinstance(written, str) else None
        if known is None:
            raise self._refuse("action.type", written, "trigger or log")
        found: dict[str, Any] = {"action": ActionType(known), "path": self._place(action)}
        if action.get("payload") is not None:
            found["payload"] = self._payload(action["payload"])
        if action.get("format") is not None:
            found["format"] = self._format(action["format"])
        return found

    def _place(self, action: dict[str, Any]) -> str:
        allowed = "a file below /shared (SHARED_DIR) or /var/log (LOG_DIR)"
        value = action.get("path")
        if value is None:
            raise self._missing("action.path", allowed)
        if not isinstance(value, str) or not value or "\0" in value or value.endswith(("/", "/.", "/..")):
            raise self._refuse("action.path", value, allowed)
        self._known_placeholders("action.path", value)
        try:
            self._places.resolve(without_placeholders(value))
        except (ValueError, OSError) as error:
            raise self._refuse("action.path", value, allowed) from error
        return value

    def _payload(self, value: object) -> Any:
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            # JSON in a text: filled in as JSON, so that it stays JSON.
            with suppress(ValueError):
                value = json.loads(value)
        if not isinstance(value, dict | list | str):
            raise self._refuse("action.payload", value, "an object or a text")
        self._known_placeholders("action.payload", value)
        return value

    def _format(self, value: object) -> str:
        if not isinstance(value, str):
            raise self._refuse("action.format", value, "a text")
        self._known_placeholders("action.format", value)
        return value.rstrip("\n")

    def _known_placeholders(self, field: str, template: object) -> None:
        for name in unknown_placeholders(template):
            raise self._refuse(field, f"${{{name}}}", ", ".join(f"${{{known}}}" for known in PLACEHOLDERS))
