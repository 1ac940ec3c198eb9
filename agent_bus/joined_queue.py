"""Two queues as one: a directory and Redis, taken from in turn, so that neither starves the other."""

from __future__ import annotations

from datetime import datetime

from agent_bus.errors import BusError, DeadLetterReason
from agent_bus.messages import Result
from agent_bus.queue import Claim, Queue


class JoinedQueue:
    """Claims from both; everything else goes to the queue that the claim came from.

    A claim on Redis comes back empty-handed when Redis is slow, so the directory never waits for it for long.
    """

    def __init__(self, file_queue: Queue, redis_queue: Queue) -> None:
        """Join them; whoever made them still runs and closes them."""
        self._file = file_queue
        self._redis = redis_queue
        self._redis_first = False

    async def claim(self) -> Claim | None:
        """Take the next task of the queue whose turn it is, or else of the other one.

        Priorities hold within each queue. Trouble in one is told only when the other has nothing.

        Raises:
            BusError: a task could not be claimed, and there is no other.
        """
        first, second = (self._redis, self._file) if self._redis_first else (self._file, self._redis)
        trouble: BusError | None = None
        for queue in (first, second):
            try:
                claim = await queue.claim()
            except BusError as error:
                trouble = trouble or error
                continue
            if claim is not None:
                self._redis_first = queue is self._file
                return claim
        if trouble is not None:
            raise trouble
        return None

    async def extend(self, claim: Claim) -> None:
        """Renew the claim's lease."""
        await self._of(claim).extend(claim)

    async def remember(self, claim: Claim, *, session_id: str | None) -> None:
        """Store the conversation's id with the claim."""
        await self._of(claim).remember(claim, session_id=session_id)

    async def complete(self, claim: Claim, result: Result) -> bool:
        """Store the result where the task came from."""
        return await self._of(claim).complete(claim, result)

    async def release(
        self,
        claim: Claim,
        *,
        spend_attempt: bool,
        not_before: datetime | None = None,
        reason: str = "",
        result: Result | None = None,
    ) -> None:
        """Give the task back to where it came from."""
        await self._of(claim).release(
            claim, spend_attempt=spend_attempt, not_before=not_before, reason=reason, result=result
        )

    async def bury(self, claim: Claim, reason: DeadLetterReason, message: str, result: Result | None) -> None:
        """Set the task aside where it came from."""
        await self._of(claim).bury(claim, reason, message, result)

    async def request_cancel(self, task_id: str) -> bool:
        """Have the task end where it waits, in one of the two or in both."""
        return any([await queue.request_cancel(task_id) for queue in (self._file, self._redis)])

    def depth(self) -> int:
        """Return how many wait in both."""
        return self._file.depth() + self._redis.depth()

    def _of(self, claim: Claim) -> Queue:
        return self._redis if claim.transport == "redis" else self._file
