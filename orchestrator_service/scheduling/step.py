"""One step of the scheduler: what it works on, and what is to be done once the ledger has it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

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


@dataclass(slots=True)
class Happening:
    """An event that is in the ledger."""

    seq: int
    at: float
    event: str
    task_id: str | None
    worker: str | None
    goal_id: str | None
    text: str
    """Its data as JSON."""
    _data: Mapping[str, Any] | None = None
    _stream: StreamEvent | None = None

    @property
    def data(self) -> Mapping[str, Any]:
        """What it tells beside who and when."""
        if self._data is None:
            self._data = json.loads(self.text)
        return self._data

    @property
    def stream(self) -> StreamEvent:
        """The event as it is sent: encoded when the first one wants it, once for all."""
        if self._stream is None:
            head = {
                "event": self.event,
                "timestamp": datetime.fromtimestamp(self.at, UTC),
                "task_id": self.task_id,
                "worker": self.worker,
                "goal_id": self.goal_id,
            }
            body = encode(head)[:-1] + f',"data":{self.text}}}'
            self._stream = StreamEvent(id=str(self.seq), event=self.event, data=body.encode("utf-8", "replace"))
        return self._stream


@dataclass(slots=True)
class Effects:
    """What is to be done when the step is durable, and not before."""

    dispatches: list[Dispatch] = field(default_factory=list)
    withdrawals: list[OpenRun] = field(default_factory=list)
    """To be taken back if no instance has claimed them."""
    cancels: list[OpenRun] = field(default_factory=list)
    """To be taken back or, where that fails, to be ended by their worker."""
    happenings: list[Happening] = field(default_factory=list)
    more_to_plan: bool = False
    """Whether more could be sent than one step sends."""
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
        text = encode(data)
        row = self.connection.execute(
            "INSERT INTO events (at, event, task_id, worker, goal_id, data) VALUES (?, ?, ?, ?, ?, ?)",
            (self.now, event, task_id, worker, goal_id, text),
        )
        self.effects.happenings.append(
            Happening(row.lastrowid or 0, self.now, event, task_id, worker, goal_id, text, data)
        )

    def set_state(self, seq: int, lane: str, before: str | None, after: TaskState) -> None:
        """Keep the counts in step with a task that changes its state; the row itself is the caller's to write."""
        self.book.moved(before, after.value)
        if before == TaskState.READY:
            self.book.lanes[lane] -= 1
        if after is TaskState.READY:
            self.book.lanes[lane] += 1


def encode(data: Mapping[str, Any]) -> str:
    """Return JSON; what JSON cannot hold (half a character, an odd object) becomes text of some kind."""
    try:
        return to_json(data).decode()
    except ValueError:
        return json.dumps(data, default=str)
