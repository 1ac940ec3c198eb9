"""What comes by Redis: results from their stream, events from the channels, and heartbeats.

One subscription and one reader of the stream live and fall together: while they are up nothing is asked for but the
heartbeats, and each time they come up again what was missed is asked for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from agent_bus.errors import QueueUnavailable
from agent_bus.layout import is_worker_name
from agent_bus.messages import Event, Heartbeat, Result, is_task_id
from agent_bus.questions import is_question_id
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.connection import close_client, explain, failures, make_client, make_pubsub_clients
from agent_bus.redis.keys import HEARTBEAT_PREFIX, HOOKS_PREFIX, RESULTS
from agent_bus.redis.questions import RedisQuestions
from agent_bus.redis.url import COMMAND_TIMEOUT_S
from orchestrator_service.transports.base import Ears, HeardResult
from orchestrator_service.transports.redis_journals import RedisJournals
from orchestrator_service.transports.redis_tasks import RedisTasks
from orchestrator_service.transports.result_files import BrokenResult
from orchestrator_service.transports.slices import Slices

if TYPE_CHECKING:
    from agent_bus.redis.subscription import Subscription

log = logging.getLogger(__name__)

REDIS: Final = "redis"
_PING_S: Final = 15.0
_PONG_S: Final = 3.0
_BLOCK_S: Final = 30.0
"""How long one look at the results lasts; whether Redis lives is found out on the subscription, and sooner."""
_ASK_AGAIN_S: Final = 0.5
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_PAGE: Final = 500
_FEW_KEYS: Final = 5000
_OF_QUESTIONS: Final = frozenset(("permission_asked", "permission_answered", "permission_withdrawn"))
_FULL_SCAN_EVERY: Final = 6
"""Among many keys all are looked through only so often: between two times the known heartbeats are asked for."""


class RedisNews:
    """Hears what comes by Redis, between `start` and `close`."""

    def __init__(
        self,
        caller: RedisCaller,
        tasks: RedisTasks,
        journals: RedisJournals,
        questions: RedisQuestions,
        *,
        poll_s: float,
        position: str | None,
        known: Callable[[], Iterable[str]],
        open_runs: Callable[[], Iterable[tuple[str, str]]],
        on_connected: Callable[[], Awaitable[None]],
        ears: Ears,
    ) -> None:
        """Tell `ears`.

        Args:
            caller: The way to Redis for single questions.
            tasks: What is known of tasks in Redis.
            journals: Given each event.
            questions: What is known of questions in Redis.
            poll_s: How often the heartbeats are looked at, in seconds.
            position: How far the stream of results was read; None for not at all.
            known: Gives the names of the workers that are known.
            open_runs: Gives (worker, wire id) of each run that went by Redis and has not ended.
            on_connected: Called each time Redis is there again, before what it holds is told.
            ears: Who is told.
        """
        self._caller = caller
        self._address = caller.address
        self._tasks = tasks
        self._journals = journals
        self._questions = questions
        self._asked: dict[tuple[str, str], None] = {}
        """Questions of which something is told: worker and id."""
        self._asked_wanted = asyncio.Event()
        self._all_asked = True
        """Whether all questions are to be looked at."""
        self._poll_s = poll_s
        self._position = position or "0-0"
        self._known = known
        self._open_runs = open_runs
        self._on_connected = on_connected
        self._ears = ears
        self._failures: tuple[type[BaseException], ...] = (*failures(), QueueUnavailable)
        self._life: asyncio.Task[None] | None = None
        self._first_try = asyncio.Event()
        self._beats_wanted = asyncio.Event()
        self._beat_keys: set[bytes] = set()
        self._beating: set[str] = set()
        """Workers that had a heartbeat at the last look, or were looked for without finding one."""
        self._looks = 0
        self.connected = False
        """Whether everything that comes is heard."""
        self.trouble: str | None = f"Redis at {self._address.shown} has not answered yet"
        """Why it is not, in one sentence without a password, or None."""

    async def start(self) -> None:
        """Tell what is there, if Redis answers, then what comes."""
        self._life = asyncio.create_task(self._stay_connected(), name="redis news")
        await self._first_try.wait()

    async def close(self) -> None:
        """Hear nothing more."""
        if self._life is not None:
            await _end([self._life], ask_again_after_s=6 * _ASK_AGAIN_S)

    # -- the connection

    async def _stay_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        attempt = 0
        while True:
            try:
                await self._listen(attempt)
            except self._failures as error:
                told = str(error) if isinstance(error, QueueUnavailable) else explain(error, self._address)
                if self.connected or attempt == 0:
                    log.warning("%s; it is tried again", told, extra={"action": "redis_lost"})
                    pause_s = _FIRST_PAUSE_S
                self.connected, self.trouble = False, told
            except Exception:
                log.exception("listening to Redis failed", extra={"action": "redis_failed"})
                self.connected, self.trouble = False, "listening failed, see the log"
            self._first_try.set()
            attempt += 1
            # Full jitter: not all clients of a Redis come back at the same moment.
            await asyncio.sleep(random.uniform(0.0, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _listen(self, attempt: int) -> None:
        """Hear until the connection is lost, and raise what it was lost by."""
        from agent_bus.redis.subscription import open_subscription

        # The other clients give up on an answer long before there is a result to tell of.
        patient = {**self._address.options, "socket_timeout": _BLOCK_S + COMMAND_TIMEOUT_S}
        reader: Any = make_client(dataclasses.replace(self._address, options=patient))
        clients = make_pubsub_clients(self._address)
        subscription: Subscription | None = None
        try:
            async with asyncio.timeout(2 * _PONG_S):
                client = clients[attempt % len(clients)]
                subscription = await open_subscription(client, (), self._event_came, patterns=(f"{HOOKS_PREFIX}*",))
                await subscription.confirmed()
            caught_up = asyncio.Event()
            await _first_to_fail(
                self._stay_awake(subscription),
                self._read_results_forever(reader, caught_up),
                self._look_at_beats_forever(caught_up),
                self._look_at_questions_forever(caught_up),
            )
        finally:
            if subscription is not None:
                await subscription.aclose()
            for unused in (reader, *clients):
                with suppress(*self._failures):
                    await close_client(unused)

    async def _stay_awake(self, subscription: Subscription) -> None:
        while True:
            silent_s = time.monotonic() - subscription.heard_at
            if silent_s < _PING_S:
                await subscription.stays_for(_PING_S - silent_s)
            elif not await subscription.answers_within(_PONG_S):
                raise TimeoutError

    async def _catch_up(self, reader: Any) -> None:
        """Tell what came while nobody listened."""
        await self._tasks.settle_doubts()
        await self._on_connected()
        newest = await reader.xrevrange(RESULTS, count=1)
        if not newest or _order(newest[0][0].decode()) < _order(self._position):
            # The stream is another one than it was: Redis has lost its data.
            self._position = "0-0"
        while await self._read_results(reader, None):
            pass
        slices = Slices()
        # The stream keeps only the newest: those of the open runs are asked for by their ids.
        for worker, wire_id in list(self._open_runs()):
            try:
                result = await self._tasks.result(worker, wire_id)
            except BrokenResult as error:
                self._ears.hear_broken_result(REDIS, worker, wire_id, str(error))
            else:
                if result is not None:
                    self._tell(result, None)
            await slices.breathe()
        await self._look_at_beats()

    # -- results

    async def _read_results_forever(self, reader: Any, caught_up: asyncio.Event) -> None:
        await self._catch_up(reader)
        self.connected, self.trouble = True, None
        log.info("listening to Redis at %s", self._address.shown, extra={"action": "redis_connected"})
        self._first_try.set()
        caught_up.set()
        while True:
            await self._read_results(reader, int(1000 * _BLOCK_S))

    async def _read_results(self, reader: Any, block_ms: int | None) -> bool:
        """Tell of the results behind the position; False when there were none."""
        told = await reader.xread({RESULTS: self._position}, count=_PAGE, block=block_ms)
        if not told:
            return False
        slices = Slices()
        for entry, fields in told[0][1]:
            self._position = entry.decode()
            self._read_result((fields or {}).get(b"result", b""))
            await slices.breathe()
        return True

    def _read_result(self, body: bytes) -> None:
        try:
            result = Result.model_validate_json(body)
        except ValidationError as error:
            self._tell_broken(body, error)
        else:
            self._tell(result, self._position)

    def _tell(self, result: Result, position: str | None) -> None:
        if not (is_task_id(result.task_id) and is_worker_name(result.worker)):
            log.warning("a result of no possible task or worker was left out", extra={"action": "result_unusable"})
            return
        self._tasks.forget(result.worker, result.task_id)
        self._journals.end(result.task_id)
        size = self._journals.size(result.task_id)
        self._ears.hear_result(HeardResult(result=result, transport=REDIS, position=position, event_position=size))

    def _tell_broken(self, body: bytes, error: ValidationError) -> None:
        where = f"The entry {self._position} of {RESULTS} in Redis"
        try:
            fields = from_json(body)
            worker, task_id = fields["worker"], fields["task_id"]
            known = is_worker_name(worker) and is_task_id(task_id)
        except (ValueError, TypeError, KeyError):
            known = False
        if not known:
            log.warning("%s is no result", where, extra={"action": "result_unusable"})
            return
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        reason = f"{where} is no result that this version understands ({what})."
        self._ears.hear_broken_result(REDIS, worker, task_id, reason)

    # -- events

    def _event_came(self, channel: bytes, message: bytes) -> None:
        try:
            event = Event.model_validate_json(message)
            worker = channel.decode().removeprefix(HOOKS_PREFIX)
        except ValueError:
            return
        if event.worker != worker or not is_worker_name(worker):
            return
        if worker not in self._beating:
            # One look for each newcomer: a worker without heartbeats must not ask for one with each event.
            self._beating.add(worker)
            self._beats_wanted.set()
        if event.event == "task_started" and event.task_id is not None and is_task_id(event.task_id):
            self._ears.hear_started(REDIS, worker, event.task_id)
        if event.event in _OF_QUESTIONS and is_question_id(question_id := str(event.data.get("question_id"))):
            self._asked[worker, question_id] = None
            self._asked_wanted.set()
        self._journals.write(event)
        self._ears.hear_event(REDIS, event)

    # -- questions

    async def _look_at_questions_forever(self, caught_up: asyncio.Event) -> None:
        await caught_up.wait()
        self._all_asked = True
        while True:
            if self._all_asked:
                self._all_asked = False
                async for question in self._questions.all():
                    self._ears.hear_question(REDIS, question)
            await self._asked_wanted.wait()
            self._asked_wanted.clear()
            while self._asked:
                worker, question_id = next(iter(self._asked))
                del self._asked[worker, question_id]
                # What the event says is a hint: the key is what its worker wrote. Of files there is no key.
                if (found := await self._questions.read(worker, question_id)) is not None:
                    self._ears.hear_question(REDIS, found)

    # -- heartbeats

    async def _look_at_beats_forever(self, caught_up: asyncio.Event) -> None:
        await caught_up.wait()
        while True:
            wanted = True
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._beats_wanted.wait()
            except TimeoutError:
                wanted = False
            self._beats_wanted.clear()
            await self._look_at_beats(all_keys=wanted)

    async def _look_at_beats(self, *, all_keys: bool = True) -> None:
        client = self._caller.client
        self._journals.keep(wire_id for _, wire_id in self._open_runs())
        with self._caller.noted():
            if all_keys or self._looks % _FULL_SCAN_EVERY == 0 or await client.dbsize() <= _FEW_KEYS:
                self._beat_keys = {key async for key in client.scan_iter(match=f"{HEARTBEAT_PREFIX}*", count=1000)}
            self._looks += 1
            keys = sorted(self._beat_keys)
            if self._caller.is_cluster:
                bodies = [await client.get(key) for key in keys]
            else:
                bodies = await client.mget(keys) if keys else []
        self._beating = set(self._known())
        for body in bodies:
            with suppress(ValidationError):
                beat = Heartbeat.model_validate_json(body or b"")
                if is_worker_name(beat.worker):
                    self._beating.add(beat.worker)
                    self._ears.hear_heartbeat(REDIS, beat)
                    if beat.open_questions:
                        # A worker that only polls tells of nothing else.
                        self._all_asked = True
                        self._asked_wanted.set()


async def _first_to_fail(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one of them ends, and end the others."""
    running = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _end(running, ask_again_after_s=_ASK_AGAIN_S)


async def _end(tasks: list[asyncio.Task[None]], *, ask_again_after_s: float) -> None:
    """Cancel the tasks and wait for their ends.

    A cancellation that comes in the very moment in which the library has sent a command gets lost in `wait_for` of
    Python 3.11: so it is asked again.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=ask_again_after_s)
    for task in tasks:
        if not task.cancelled():
            # Two may fail by the same loss: one of them is told.
            task.exception()


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    try:
        return int(milliseconds), int(number or 0)
    except ValueError:
        return 0, 0
