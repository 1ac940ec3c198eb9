"""What a task's events go to: its journal, and whoever listens to the worker."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from agent_bus.events import EventJournal
from agent_bus.messages import Event, Result, utc_now
from agent_bus.queue import Claim
from worker_service.broadcast import Broadcast

log = logging.getLogger(__name__)


class TaskEvents:
    """Writes and broadcasts the events of one run; a disk that is full costs events, never the task."""

    __slots__ = ("_broadcast", "_broken", "_journal", "_task_id", "_worker")

    def __init__(self, worker: str, task_id: str, journals: Path | None, broadcast: Broadcast) -> None:
        """Write to the journal in the directory `journals`; None keeps none."""
        self._worker = worker
        self._task_id = task_id
        self._journal = None if journals is None else EventJournal(journals, worker=worker, task_id=task_id)
        self._broadcast = broadcast
        self._broken = False

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        """Tell of something that the agent did; never raises."""
        record = Event.model_construct(
            event=event, timestamp=utc_now(), worker=self._worker, task_id=self._task_id, data=data
        )
        self._broadcast.relay(record)
        if self._journal is None:
            return
        try:
            self._journal.write(record)
        except (OSError, ValueError) as error:
            if not self._broken:
                log.warning("events cannot be written: %s", error, extra={"action": "events_lost"})
            self._broken = True

    def started(self, claim: Claim, waited_s: float) -> None:
        """Tell the listeners that the agent has the prompt, `waited_s` seconds after the task came."""
        if self._broadcast.has_listeners:
            data = {"attempt": claim.attempt, "waited_seconds": round(waited_s, 6), "title": claim.task.title}
            self._broadcast.publish("task_started", data, self._task_id)

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()


def tell_of_end(broadcast: Broadcast, result: Result) -> None:
    """Tell the listeners how a task ended; its output is in its result."""
    if broadcast.has_listeners:
        data = {
            "status": result.status.value,
            "attempts": result.attempts,
            "duration_seconds": result.duration_seconds,
            "cost_usd": result.cost_usd,
            "cost_is_notional": result.cost_is_notional,
            "error": None if result.error is None else result.error.model_dump(),
        }
        broadcast.publish("task_ended", data, result.task_id)
