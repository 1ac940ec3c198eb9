"""Turns: what many tasks want of Redis at the same time, in one round trip.

While a turn is on its way, whoever completes or claims gathers for the next one. So the cost of a round trip is shared
by as many as are busy, and no more is taken than there are callers waiting for it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

from agent_bus.errors import QueueUnavailable, ResultNotStored
from agent_bus.queue import Claim
from agent_bus.redis import keys as redis_keys
from agent_bus.redis.caller import Argument, RedisCaller
from agent_bus.redis.entries import Refused, duplicate_of, read_taken
from agent_bus.redis.keys import RESULTS, WorkerKeys, result_by_id
from agent_bus.redis.scripts import store_only, turn

MOST_READ_AHEAD: Final = 256
"""So many new entries, or so many bytes of them, are sorted in one turn: Redis serves nobody else meanwhile."""
_MOST_BYTES_AHEAD: Final = 1_048_576
MOST_INDEXED: Final = 100_000
"""Entries beyond so many are not sorted yet: the order that is promised is that among those."""
_TURNS_AT_ONCE: Final = 2
_MOST_ENDINGS: Final = 256
_MOST_ENDING_BYTES: Final = 4_194_304

PATIENCE_S: Final = 0.05
"""A claim that takes longer comes back empty-handed, so that a slow Redis delays nothing else; what the turn brings
later is kept for the next claim."""
_SPARE_S: Final = 1.0
"""What nobody claims for so long goes back."""
_STOPPED: Final = "the worker is stopping"
_FIRST_RETRY_S: Final = 0.05
_LONGEST_RETRY_S: Final = 1.0


@dataclass(slots=True)
class Ending:
    """A task that is done, and whoever waits for its result to be stored."""

    entry: str
    task_id: str
    session: str
    body: bytes
    stored: asyncio.Future[bool]


class Turns:
    """Takes turns as long as `run_forever` runs."""

    def __init__(
        self,
        caller: RedisCaller,
        keys: WorkerKeys,
        *,
        instance: str,
        max_bytes: int,
        result_ttl_s: int,
        most_results: int,
        patience_s: float,
        ready: Callable[[], None],
        took: Callable[[Claim], None],
        refused: Callable[[Refused], None],
        unwanted: Callable[[Claim], None],
    ) -> None:
        """Take turns for one instance.

        Args:
            caller: The way to Redis.
            keys: Whose stream it is.
            instance: The consumer's name.
            max_bytes: The largest task.
            result_ttl_s: How long a result is found by its task's id.
            most_results: How many the stream of results keeps.
            patience_s: How long a claim waits for its answer, in seconds.
            ready: Called when a claim may bring something that brought nothing before.
            took: Called with each claim, before anybody has it.
            refused: Called with each entry that is no task.
            unwanted: Called with a claim that nobody came for.
        """
        self._caller = caller
        self._keys = keys
        self._instance = instance
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._ready = ready
        self._took = took
        self._refused = refused
        self._unwanted = unwanted
        self._result_limits: tuple[Argument, ...] = (result_ttl_s, most_results)
        self._stream_keys = (keys.tasks,) if caller.is_cluster else (keys.tasks, RESULTS)
        self._script = turn()
        self._head: tuple[Argument, ...] = (keys.worker, instance, redis_keys.INDEX_TTL_S)
        self._bounds: tuple[Argument, ...] = (MOST_READ_AHEAD, _MOST_BYTES_AHEAD, MOST_INDEXED)
        self._waiters: deque[asyncio.Future[Claim | None]] = deque()
        self._endings: deque[Ending] = deque()
        self._wanted = asyncio.Event()
        self._hints = 1
        self._stopped = False
        self._hinted = True
        self._spares: deque[Claim] = deque()
        self._retry_s = _FIRST_RETRY_S
        self._retry: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self.depth = 0
        """How many entries were not running when last told."""

    def notice(self) -> None:
        """Let the next claim look, since there may be something."""
        self._hints += 1
        self._hinted = True

    async def claim(self) -> Claim | None:
        """Take the next task; None, at once, when there is nothing as far as is known."""
        if self._spares:
            return self._spares.popleft()
        if not self._hinted or self._stopped:
            return None
        waiter: asyncio.Future[Claim | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wanted.set()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (claim := waiter.result()) is not None:
                self._keep(claim)
            raise

    async def end(self, entry: str, task_id: str, session: str, body: bytes) -> bool:
        """Store the result, if there is any, and acknowledge; False when another result was there first.

        Raises:
            ResultNotStored: nothing was acknowledged.
        """
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        ending = Ending(entry, task_id, session, body, stored)
        if self._stopped:
            raise self._not_stored(ending, _STOPPED)
        self._endings.append(ending)
        self._wanted.set()
        return await stored

    async def run_forever(self) -> None:
        """Take turns until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                # Two at a time: while Redis works on one, this process works on what the other brought.
                for number in range(_TURNS_AT_ONCE):
                    tasks.start_soon(self._take_turns, name=f"redis turns {number}")
        finally:
            self._stopped = True
            self._cancel_timers()
            _answer_all(list(self._waiters))
            self._refuse_all(list(self._endings), _STOPPED)
            self._waiters.clear()
            self._endings.clear()

    async def _take_turns(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            # Whoever has just been woken by the turn before has its say first: one turn then serves them all.
            await asyncio.sleep(0)
            while self._waiters or self._endings:
                await self._take_turn()

    def spares(self) -> list[Claim]:
        """Take out what nobody has claimed yet."""
        spares = list(self._spares)
        self._spares.clear()
        return spares

    # -- one turn

    async def _take_turn(self) -> None:
        waiters, endings = list(self._waiters), self._some_endings()
        self._waiters.clear()
        hints = self._hints
        patience = asyncio.get_running_loop().call_later(self._patience_s, _answer_all, waiters) if waiters else None
        try:
            try:
                if self._caller.is_cluster and endings:
                    endings = await self._store(endings)
                reply = await self._caller.run(self._script, self._stream_keys, self._arguments(len(waiters), endings))
                claims, count = await self._read(reply[4])
            finally:
                if patience is not None:
                    patience.cancel()
        except QueueUnavailable as error:
            self._hinted = False
            _answer_all(waiters)
            self._refuse_all(endings, str(error))
            self._retry_later()
            return
        except BaseException:
            # Cancelled: what Redis did cannot be known; the entries are found by their owner's name.
            _answer_all(waiters)
            self._refuse_all(endings, _STOPPED)
            raise
        self._retry_s = _FIRST_RETRY_S
        can_be_taken, self.depth, wait_ms = int(reply[0]), int(reply[1]), int(reply[2])
        self._hinted = can_be_taken > 0 or self._hints != hints
        if can_be_taken > 0:
            # The answer to an earlier question may be on its way still: it must not overrule this one.
            self._hints += 1
        self._settle(endings, reply[3])
        self._hand_out(waiters, claims, look_again=self._hinted and (count > 0 or can_be_taken > 0))
        if wait_ms >= 0:
            self._look_in(wait_ms / 1000 + 0.001)

    def _arguments(self, wanted: int, endings: list[Ending]) -> list[Argument]:
        # Few large arguments are cheaper to send than many small ones.
        named = [text for ending in endings for text in (ending.entry, ending.task_id, ending.session)]
        bodies = [b""] * len(endings) if self._caller.is_cluster else [ending.body for ending in endings]
        described = json.dumps(named) if named else ""
        return [*self._head, wanted, *self._bounds, *self._result_limits, described, *bodies]

    def _some_endings(self) -> list[Ending]:
        chosen: list[Ending] = []
        size = 0
        while self._endings and len(chosen) < _MOST_ENDINGS and size < _MOST_ENDING_BYTES:
            ending = self._endings.popleft()
            chosen.append(ending)
            size += len(ending.body)
        return chosen

    async def _store(self, endings: list[Ending]) -> list[Ending]:
        """Store the results apart from the acknowledgement, and before it: a cluster keeps them elsewhere."""
        with_result = [ending for ending in endings if ending.body]
        arguments: list[Argument] = list(self._result_limits)
        for ending in with_result:
            arguments += (ending.task_id, ending.body)
        if not with_result:
            return endings
        words = await self._caller.run(store_only(), (RESULTS,), arguments)
        kept = [ending for ending in endings if not ending.body]
        for ending, word in zip(with_result, words, strict=True):
            if isinstance(word, int):
                # The acknowledgement still has to come; what it answers is the storing's own answer.
                outer, ending.stored = ending.stored, asyncio.get_running_loop().create_future()
                ending.stored.add_done_callback(_passing_on(outer, bool(word)))
                kept.append(ending)
            else:
                _fail(ending.stored, self._not_stored(ending, _text(word)))
        return kept

    async def _read(self, items: list[Any]) -> tuple[list[Claim], int]:
        claims = []
        for item in items:
            taken = read_taken(item, worker=self._keys.worker, max_bytes=self._max_bytes)
            if isinstance(taken, Refused):
                self._refused(taken)
            else:
                claims.append(taken)
        if self._caller.is_cluster and claims:
            claims = await self._unanswered(claims)
        for claim in claims:
            self._took(claim)
        return claims, len(items)

    async def _unanswered(self, claims: list[Claim]) -> list[Claim]:
        """Sort out those that have a result already; in a cluster the script cannot see the results."""
        checks = (self._caller.command("EXISTS", result_by_id(claim.task.task_id)) for claim in claims)
        there = await asyncio.gather(*checks)
        for claim, answered in zip(claims, there, strict=True):
            if answered and claim.attempt == 1:
                body = claim.task.model_dump_json().encode()
                self._refused(Refused(claim.token, 1, body, duplicate_of(claim.task.task_id)))
            elif answered:
                # Its owner died between storing the result and letting go.
                waste: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                waste.add_done_callback(_ignore)
                self._endings.append(Ending(claim.token, claim.task.task_id, claim.task.session or "", b"", waste))
                self._wanted.set()
        return [claim for claim, answered in zip(claims, there, strict=True) if not answered]

    def _settle(self, endings: list[Ending], words: list[Any]) -> None:
        for ending, word in zip(endings, words, strict=True):
            if isinstance(word, int):
                if not ending.stored.done():
                    ending.stored.set_result(word == 1)
            else:
                _fail(ending.stored, self._not_stored(ending, _text(word)))

    def _refuse_all(self, endings: list[Ending], why: str) -> None:
        for ending in endings:
            _fail(ending.stored, self._not_stored(ending, why))

    @staticmethod
    def _not_stored(ending: Ending, why: str) -> ResultNotStored:
        return ResultNotStored(f"the result of task {ending.task_id} cannot be stored: {why}; the task is kept")

    def _hand_out(self, waiters: list[asyncio.Future[Claim | None]], claims: list[Claim], *, look_again: bool) -> None:
        left = deque(claims)
        empty_handed = []
        if look_again and any(waiter.done() for waiter in waiters):
            # Who had no patience asks again only when told that there is something.
            self._ready()
        for waiter in waiters:
            if waiter.done():
                continue
            if left:
                waiter.set_result(left.popleft())
            else:
                empty_handed.append(waiter)
        for claim in left:
            self._keep(claim)
        if look_again:
            # Some of what was taken was no task: there may be more.
            self._waiters.extendleft(reversed(empty_handed))
        else:
            _answer_all(empty_handed)

    def _keep(self, claim: Claim) -> None:
        """Keep for the next claim what came too late for this one."""
        self._spares.append(claim)
        asyncio.get_running_loop().call_later(_SPARE_S, self._give_back, claim)
        self._ready()

    def _give_back(self, claim: Claim) -> None:
        if claim in self._spares:
            self._spares.remove(claim)
            self._unwanted(claim)

    # -- when to look again

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._due is not None and not self._due.cancelled() and self._due.when() <= loop.time() + seconds:
            return
        if self._due is not None:
            self._due.cancel()
        self._due = loop.call_later(min(seconds, redis_keys.DAY_S), self._look_now)

    def _look_now(self) -> None:
        self._due = None
        self.notice()
        self._ready()

    def _retry_later(self) -> None:
        if self._retry is None:
            pause = random.uniform(0.5, 1.0) * self._retry_s
            self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)
            self._retry = asyncio.get_running_loop().call_later(pause, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self.notice()
        self._ready()

    def _cancel_timers(self) -> None:
        for timer in (self._retry, self._due):
            if timer is not None:
                timer.cancel()
        self._retry = self._due = None


def _answer(waiter: asyncio.Future[Claim | None], claim: Claim | None) -> None:
    if not waiter.done():
        waiter.set_result(claim)


def _answer_all(waiters: list[asyncio.Future[Claim | None]]) -> None:
    for waiter in waiters:
        _answer(waiter, None)


def _fail(stored: asyncio.Future[bool], error: ResultNotStored) -> None:
    if not stored.done():
        stored.set_exception(error)


def _passing_on(outer: asyncio.Future[bool], word: bool) -> Callable[[asyncio.Future[bool]], None]:
    def pass_on(inner: asyncio.Future[bool]) -> None:
        error = inner.exception()
        if outer.done():
            return
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(word)

    return pass_on


def _ignore(waste: asyncio.Future[bool]) -> None:
    waste.exception()


def _text(word: Any) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)
