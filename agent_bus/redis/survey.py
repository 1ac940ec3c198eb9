"""What Redis tells of a team: who works there, how much waits, where a task is. Asks only, changes nothing.

Every function takes a client without asyncio and lets its errors through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from agent_bus.layout import is_worker_name
from agent_bus.messages import Heartbeat
from agent_bus.redis.keys import DEAD_LETTERS_PREFIX, GROUP, HEARTBEAT_PREFIX, TASKS_PREFIX, WAITING, WorkerKeys

_PAGE: Final = 500
_MOST_SEARCHED: Final = 100_000
"""So many entries of a worker are searched for a task that nobody has taken yet."""
_MOST_RUNNING: Final = 1000
_ENTRY: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class RedisBacklog:
    """How much one worker has in Redis."""

    waiting: int
    """Tasks that nobody runs."""
    dead_letters: int
    running: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The ids of the tasks that each instance holds, oldest first; an entry where the id is not known."""


def find_workers(redis: Any) -> tuple[list[str], list[Heartbeat]]:
    """Return the names of all workers that have left something in Redis, and the heartbeats of those that live."""
    names: set[str] = set()
    beats: list[Heartbeat] = []
    # A scan may tell a key twice.
    for key in set(redis.scan_iter(match="codehornets:*", count=1000)):
        text = key.decode("utf-8", "replace")
        if text.startswith(HEARTBEAT_PREFIX) and (beat := _read_beat(redis, key)) is not None:
            beats.append(beat)
            names.add(beat.worker)
        for prefix in (TASKS_PREFIX, DEAD_LETTERS_PREFIX):
            if text.startswith(prefix):
                names.add(text.removeprefix(prefix))
    known = sorted(name for name in names if is_worker_name(name))
    return known, sorted(beats, key=lambda beat: (beat.worker, beat.instance))


def find_heartbeats(redis: Any, worker: str) -> list[Heartbeat]:
    """Return the heartbeats of the living instances of one worker."""
    keys = set(redis.scan_iter(match=f"{HEARTBEAT_PREFIX}{worker}:*", count=1000))
    beats = [beat for key in keys if (beat := _read_beat(redis, key)) is not None]
    return sorted(beats, key=lambda beat: beat.instance)


def _read_beat(redis: Any, key: bytes) -> Heartbeat | None:
    try:
        return Heartbeat.model_validate_json(redis.get(key) or b"")
    except ValidationError:
        return None


def look_at_queue(redis: Any, worker: str) -> RedisBacklog:
    """Count what a worker has there."""
    keys = WorkerKeys(worker)
    held = {row["name"].decode("utf-8", "replace"): int(row["pending"]) for row in _consumers(redis, keys)}
    held.pop(WAITING, None)
    running: dict[str, tuple[str, ...]] = {}
    if any(held.values()):
        ids = {entry: task_id.decode("utf-8", "replace") for task_id, entry in redis.hgetall(keys.ids).items()}
        for instance in (name for name, count in held.items() if count):
            rows = redis.xpending_range(keys.tasks, GROUP, "-", "+", _MOST_RUNNING, consumername=instance)
            entries = [row["message_id"] for row in rows]
            running[instance] = tuple(ids.get(entry, entry.decode()) for entry in entries)
    waiting = max(0, int(redis.xlen(keys.tasks)) - sum(held.values()))
    return RedisBacklog(waiting, int(redis.xlen(keys.dead_letters)), running)


def find_state(redis: Any, worker: str, task_id: str) -> str | None:
    """Return `waiting` or `running` for a task that this worker has in Redis, and None where it has no such task."""
    keys = WorkerKeys(worker)
    taken = redis.hget(keys.ids, task_id)
    if taken is not None and (state := _state_of(redis, keys, taken)) is not None:
        return state
    made_up = task_id.removeprefix(f"{worker}-")
    if made_up != task_id and _ENTRY.fullmatch(made_up) and redis.xrange(keys.tasks, made_up, made_up):
        return _state_of(redis, keys, made_up) or "waiting"
    for entry, body in _entries(redis, keys):
        if task_id.encode() in body and _id_in(body) == task_id:
            return _state_of(redis, keys, entry) or "waiting"
    return None


def _state_of(redis: Any, keys: WorkerKeys, entry: bytes | str) -> str | None:
    """Return how a pending entry is; None when it is not pending."""
    if not _consumers(redis, keys):
        return None
    rows = redis.xpending_range(keys.tasks, GROUP, entry, entry, 1)
    if not rows:
        return None
    return "waiting" if rows[0]["consumer"] == WAITING.encode() else "running"


def _consumers(redis: Any, keys: WorkerKeys) -> list[dict[str, Any]]:
    from redis.exceptions import ResponseError

    try:
        rows: list[dict[str, Any]] = redis.xinfo_consumers(keys.tasks, GROUP)
    except ResponseError as error:
        # No worker has looked at it yet, or there is no such stream.
        if "NOGROUP" in str(error) or "no such key" in str(error):
            return []
        raise
    return rows


def _entries(redis: Any, keys: WorkerKeys) -> Iterator[tuple[bytes, bytes]]:
    after = "-"
    for _ in range(_MOST_SEARCHED // _PAGE):
        page = redis.xrange(keys.tasks, after, "+", count=_PAGE)
        for entry, fields in page:
            # An entry that was deleted while it was read has no fields.
            yield entry, (fields or {}).get(b"task", b"")
        if len(page) < _PAGE:
            return
        after = f"({page[-1][0].decode()}"


def _id_in(body: bytes) -> object:
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    return fields.get("task_id") if isinstance(fields, dict) else None
