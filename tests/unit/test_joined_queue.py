from __future__ import annotations

from collections import deque
from datetime import datetime

import pytest

from agent_bus.errors import BusError, DeadLetterReason
from agent_bus.joined_queue import JoinedQueue
from agent_bus.messages import Result, Task, utc_now
from agent_bus.queue import Claim


class ListQueue:
    """A queue of names that keeps what it was told."""

    def __init__(self, transport: str, *names: str) -> None:
        self.transport = transport
        self.names = deque(names)
        self.calls: list[str] = []
        self.trouble: str | None = None

    async def claim(self) -> Claim | None:
        if self.trouble:
            raise BusError(self.trouble)
        if not self.names:
            return None
        task = Task(task_id=self.names.popleft(), description="x")
        return Claim(task=task, attempt=1, queued_at=utc_now(), token="", transport=self.transport)

    async def extend(self, claim: Claim) -> None:
        self.calls.append("extend")

    async def remember(self, claim: Claim, *, session_id: str | None) -> None:
        self.calls.append("remember")

    async def complete(self, claim: Claim, result: Result) -> bool:
        self.calls.append("complete")
        return True

    async def release(
        self,
        claim: Claim,
        *,
        spend_attempt: bool,
        not_before: datetime | None = None,
        reason: str = "",
        result: Result | None = None,
    ) -> None:
        self.calls.append("release")

    async def bury(self, claim: Claim, reason: DeadLetterReason, message: str, result: Result | None) -> None:
        self.calls.append("bury")

    def depth(self) -> int:
        return len(self.names)


async def names_of(queue: JoinedQueue) -> list[str]:
    found = []
    while (claim := await queue.claim()) is not None:
        found.append(claim.task.task_id)
    return found


async def test_both_are_taken_from_in_turn() -> None:
    queue = JoinedQueue(ListQueue("file", "f1", "f2", "f3"), ListQueue("redis", "r1", "r2"))
    assert queue.depth() == 5
    assert await names_of(queue) == ["f1", "r1", "f2", "r2", "f3"]


async def test_every_call_goes_to_where_the_claim_came_from() -> None:
    file, redis = ListQueue("file"), ListQueue("redis", "r")
    queue = JoinedQueue(file, redis)
    claim = await queue.claim()
    assert claim is not None
    await queue.extend(claim)
    await queue.remember(claim, session_id="c")
    await queue.release(claim, spend_attempt=False)
    await queue.bury(claim, DeadLetterReason.MALFORMED, "", None)
    assert redis.calls == ["extend", "remember", "release", "bury"] and file.calls == []


async def test_trouble_in_one_does_not_hide_the_other() -> None:
    file, redis = ListQueue("file"), ListQueue("redis", "r")
    file.trouble = "the disk is gone"
    queue = JoinedQueue(file, redis)
    claim = await queue.claim()
    assert claim is not None and claim.task.task_id == "r"
    with pytest.raises(BusError, match="the disk is gone"):
        await queue.claim()
