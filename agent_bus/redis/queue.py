"""The queue for more than one host: a Redis stream with a consumer group, and Lua scripts that keep its order.

An entry stays in the stream until its task has a result; while it is there it is either unread, or pending: with the
instance that runs it, or with the consumer `waiting`. So whatever dies at whatever moment, the entry or the result is
there. Result and acknowledgement are one step (on a cluster two, in that order). `lua/common.lua` names the keys.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol

import anyio

from agent_bus.dead_letters import DeadLetter
from agent_bus.errors import DeadLetterReason, QueueUnavailable, TriggerRejected
from agent_bus.heartbeats import MISSED_BEATS
from agent_bus.messages import Heartbeat, Result, encode_result, refusal_result, utc_now
from agent_bus.queue import Claim
from agent_bus.redis import keys as redis_keys
from agent_bus.redis.caller import Argument, RedisCaller
from agent_bus.redis.entries import Refused
from agent_bus.redis.keys import RESULTS, WorkerKeys
from agent_bus.redis.leases import Held, Leases
from agent_bus.redis.scripts import on_stream, store_only
from agent_bus.redis.turns import PATIENCE_S, Turns
from agent_bus.redis.url import RedisAddress

log = logging.getLogger(__name__)

DEFAULT_LEASE_S: Final = 30.0
_BURY_RETRY_S: Final = 1.0


class RedisQueueObserver(Protocol):
    """Who wants to know what happens in the queue. Called on the event loop; must not block or raise."""

    def ready(self) -> None:
        """Something can be claimed now that could not before."""

    def buried(self, letter: DeadLetter) -> None:
        """An entry was set aside."""


class RedisQueue:
    """Tasks in Redis. Works only while `run_forever` runs beside it: round trips and leases live there."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        worker: str,
        instance: str,
        observer: RedisQueueObserver,
        max_bytes: int = 1_048_576,
        lease_s: float = DEFAULT_LEASE_S,
        result_ttl_s: int = redis_keys.RESULT_TTL_S,
        most_results: int = redis_keys.MOST_RESULTS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Connect with the first claim.

        Args:
            address: Where Redis is.
            worker: Whose tasks these are.
            instance: A name that no other process has or had.
            observer: Told what happens.
            max_bytes: The largest task.
            lease_s: Seconds after which a task that nobody renewed counts as a dead instance's.
            result_ttl_s: Seconds for which a result is found by its task's id.
            most_results: How many results the stream keeps.
            patience_s: Seconds that a claim waits for its answer; what comes later is kept for the next claim.
        """
        self.keys = WorkerKeys(worker)
        self.caller = RedisCaller(address)
        self._worker = worker
        self._instance = instance
        self._observer = observer
        self._result_limits = (result_ttl_s, most_results)
        self._head: tuple[Argument, ...] = (worker, instance, redis_keys.INDEX_TTL_S)
        self._held: dict[str, Held] = {}
        self._refused: dict[str, Refused] = {}
        self._refused_any = anyio.Event()
        self._unwanted: list[Claim] = []
        self.leases = Leases(
            self.caller,
            self.keys,
            instance=instance,
            lease_s=lease_s,
            held=self._all_held,
            ready=self._look_again,
        )
        self._turns = Turns(
            self.caller,
            self.keys,
            instance=instance,
            max_bytes=max_bytes,
            result_ttl_s=result_ttl_s,
            most_results=most_results,
            patience_s=patience_s,
            ready=observer.ready,
            took=self._took,
            refused=self._refuse,
            unwanted=self._give_back_soon,
        )
        self.caller.on_change.append(self._connection_changed)

    @property
    def instance(self) -> str:
        """The name of this process among the consumers."""
        return self._instance

    @property
    def connected(self) -> bool:
        """Whether Redis answered last time."""
        return self.caller.connected

    @property
    def trouble(self) -> str | None:
        """Why Redis cannot be used, in one sentence without a password, or None."""
        return self.caller.trouble

    async def run_forever(self) -> None:
        """Take turns, keep leases and set aside what is no task, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._turns.run_forever, name="redis turns")
            tasks.start_soon(self.leases.run_forever, name="redis leases")
            tasks.start_soon(self._set_aside_forever, name="redis refusals")

    async def aclose(self) -> None:
        """Give back what is still held, its attempt spent, forget this consumer, and close the connections.

        What Redis does not take now goes on elsewhere when its lease is over.
        """
        with suppress(QueueUnavailable):
            arguments: list[Argument] = [*self._head, self.keys.bell]
            spares = {claim.token for claim in [*self._turns.spares(), *self._unwanted]}
            for held in self._held.values():
                attempt = held.attempt if held.entry in spares else held.attempt + 1
                arguments += (held.entry, attempt, 0, "")
            if self._held:
                await self._run("release", arguments)
            self._held.clear()
            await self._run("close", self._head)
        await self.caller.aclose()

    def notice(self) -> None:
        """Let the next claim look: a message came, or time has passed, or Redis is back."""
        self._turns.notice()

    def depth(self) -> int:
        """Return how many tasks wait, as Redis told with the last answer."""
        return self._turns.depth

    async def request_cancel(self, task_id: str) -> bool:
        """Ask for the end of a task that waits, or will; it is answered as cancelled when its turn comes.

        Raises:
            QueueUnavailable: Redis did not take it.
        """
        await self.caller.command("SET", self.keys.cancel(task_id), b"1", "EX", redis_keys.INDEX_TTL_S)
        return True

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Store the instance's heartbeat; it vanishes when three in a row are missed.

        Raises:
            QueueUnavailable: Redis did not take it.
        """
        expiry_ms = max(1, int(1000 * MISSED_BEATS * heartbeat.interval_seconds))
        body = heartbeat.model_dump_json().encode()
        await self.caller.command("SET", self.keys.heartbeat(heartbeat.instance), body, "PX", expiry_ms)

    async def enqueue_activated(self, message: bytes, task_id: str | None = None) -> bool:
        """Put a task that came as a message into the stream; False when another replica did so.

        Args:
            message: The task as JSON.
            task_id: Its id, if it has one; without one the same text within a minute is the same task.

        Raises:
            QueueUnavailable: Redis did not take it.
        """
        key = task_id if task_id is not None else hashlib.sha256(message).hexdigest()
        added = await self._run("activate", [*self._head, key, redis_keys.ACTIVATION_TTL_S, message])
        self._look_again()
        return bool(added)

    # -- the queue's interface, see agent_bus.queue.Queue

    async def claim(self) -> Claim | None:
        """Take the next task; None when there is none or Redis is away, and when it is slow (it is kept for later)."""
        return await self._turns.claim()

    async def extend(self, claim: Claim) -> None:
        """Renew all leases of this instance.

        Raises:
            QueueUnavailable: Redis is away.
        """
        await self.leases.renew()

    async def remember(self, claim: Claim, *, session_id: str | None) -> None:
        """Store the conversation's id beside the entry, and for the session where the task has one.

        Raises:
            QueueUnavailable: it is not stored.
        """
        claim.session_id = session_id
        claim.notes["session_id"] = session_id
        session = claim.task.session or ""
        arguments: list[Argument] = [*self._head, claim.token, _encode(claim.notes), session, session_id or ""]
        await self._run("remember", arguments)

    async def complete(self, claim: Claim, result: Result) -> bool:
        """Store the result unless there is one, and let go.

        Raises:
            ResultNotStored: it was not stored, as far as is known; the task stays claimed.
        """
        return await self._end(claim, encode_result(result))

    async def release(
        self,
        claim: Claim,
        *,
        spend_attempt: bool,
        not_before: datetime | None = None,
        reason: str = "",
        result: Result | None = None,
    ) -> None:
        """Give the entry back, where any replica may take it.

        Raises:
            QueueUnavailable: it is still claimed.
        """
        note = b""
        if not_before is not None or claim.notes or result is not None:
            notes = {**claim.notes, "released_because": reason}
            notes["not_before"] = not_before.timestamp() if not_before is not None else 0.0
            if result is not None:
                notes["result"] = json.loads(encode_result(result))
            note = _encode(notes)
        attempt = claim.attempt + 1 if spend_attempt else claim.attempt
        due_ms = int(1000 * not_before.timestamp()) if not_before is not None else 0
        await self._run("release", [*self._head, self.keys.bell, claim.token, attempt, due_ms, note])
        self._held.pop(claim.token, None)
        self._look_again()

    async def bury(self, claim: Claim, reason: DeadLetterReason, message: str, result: Result | None) -> None:
        """Set the entry aside; a result, where given, is stored with its end.

        Raises:
            BusError: it is not done; try again.
        """
        held = self._held.get(claim.token)
        if held is None or not held.letter_written:
            refusal = TriggerRejected(reason, message, task_id=claim.task.task_id)
            body = claim.task.model_dump_json(exclude_unset=True).encode()
            await self._write_letter(Refused(claim.token, claim.attempt, body, refusal))
            if held is not None:
                held.letter_written = True
        await self._end(claim, encode_result(result) if result is not None else b"")

    # -- inside

    async def _end(self, claim: Claim, body: bytes) -> bool:
        held = self._held.get(claim.token)
        if held is not None:
            held.ending = True
        try:
            stored = await self._turns.end(claim.token, claim.task.task_id, claim.task.session or "", body)
        except BaseException:
            if held is not None:
                held.ending = False
            raise
        self._held.pop(claim.token, None)
        return stored

    async def _run(self, name: str, arguments: list[Argument] | tuple[Argument, ...]) -> object:
        return await self.caller.run(on_stream(name), (self.keys.tasks,), arguments)

    def _all_held(self) -> list[Held]:
        # What is being set aside may end at any moment.
        refused = (Held(one.entry, "", "", one.attempt, ending=True) for one in self._refused.values())
        return [*self._held.values(), *refused]

    def _took(self, claim: Claim) -> None:
        task = claim.task
        self._held[claim.token] = Held(claim.token, task.task_id, task.session or "", claim.attempt)

    def _look_again(self) -> None:
        self._turns.notice()
        self._observer.ready()

    def _connection_changed(self, connected: bool) -> None:
        if connected:
            self._look_again()

    def _refuse(self, refused: Refused) -> None:
        self._refused[refused.entry] = refused
        self._refused_any.set()

    def _give_back_soon(self, claim: Claim) -> None:
        self._unwanted.append(claim)
        self._refused_any.set()

    async def _set_aside_forever(self) -> None:
        while True:
            await self._refused_any.wait()
            self._refused_any = anyio.Event()
            try:
                while self._unwanted:
                    await self.release(self._unwanted[-1], spend_attempt=False)
                    self._unwanted.pop()
                for refused in list(self._refused.values()):
                    await self._set_aside(refused)
                    del self._refused[refused.entry]
            except QueueUnavailable:
                await anyio.sleep(_BURY_RETRY_S)
                self._refused_any.set()

    async def _set_aside(self, refused: Refused) -> None:
        """Answer for it where its id is known, write the letter, then end the entry."""
        refusal = refused.refusal
        if refusal.task_id is not None:
            answer = refusal_result(
                refusal.task_id,
                kind=refusal.reason.value,
                message=refusal.message,
                worker=self._worker,
                instance=self._instance,
            )
            arguments: list[Argument] = [*self._result_limits, refusal.task_id, encode_result(answer)]
            words = await self.caller.run(store_only(), (RESULTS,), arguments)
            if not isinstance(words[0], int):
                raise QueueUnavailable(f"the answer to task {refusal.task_id} cannot be stored: {words[0]!r}")
        await self._write_letter(refused)
        await self._run("bury", [*self._head, refused.entry])

    async def _write_letter(self, refused: Refused) -> None:
        refusal, now = refused.refusal, utc_now()
        attempts = refused.attempt - 1
        name = await self.caller.command(
            *("XADD", self.keys.dead_letters, "MAXLEN", "~", redis_keys.MOST_DEAD_LETTERS, "*"),
            *("reason", refusal.reason.value, "message", refusal.message, "task_id", refusal.task_id or ""),
            *("task", refused.body, "entry", refused.entry, "attempts", attempts, "buried_at", now.isoformat()),
            *("worker", self._worker, "instance", self._instance),
        )
        self._observer.buried(
            DeadLetter(
                name=name.decode(),
                original_name=refused.entry,
                reason=refusal.reason.value,
                message=refusal.message,
                worker=self._worker,
                instance=self._instance,
                buried_at=now,
                task_id=refusal.task_id,
                attempts=attempts,
            )
        )


def _encode(notes: dict[str, object]) -> bytes:
    return json.dumps(notes, default=str).encode()
