"""What the tests of the orchestrator's transports share: ears that keep what they hear, and results to be heard of."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Event, Heartbeat, Result, TaskStatus, WorkerStatus, encode_result, utc_now
from agent_bus.questions import Question
from agent_bus.result_notices import ResultNotices
from orchestrator_service.transports.base import Dispatch, HeardResult, JournalLine
from tests.waiting import async_wait_until


@dataclass
class KeepingEars:
    """Keeps everything; a result counts as stored at once unless `stores` is off."""

    stores: bool = True
    results: list[HeardResult] = field(default_factory=list)
    broken: list[tuple[str, str, str, str]] = field(default_factory=list)
    started: list[tuple[str, str, str]] = field(default_factory=list)
    beats: list[tuple[str, Heartbeat]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    on_result: Callable[[HeardResult], None] | None = None

    def hear_result(self, heard: HeardResult) -> None:
        self.results.append(heard)
        if self.on_result is not None:
            self.on_result(heard)
        if self.stores and heard.on_stored is not None:
            heard.on_stored()

    def hear_broken_result(self, transport: str, worker: str, wire_id: str, reason: str) -> None:
        self.broken.append((transport, worker, wire_id, reason))

    def hear_started(self, transport: str, worker: str, wire_id: str) -> None:
        self.started.append((transport, worker, wire_id))

    def hear_heartbeat(self, transport: str, beat: Heartbeat) -> None:
        self.beats.append((transport, beat))

    def hear_event(self, transport: str, event: Event) -> None:
        self.events.append(event)

    def hear_question(self, transport: str, question: Question) -> None:
        self.questions.append(question)

    @property
    def ids(self) -> list[str]:
        """The ids of the results, in the order in which they were heard."""
        return [heard.result.task_id for heard in self.results]

    async def result(self, task_id: str) -> Result:
        """Wait until a result is heard."""

        def find() -> Result | None:
            return next((heard.result for heard in self.results if heard.result.task_id == task_id), None)

        return await async_wait_until(find, what=f"result of {task_id}")


def dispatch(task_id: str, description: str = "hello", *, transport: str = "file", **fields: Any) -> Dispatch:
    """Return a task on its way to marie."""
    body = json.dumps({"task_id": task_id, "description": description, **fields}).encode()
    return Dispatch(wire_id=task_id, worker="marie", transport=transport, body=body)


def made_result(task_id: str, output: str = "done", worker: str = "marie") -> Result:
    """Return a result as a worker would write it."""
    now = utc_now()
    return Result(
        task_id=task_id,
        worker=worker,
        instance=f"{worker}-1",
        status=TaskStatus.COMPLETED,
        output=output,
        completed_at=now,
        timestamp=now,
    )


def put_result(layout: WorkerLayout, task_id: str, output: str = "done", *, worker: str = "marie") -> Path:
    """Rename a result into place, without a notice."""
    return put(layout.result(task_id), encode_result(made_result(task_id, output, worker)))


def put(path: Path, body: bytes) -> Path:
    """Rename a file into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".{path.name}.{os.urandom(4).hex()}"
    staged.write_bytes(body)
    staged.rename(path)
    return path


def notify(layout: WorkerLayout, task_id: str, worker: str = "marie") -> None:
    """Tell the orchestrator of a result as a worker does."""
    notices = ResultNotices(layout.orchestrator_triggers, worker=worker, instance=f"{worker}-1")
    notices.tell(task_id, TaskStatus.COMPLETED, str(layout.result(task_id)))


def made_beat(worker: str = "marie", **fields: Any) -> Heartbeat:
    """Return a fresh heartbeat."""
    values: dict[str, Any] = {
        "worker": worker,
        "instance": f"{worker}-1",
        "timestamp": utc_now(),
        "status": WorkerStatus.IDLE,
        "mode": "hybrid",
        "pid": 1,
        "version": "1",
    }
    return Heartbeat(**{**values, **fields})


async def take(lines: AsyncIterator[JournalLine], count: int) -> list[JournalLine]:
    """Return the next lines."""
    return [await anext(lines) for _ in range(count)]
