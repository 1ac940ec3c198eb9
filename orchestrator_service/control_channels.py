"""Telling workers on any host what to do, by Redis, and hearing what each of them answers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from agent_bus.commands import Command
from agent_bus.redis.client import RedisClient


@dataclass
class Answers:
    """What came of a command that was sent by Redis."""

    heard: int | None
    """How many instances heard it; None where Redis cannot tell, as in a cluster."""
    found: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The worker and the data of each answer, in the order in which they came."""


def tell_by_redis(client: RedisClient, worker: str | None, command: Command, *, within_s: float) -> Answers:
    """Send the command to all instances of a worker, or of all workers, and collect their answers.

    Waits until everybody who heard it has answered, for `within_s` seconds at most; in a cluster until the first
    answer of a worker, or for all of that time when all workers are asked.

    Raises:
        agent_bus.errors.QueueUnavailable: Redis cannot be used.
    """
    deadline = time.monotonic() + within_s
    with client.listen(worker) as subscription:
        heard = client.control(worker, json.loads(command.encode()))
        answers = Answers(heard if client.counts_listeners else None)
        expected = answers.heard if answers.heard is not None else (float("inf") if worker is None else 1)
        while len(answers.found) < expected and (left := deadline - time.monotonic()) > 0:
            told = subscription.next(left)
            if told is not None and (data := _answer_in(told[1], command)) is not None:
                answers.found.append((told[0], data))
    return answers


def _answer_in(line: bytes, command: Command) -> dict[str, Any] | None:
    if command.id is None or command.id.encode() not in line:
        return None
    try:
        event = json.loads(line)
        data = event["data"] if event["event"] == "answer" else {}
    except (ValueError, TypeError, KeyError):
        return None
    return data if isinstance(data, dict) and data.get("id") == command.id else None
