"""The bridge from Claude Code's hooks to everything that wants to know: events, rules, the tool-use log, metrics.

An event is told at once; rules are carried out and the log is written a moment later, when the hook has its answer:
so neither a slow disk nor a slow rule is time that the agent waits.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_bus.events import EventJournal
from agent_bus.hooks.actions import RuleBook, RuleError
from agent_bus.hooks.events import ON_ERROR, HookEvent, Source, read_hook
from agent_bus.hooks.rules import Places
from agent_bus.hooks.tool_use_log import ToolUseLog
from agent_bus.layout import WorkerLayout
from worker_service.metrics import Metrics

log = logging.getLogger(__name__)

Publish = Callable[[str, dict[str, Any], str | None], None]
"""Tells everybody outside of an event; never blocks, never raises."""
Emit = Callable[[str, dict[str, Any]], None]
"""Tells of an event of a task; never blocks, never raises."""

_AFTER_ANSWER_S: Final = 0.002
"""Rules wait this long, so that the answer to the hook is on its way first."""
_MOST_PENDING: Final = 10_000
_SESSION_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,80}")


def _told_to_nobody(event: str, data: dict[str, Any], task_id: str | None) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class HookSettings:
    """What the bridge goes by."""

    worker: str
    layout: WorkerLayout
    rules: Path
    """The file of rules; it need not exist."""
    timeout_s: float = 5.0
    """The longest that a hook may hold up the agent; Claude Code itself keeps to it."""


class HookBridge:
    """Takes the hook events of one worker."""

    def __init__(self, settings: HookSettings, metrics: Metrics, publish: Publish = _told_to_nobody) -> None:
        """Tell `publish` of every event; no rule is in force until `reload`."""
        self.worker = settings.worker
        self.timeout_s = settings.timeout_s
        self._layout = settings.layout
        self._metrics = metrics
        self._publish = publish
        self.rules = RuleBook(
            settings.rules,
            Places(shared=settings.layout.shared, logs=settings.layout.logs),
            on_failure=lambda rule: metrics.hook_rule_failures.labels(settings.worker, rule).inc(),
        )
        self._log = ToolUseLog(settings.layout.tool_use_log(settings.worker), worker=settings.worker)
        self._pending: deque[HookEvent] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def reload(self) -> None:
        """Read the rules again.

        Raises:
            RuleError: the file is wrong; the old rules stay.
        """
        self.rules.reload()
        log.info(
            "%d hook rule(s) in force", len(self.rules.names), extra={"action": "hook_rules", "rules": self.rules.names}
        )

    def take(self, event: HookEvent, emit: Emit | None = None) -> None:
        """Tell of an event; never blocks, never raises.

        Args:
            event: What happened.
            emit: Tells the events of the task that it happened in, to its journal and to everybody; None where it
                happened in no task.
        """
        self._metrics.hook_events.labels(self.worker, event.hook).inc()
        if event.source is Source.STREAM:
            self._metrics.hook_events_filled_in.labels(self.worker, event.hook).inc()
        data = event.data()
        if emit is not None:
            emit("hook", data)
        else:
            self._publish("hook", data, event.task_id)
        if len(self._pending) >= _MOST_PENDING:
            self._metrics.hook_events_dropped.inc()
            return
        self._pending.append(event)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_AFTER_ANSWER_S, self._work)

    def tell_failure(
        self, kind: str, message: str, *, task_id: str, session_id: str | None = None, emit: Emit | None = None
    ) -> None:
        """Tell of a turn that failed, whichever agent it was: the event is `OnError`."""
        event = HookEvent(
            hook=ON_ERROR,
            worker=self.worker,
            task_id=task_id,
            session_id=session_id,
            source=Source.STREAM,
            reason=kind,
            error=message,
        )
        self.take(event, emit)

    def receive(self, hook: str, payload: object) -> None:
        """Take an event of a session outside the pool, as `POST /hooks/{event}` brings it.

        Its events go to a journal of the session's own, `events/NAME/session-ID.jsonl`.

        Raises:
            agent_bus.hooks.events.HookPayloadError: it is no hook's input.
        """
        event = read_hook(payload, worker=self.worker, hook=hook)
        self.take(event)
        if event.session_id is None or not _SESSION_NAME.fullmatch(event.session_id):
            return
        journal = EventJournal(self._layout.events, worker=self.worker, task_id=f"session-{event.session_id}")
        try:
            journal.append("hook", event.data())
        except (OSError, ValueError) as error:
            log.warning("events cannot be written: %s", error, extra={"action": "events_lost"})
        finally:
            journal.close()

    def _work(self) -> None:
        """Carry out what one event asks for, and come back for the next: the loop is not held up by a burst."""
        self._timer = None
        self._carry_out(self._pending.popleft())
        if self._pending:
            self._timer = asyncio.get_running_loop().call_later(0, self._work)

    def _carry_out(self, event: HookEvent) -> None:
        try:
            self._log.note(event)
            self.rules.apply(event)
        except Exception:
            log.exception("a hook event could not be worked on", extra={"action": "hook_failed", "hook": event.hook})

    def flush(self) -> None:
        """Carry out at once all that is waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._pending:
            self._carry_out(self._pending.popleft())

    def close(self) -> None:
        """Carry out what is waiting, and close the log; nothing may come after."""
        self.flush()
        self._log.close()


__all__ = ["Emit", "HookBridge", "HookSettings", "Publish", "RuleError"]
