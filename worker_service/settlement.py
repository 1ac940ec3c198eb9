"""Telling the queue how a task ended, again and again until it has taken it; the task stays claimed meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

import anyio

from agent_bus.errors import BusError
from agent_bus.messages import Result
from agent_bus.queue import Claim, Queue
from worker_service.bell import Bell
from worker_service.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class GivenBack(Exception):
    """The worker stops: the task went back, with its result where there was room for that."""


class Trouble(NamedTuple):
    """Why the end of a task cannot be told to its queue now."""

    transport: str
    text: str


class Settlement:
    """Settles claims with their queue; knows which ones it cannot settle now."""

    def __init__(self, queue: Queue, *, metrics: Metrics, bell: Bell) -> None:
        """Settle with `queue`; the bell is rung once what could not be settled is."""
        self._queue = queue
        self._metrics = metrics
        self._bell = bell
        self.troubles: dict[str, Trouble] = {}
        """What cannot be settled, by task id."""
        self._retry = asyncio.Event()
        self._stopping = False

    def holds_back(self) -> str | None:
        """Say why no task should be taken since results cannot be stored, or None.

        A directory that takes no results will take none of the next task's either. A Redis that is away holds back
        nothing but its own tasks, and those do not come while it is away.
        """
        return next((trouble.text for trouble in self.troubles.values() if trouble.transport == "file"), None)

    def stop(self) -> None:
        """Give back the tasks whose results cannot be stored, and from now on each one at its first failure."""
        self._stopping = True
        self.retry_now()

    def retry_now(self) -> None:
        """Try at once to settle what could not be settled: the cause may be gone."""
        self._retry.set()
        self._retry = asyncio.Event()

    async def store(self, claim: Claim, result: Result) -> bool:
        """Complete the claim; False when another result was there first.

        Raises:
            GivenBack: it could not be stored and the worker stops.
        """
        try:
            return await self.insist(claim, lambda: self._queue.complete(claim, result), while_stopping=False)
        except GivenBack:
            await self._give_back_with(claim, result)
            raise
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._give_back_with(claim, result)
            raise

    async def release(
        self, claim: Claim, *, spend_attempt: bool, not_before: datetime | None = None, reason: str
    ) -> None:
        """Give the task back to its queue."""

        async def release() -> None:
            await self._queue.release(claim, spend_attempt=spend_attempt, not_before=not_before, reason=reason)

        await self.insist(claim, release)

    async def insist(self, claim: Claim, act: Callable[[], Awaitable[T]], *, while_stopping: bool = True) -> T:
        """Repeat what the queue cannot do now (a full disk, say) until it can.

        Raises:
            GivenBack: it cannot be done, the worker stops, and it is not to be done `while_stopping`.
        """
        task_id = claim.task.task_id
        for retry in itertools.count():
            try:
                done = await act()
                break
            except (BusError, OSError) as error:
                self._metrics.result_retries.inc()
                if task_id not in self.troubles:
                    log.error("%s", error, extra={"action": "result_not_stored", "task_id": task_id})
                self.troubles[task_id] = Trouble(claim.transport, str(error))
                if self._stopping and not while_stopping:
                    raise GivenBack from error
                with anyio.move_on_after(_RETRY_S[min(retry, len(_RETRY_S) - 1)]):
                    await self._retry.wait()
        if self.troubles and self.troubles.pop(task_id, None) is not None:
            log.info("the result of task %s is stored now", task_id, extra={"action": "result_stored"})
            self._bell.ring_later(0.0)
        return done

    async def _give_back_with(self, claim: Claim, result: Result) -> None:
        """Give a task back whose result could not be stored while the worker was there to try.

        The result goes with it, where there is room for that, so that whoever takes the task only stores it. Where
        there is none the task is run again, and no attempt is spent on that. Should even this fail, the claim stays
        for the queue's own end, which spends the attempt that was begun and no other.
        """
        task_id = claim.task.task_id
        self.troubles.pop(task_id, None)
        for kept in (result, None):
            try:
                reason = "its result could not be stored"
                await self._queue.release(claim, spend_attempt=False, reason=reason, result=kept)
            except (BusError, OSError):
                continue
            log.warning(
                "task %s goes back %s its result",
                task_id,
                "without" if kept is None else "with",
                extra={"action": "result_given_back", "task_id": task_id},
            )
            return
