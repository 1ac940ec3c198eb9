"""Redis: tasks go out in the streams of their workers, and results come back in one; for workers on other machines."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent_bus.commands import Command
from agent_bus.errors import QueueUnavailable
from agent_bus.messages import Result
from agent_bus.questions import Answer, AnswerFate
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.connection import failures
from agent_bus.redis.questions import RedisQuestions
from agent_bus.redis.url import RedisAddress
from orchestrator_service.transports.base import Dispatch, Ears, JournalLine, Place, Undelivered
from orchestrator_service.transports.redis_journals import RedisJournals
from orchestrator_service.transports.redis_news import REDIS, RedisNews
from orchestrator_service.transports.redis_tasks import RedisTasks
from orchestrator_service.transports.result_files import BrokenResult
from service_kit.findings import Finding

log = logging.getLogger(__name__)


class RedisTransport:
    """Redis as a way to the workers; see `base.Transport`."""

    name = REDIS

    def __init__(
        self,
        address: RedisAddress,
        *,
        journals: Path,
        known: Callable[[], Iterable[str]],
        poll_s: float,
        position: str | None,
        open_runs: Callable[[], Iterable[tuple[str, str]]],
    ) -> None:
        """Connect with the first use.

        Args:
            address: Where Redis is.
            journals: The directory in which what agents do is written down, `WIREID.jsonl` for each run.
            known: Gives the names of the workers that the orchestrator knows.
            poll_s: How often the heartbeats are looked at, in seconds.
            position: How far the stream of results was read; None reads all that it holds.
            open_runs: Gives (worker, wire id) of each run that went this way and has not ended.
        """
        self._address = address
        self._known = known
        self._poll_s = poll_s
        self._position = position
        self._open_runs = open_runs
        self.caller = RedisCaller(address)
        """The way to that Redis."""
        self._tasks = RedisTasks(self.caller)
        self._questions = RedisQuestions(self.caller)
        self._journals = RedisJournals(journals)
        self._news: RedisNews | None = None
        self._cancels: dict[str, str] = {}
        """Wire id → worker: ends that were asked for while Redis was away."""

    @property
    def connected(self) -> bool:
        """Whether Redis is there, and everything that comes is heard."""
        return self._news is not None and self._news.connected

    # -- out

    async def send(self, dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        """Add an entry to the worker's stream for each, and ring its bell."""
        # Before the worker can tell of it.
        self._journals.keep(dispatch.wire_id for dispatch in dispatches)
        undelivered = await self._tasks.send(dispatches)
        for one in undelivered:
            self._journals.drop(one.dispatch.wire_id)
        return undelivered

    async def withdraw(self, worker: str, wire_id: str) -> bool:
        """Remove a task that no instance has; True when it is certain that nobody will run it."""
        try:
            withdrawn = await self._tasks.withdraw(worker, wire_id)
        except QueueUnavailable as error:
            log.warning("%s cannot be withdrawn: %s", wire_id, error, extra={"action": "withdraw_failed"})
            return False
        if withdrawn:
            self._journals.drop(wire_id)
        return withdrawn

    async def cancel(self, worker: str, wire_id: str) -> None:
        """Ask for the end of a task; while Redis is away that is kept for its return."""
        try:
            await self._tasks.cancel(worker, wire_id)
        except QueueUnavailable as error:
            self._cancels[wire_id] = worker
            log.warning("%s cannot be cancelled yet: %s", wire_id, error, extra={"action": "cancel_failed"})

    async def locate(self, worker: str, wire_id: str) -> Place:
        """Look for a task."""
        try:
            return await self._tasks.locate(worker, wire_id)
        except QueueUnavailable:
            return Place.UNKNOWN

    async def result(self, worker: str, wire_id: str) -> Result | None:
        """Return the result if it is there and can be understood."""
        try:
            return await self._tasks.result(worker, wire_id)
        except (QueueUnavailable, BrokenResult):
            return None

    async def tell(self, worker: str, command: Command) -> bool:
        """Send a command to all instances of a worker; False when none of them listens."""
        try:
            return await self._tasks.tell(worker, command)
        except QueueUnavailable:
            return False

    async def answer(self, worker: str, question_id: str, answer: Answer) -> AnswerFate:
        """Set the answer's key, unless there is one, and wake the worker."""
        try:
            return await self._questions.answer(worker, question_id, answer)
        except QueueUnavailable:
            return AnswerFate.UNREACHABLE

    async def running(self) -> dict[str, list[str]]:
        """Return who holds what; nothing while Redis is away, see `connected`."""
        workers = {*self._known(), *(worker for worker, _ in self._open_runs())}
        try:
            return await self._tasks.running(sorted(workers))
        except QueueUnavailable:
            return {}

    # -- in

    @asynccontextmanager
    async def open(self, ears: Ears) -> AsyncIterator[None]:
        """Hear results, events and heartbeats for the length of the block; what is there already is told first."""
        self._journals.keep(wire_id for _, wire_id in self._open_runs())
        news = RedisNews(
            self.caller,
            self._tasks,
            self._journals,
            self._questions,
            poll_s=self._poll_s,
            position=self._position,
            known=self._known,
            open_runs=self._open_runs,
            on_connected=self._cancel_again,
            ears=ears,
        )
        self._news = news
        try:
            await news.start()
            yield
        finally:
            await news.close()
            self._journals.close()
            with suppress(*failures()):
                await self.caller.aclose()

    async def _cancel_again(self) -> None:
        for wire_id, worker in list(self._cancels.items()):
            await self._tasks.cancel(worker, wire_id)
            self._cancels.pop(wire_id, None)

    async def journal(self, worker: str, wire_id: str, after: int) -> list[JournalLine]:
        """Return what is written down of a run now."""
        return self._journals.read(wire_id, after)

    def follow(self, worker: str, wire_id: str, after: int) -> AsyncIterator[JournalLine]:
        """Yield what was written down of a run behind byte `after`, then live."""
        return self._journals.follow(wire_id, after)

    def away(self) -> str | None:
        """Say why Redis cannot be used now."""
        if self.connected:
            return None
        return (None if self._news is None else self._news.trouble) or "not started"

    def findings(self) -> list[Finding]:
        """Say how Redis is; the orchestrator can work without it, and so it is well in any case."""
        away = self.away()
        if away is None:
            return [Finding(REDIS, True, f"{self._address.shown} answers")]
        return [Finding(REDIS, True, f"away, its tasks wait: {away}")]
