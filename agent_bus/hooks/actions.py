"""Carries out hook rules: writes the triggers and the log lines of what happens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agent_bus.files import write_atomic
from agent_bus.hooks.bounded_pattern import PatternTooSlow
from agent_bus.hooks.events import HookEvent
from agent_bus.hooks.placeholders import fill, fill_line, fill_path
from agent_bus.hooks.rules import ActionType, Places, Rule, RuleError, load_rules
from agent_bus.logs import SharedRotatingFile

log = logging.getLogger(__name__)

_SLOW_ALLOWED: Final = 3
"""A pattern that was too slow so often is set aside until the rules are read again: each search costs the worker."""


def _nothing(rule: str) -> None:
    return None


class RuleBook:
    """The rules of one worker, and what they do. One instance is used by one thread, the main one."""

    def __init__(self, path: Path, places: Places, *, on_failure: Callable[[str], None] = _nothing) -> None:
        """Go by the rules of the file `path`; none until `reload`.

        Args:
            path: The file; it need not exist.
            places: Where rules may write.
            on_failure: Told the name of a rule that could not be carried out.
        """
        self._path = path
        self._places = places
        self.on_failure = on_failure
        self._rules: list[Rule] = []
        self._slow: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The names of the rules in force."""
        return [rule.name for rule in self._rules]

    def reload(self) -> None:
        """Read the rules again.

        Raises:
            RuleError: the file is wrong; the rules that were in force stay.
        """
        self._rules = load_rules(self._path, self._places)
        self._slow = {}

    def apply(self, event: HookEvent) -> int:
        """Carry out every rule that the event is for; returns how many did something.

        A rule that fails is told to `on_failure` and to the log, and does not keep the next one from its work.
        """
        done = 0
        for rule in self._rules:
            if self._slow.get(rule.name, 0) >= _SLOW_ALLOWED:
                continue
            try:
                if rule.applies_to(event):
                    self._carry_out(rule, event)
                    done += 1
            except PatternTooSlow:
                self._too_slow(rule)
            except (OSError, ValueError) as error:
                self._failed(rule, getattr(error, "strerror", None) or str(error))
        return done

    def _too_slow(self, rule: Rule) -> None:
        self._slow[rule.name] = self._slow.get(rule.name, 0) + 1
        last = self._slow[rule.name] >= _SLOW_ALLOWED
        self._failed(rule, "its pattern takes too long" + ("; it is set aside until the next reload" if last else ""))

    def _failed(self, rule: Rule, reason: str) -> None:
        log.warning(
            "hook rule %s failed: %s", rule.name, reason, extra={"action": "hook_rule_failed", "rule": rule.name}
        )
        self.on_failure(rule.name)

    def _carry_out(self, rule: Rule, event: HookEvent) -> None:
        try:
            # Looked at again: a link may have been put there since the rules were read.
            path = self._places.resolve(fill_path(rule.path, event))
        except ValueError as error:
            raise ValueError("its path leads out of SHARED_DIR and LOG_DIR") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        if rule.action is ActionType.TRIGGER:
            write_atomic(path, _body(rule, event))
        else:
            _append(path, fill_line(rule.format, event))


def _body(rule: Rule, event: HookEvent) -> bytes:
    payload: Any = fill(rule.payload, event) if rule.payload is not None else _whole(rule, event)
    if isinstance(payload, str):
        return payload.encode("utf-8", "backslashreplace")
    # ASCII alone: half a character in a tool's input must not cost the trigger.
    return json.dumps(payload).encode()


def _whole(rule: Rule, event: HookEvent) -> dict[str, Any]:
    return {
        "event": event.hook,
        "rule": rule.name,
        "worker": event.worker,
        "task_id": event.task_id,
        "timestamp": event.timestamp.isoformat(),
        **event.data(),
    }


def _append(path: Path, line: str) -> None:
    if path.exists() and not path.is_file():
        # Opening a FIFO would wait for its reader.
        raise ValueError("its path is no plain file")
    file = SharedRotatingFile(path)
    try:
        file.emit(logging.makeLogRecord({"msg": "%s", "args": (line,)}))
    finally:
        file.close()
    if file.lost_lines:
        raise ValueError(f"{path} cannot be written")


__all__ = ["RuleBook", "RuleError"]
