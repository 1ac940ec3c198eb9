"""One step of the scheduler: what it works on, and what is to be done once the ledger has it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator_service.records import StreamEvent, TaskState
from orchestrator_service.scheduling.book import Book
from orchestrator_service.scheduling.routing import FleetView
from orchestrator_service.transports.base import Dispatch


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A dispatch that has not ended, as far as the ledger knows."""

    wire_id: str
    worker: str
    transport: str


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that is in the ledger."""

    seq: int
    task_id: str | None
    worker: str | None
    goal_id: str | None
    data: Mapping[str, Any]
    stream: StreamEvent


@dataclass(slots=True)
class Effects:
    """What is to be done when the step is durable, and not before."""

    dispatches: list[Dispatch] = field(default_factory=list)
    withdrawals: list[OpenRun] = field(default_factory=list)
    """To be taken back if no instance has claimed them."""
    cancels: list[OpenRun] = field(default_factory=list)
    """To be taken back or, where that fails, to be ended by their worker."""
    happenings: list[Happening] = field(default_factory=list)
    wake_at: float | None = None
    """When something is due next, in seconds since 1970."""


@dataclass(slots=True)
class Step:
    """A transaction of the scheduler."""

    connection: sqlite3.Connection
    now: float
    fleet: FleetView
    book: Book
    effects: Effects = field(default_factory=Effects)

    def happened(
        self,
        event: str,
        data: dict[str, Any],
        *,
        task_id: str | None = None,
        worker: str | None = None,
        goal_id: str | None = None,
    ) -> None:
        """Write an event down, and have it told."""
        text = json.dumps(data, ensure_ascii=False, default=str)
        row = self.connection.execute(
            "INSERT INTO events (at, event, task_id, worker, goal_id, data) VALUES (?, ?, ?, ?, ?, ?)",
            (self.now, event, task_id, worker, goal_id, text),
        )
        seq = row.lastrowid or 0
        stream = stream_event(seq, self.now, event, task_id, worker, goal_id, text)
        self.effects.happenings.append(Happening(seq, task_id, worker, goal_id, data, stream))

    def set_state(self, seq: int, lane: str, before: str, after: TaskState) -> None:
        """Keep the counts in step with a task that changes its state; the row itself is the caller's to write."""
        self.book.moved(before, after.value)
        if before == TaskState.READY:
            self.book.lanes[lane] -= 1
        if after is TaskState.READY:
            self.book.lanes[lane] += 1


def stream_event(
    seq: int, at: float, event: str, task_id: str | None, worker: str | None, goal_id: str | None, data: str
) -> StreamEvent:
    """Return an event of the ledger as it is sent; `data` is JSON already."""
    head = {
        "event": event,
        "timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "task_id": task_id,
        "worker": worker,
        "goal_id": goal_id,
    }
    body = f'{json.dumps(head, ensure_ascii=False)[:-1]}, "data": {data}}}'.encode("utf-8", "replace")
    return StreamEvent.model_construct(id=str(seq), event=event, data=body)
