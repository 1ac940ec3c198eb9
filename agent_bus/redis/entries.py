"""What an entry of the task stream means: a task to run, or a refusal with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from agent_bus.errors import DeadLetterReason, TriggerRejected
from agent_bus.messages import is_task_id
from agent_bus.queue import Claim
from agent_bus.trigger_reader import TaskBody, make_task, read_body

_LARGEST_PEEKED_FACTOR: Final = 16
"""An entry that is too large is still read for its id, unless it is larger than the limit by this factor."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that can never become a task."""

    entry: str
    attempt: int
    body: bytes
    """What stood in its field `task`, or all its fields where it has none."""
    refusal: TriggerRejected


def read_taken(item: list[Any], *, worker: str, max_bytes: int) -> Claim | Refused:
    """Turn one of the entries that `turn.lua` handed out into a claim, or say why it is refused."""
    entry = item[0].decode()
    attempt, kind, body = int(item[1]), item[2], item[3]
    try:
        if kind == b"no task":
            body = repr(body).encode()
            raise TriggerRejected(DeadLetterReason.MALFORMED, "it has no field 'task'; add it with XADD … task JSON")
        # The name under which a task without an id goes, and under which its result is found.
        name = f"task-{worker}-{entry}.trigger"
        if len(body) > max_bytes:
            raise TriggerRejected(
                DeadLetterReason.TOO_LARGE,
                f"it has {len(body)} bytes, and MAX_TRIGGER_BYTES allows {max_bytes}",
                task_id=_id_of(body, name, max_bytes),
            )
        if not body.strip():
            raise TriggerRejected(DeadLetterReason.MALFORMED, "its field 'task' is empty; write the task as JSON")
        queued_ms = int(entry.partition("-")[0])
        meaning = read_body(body, name)
        assert isinstance(meaning, TaskBody)
        task = make_task(meaning, name, mtime_ns=queued_ms * 1_000_000, worker=worker)
        if kind == b"duplicate":
            raise TriggerRejected(
                DeadLetterReason.DUPLICATE, f"task {task.task_id} is running, or waiting to be resumed, already"
            )
        if kind == b"answered":
            raise duplicate_of(task.task_id)
    except TriggerRejected as refusal:
        return Refused(entry, attempt, body, refusal)
    notes = json.loads(item[4]) if item[4] else {}
    session_id = notes.get("session_id")
    if session_id is None and item[5]:
        session_id = item[5].decode()
    return Claim(
        task=task,
        attempt=attempt,
        queued_at=datetime.fromtimestamp(min(queued_ms / 1000, 253_402_300_799), UTC),
        token=entry,
        session_id=session_id,
        notes=notes,
        cancelled=bool(item[6]),
        transport="redis",
    )


def duplicate_of(task_id: str) -> TriggerRejected:
    """Return the refusal of a new entry under the id of a task that has its result."""
    return TriggerRejected(
        DeadLetterReason.DUPLICATE,
        f"task {task_id} has its result already; to run it again, hand it in under a new task_id",
    )


def _id_of(body: bytes, name: str, max_bytes: int) -> str | None:
    if len(body) > _LARGEST_PEEKED_FACTOR * max_bytes:
        return None
    try:
        meaning = read_body(body, name)
    except TriggerRejected as refusal:
        return refusal.task_id
    task_id = meaning.fields.get("task_id") if isinstance(meaning, TaskBody) else None
    return task_id if isinstance(task_id, str) and is_task_id(task_id) else None
