"""Where a task is in Redis, and putting it there or taking it back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic_core import from_json

from agent_bus.commands import Command, CommandName
from agent_bus.errors import QueueUnavailable
from agent_bus.messages import Result
from agent_bus.redis.caller import Argument, RedisCaller
from agent_bus.redis.connection import explain
from agent_bus.redis.keys import GROUP, INDEX_TTL_S, WAITING, WorkerKeys, result_by_id
from agent_bus.redis.scripts import on_stream
from orchestrator_service.transports.base import Dispatch, Place, Undelivered
from orchestrator_service.transports.result_files import read_result

_BATCH: Final = 500
_BATCH_BYTES: Final = 4 * 1024 * 1024
_PAGE: Final = 500
_MOST_INDEXED: Final = 100_000
_MOST_RUNNING: Final = 10_000


class RedisTasks:
    """Tasks in Redis, seen from outside. Every method but `send` raises `QueueUnavailable` when Redis is away."""

    def __init__(self, caller: RedisCaller) -> None:
        """Ask by way of `caller`."""
        self._caller = caller
        self._client: Any = caller.client
        self._entries: dict[str, dict[str, list[str]]] = {}
        """Worker → task id → the entries in which it was seen, oldest first; a guess, the stream is the truth."""
        self._seen_to: dict[str, str] = {}
        """Worker → the last entry of its stream that was looked at."""
        self._doubtful: dict[str, Dispatch] = {}
        """Handed over when the connection was lost: whether they arrived is not known."""
        self._begun: dict[str, str] = {}
        """Wire id → the worker that had taken one of those before it could be taken back."""

    # -- out

    async def send(self, dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        """Add an entry for each, and ring the bells."""
        try:
            # What is in doubt was told as not delivered, and may have gone elsewhere since.
            await self.settle_doubts()
        except QueueUnavailable as error:
            return [Undelivered(dispatch=dispatch, reason=f"{error}.") for dispatch in dispatches]
        undelivered: list[Undelivered] = []
        # What another worker has begun is on its way already; its result counts wherever it comes from.
        wanted = [one for one in dispatches if self._begun.get(one.wire_id, one.worker) == one.worker]
        for batch in _batches(wanted):
            undelivered += await self._send_batch(batch)
        return undelivered

    async def _send_batch(self, batch: Sequence[Dispatch]) -> list[Undelivered]:
        try:
            with self._caller.noted():
                answers = await self._add(batch)
        except QueueUnavailable as error:
            # A second entry of the same id at the same worker is harmless: workers refuse it. Elsewhere it is not,
            # and so each of these is taken back, if it is there, before anything else is sent.
            self._doubtful.update((dispatch.wire_id, dispatch) for dispatch in batch)
            reason = f"{error}; whether the task arrived there is not known."
            return [Undelivered(dispatch=dispatch, reason=reason) for dispatch in batch]
        undelivered: list[Undelivered] = []
        for dispatch, answer in zip(batch, answers, strict=False):
            if isinstance(answer, bytes):
                known = self._entries.setdefault(dispatch.worker, {})
                known.setdefault(dispatch.wire_id, []).append(answer.decode())
            else:
                reason = f"{explain(answer, self._caller.address)}."
                undelivered.append(Undelivered(dispatch=dispatch, reason=reason))
        return undelivered

    async def _add(self, batch: Sequence[Dispatch]) -> list[Any]:
        """Return an entry or an error for each."""
        bells = dict.fromkeys(WorkerKeys(dispatch.worker).bell for dispatch in batch)
        if self._caller.is_cluster:
            added = [
                await self._client.xadd(WorkerKeys(dispatch.worker).tasks, {"task": dispatch.body})
                for dispatch in batch
            ]
            for bell in bells:
                await self._client.publish(bell, b"")
            return added
        async with self._client.pipeline(transaction=False) as pipe:
            for dispatch in batch:
                pipe.xadd(WorkerKeys(dispatch.worker).tasks, {"task": dispatch.body})
            for bell in bells:
                pipe.publish(bell, b"")
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    async def settle_doubts(self) -> None:
        """Take back what arrived although it was told as not delivered."""
        for dispatch in list(self._doubtful.values()):
            if not await self.withdraw(dispatch.worker, dispatch.wire_id):
                place = await self.locate(dispatch.worker, dispatch.wire_id)
                if place is not Place.GONE:
                    self._begun[dispatch.wire_id] = dispatch.worker
            self._doubtful.pop(dispatch.wire_id, None)

    async def withdraw(self, worker: str, task_id: str) -> bool:
        """Remove a task that no instance has; True when it was there and nobody can run it any more."""
        entries = await self._entries_of(worker, task_id)
        if not entries:
            return False
        arguments: list[Argument] = [worker, "orchestrator", INDEX_TTL_S, task_id, *entries]
        removed = await self._caller.run(on_stream("withdraw"), (WorkerKeys(worker).tasks,), arguments)
        if int(removed) > 0:
            self.forget(worker, task_id)
        return int(removed) > 0

    async def cancel(self, worker: str, task_id: str) -> None:
        """Ask for the end of a task: one that waits ends when its turn comes, one that runs at once."""
        with self._caller.noted():
            await self._client.set(WorkerKeys(worker).cancel(task_id), b"1", ex=INDEX_TTL_S)
        await self.tell(worker, Command(name=CommandName.CANCEL, task_id=task_id))

    async def tell(self, worker: str, command: Command) -> bool:
        """Send a command to all instances of a worker; False when none of them listens."""
        with self._caller.noted():
            heard = await self._client.publish(WorkerKeys(worker).control, command.encode().strip())
        # A node of a cluster knows its own listeners alone.
        return int(heard) > 0 or self._caller.is_cluster

    # -- where it is

    async def locate(self, worker: str, task_id: str) -> Place:
        """Look for a task."""
        with self._caller.noted():
            if await self._client.exists(result_by_id(task_id)):
                return Place.ENDED
            place = await self._place_of(worker, await self._entries_of(worker, task_id))
            if place is Place.GONE:
                # It may have been handed in again under another entry.
                self._entries[worker].pop(task_id, None)
                place = await self._place_of(worker, await self._entries_of(worker, task_id))
            if place is Place.GONE and await self._client.exists(result_by_id(task_id)):
                return Place.ENDED
        return place

    async def result(self, worker: str, task_id: str) -> Result | None:
        """Return the result, or None while there is none.

        Raises:
            BrokenResult: it cannot be understood.
        """
        key = result_by_id(task_id)
        with self._caller.noted():
            body = await self._client.get(key)
        return None if body is None else read_result(body, f"{key} in Redis", worker, task_id)

    async def running(self, workers: Iterable[str]) -> dict[str, list[str]]:
        """Return who holds what."""
        holders: dict[str, list[str]] = {}
        for worker in workers:
            keys = WorkerKeys(worker)
            with self._caller.noted():
                instances = [name for name, pending in await self._consumers(keys) if pending and name != WAITING]
                if not instances:
                    continue
                ids = {entry: task_id for task_id, entry in (await self._client.hgetall(keys.ids)).items()}
                for instance in instances:
                    for row in await self._client.xpending_range(
                        keys.tasks, GROUP, "-", "+", _MOST_RUNNING, consumername=instance
                    ):
                        task_id = ids.get(row["message_id"], row["message_id"])
                        holders.setdefault(task_id.decode("utf-8", "replace"), []).append(f"{worker}/{instance}")
        return holders

    def forget(self, worker: str, task_id: str) -> None:
        """Drop what is known of a task that has ended."""
        self._entries.get(worker, {}).pop(task_id, None)
        self._doubtful.pop(task_id, None)
        self._begun.pop(task_id, None)

    async def _place_of(self, worker: str, entries: list[str]) -> Place:
        keys = WorkerKeys(worker)
        place = Place.GONE
        for entry in entries:
            if not await self._client.xrange(keys.tasks, entry, entry):
                continue
            place = Place.WAITING
            if await self._consumers(keys):
                rows = await self._client.xpending_range(keys.tasks, GROUP, entry, entry, 1)
                if rows and rows[0]["consumer"] != WAITING.encode():
                    return Place.TAKEN
        return place

    async def _consumers(self, keys: WorkerKeys) -> list[tuple[str, int]]:
        from redis.exceptions import ResponseError

        try:
            rows = await self._client.xinfo_consumers(keys.tasks, GROUP)
        except ResponseError as error:
            # No worker has looked at it yet, or there is no such stream.
            if "NOGROUP" in str(error) or "no such key" in str(error):
                return []
            raise
        return [(row["name"].decode("utf-8", "replace"), int(row["pending"])) for row in rows]

    async def _entries_of(self, worker: str, task_id: str) -> list[str]:
        """Return the entries that may hold the task; what was added since the last look is looked at."""
        known = self._entries.setdefault(worker, {})
        if task_id in known:
            return known[task_id]
        if len(known) > _MOST_INDEXED:
            known.clear()
            self._seen_to.pop(worker, None)
        after = self._seen_to.get(worker)
        while True:
            with self._caller.noted():
                page = await self._client.xrange(
                    WorkerKeys(worker).tasks, "-" if after is None else f"({after}", "+", count=_PAGE
                )
            for entry, fields in page:
                after = self._seen_to[worker] = entry.decode()
                # An entry that was deleted while it was read has no fields.
                found = _id_in((fields or {}).get(b"task", b"")) or f"{worker}-{after}"
                if after not in (entries := known.setdefault(found, [])):
                    entries.append(after)
            if len(page) < _PAGE:
                return known.get(task_id, [])


def _batches(dispatches: Sequence[Dispatch]) -> Iterable[list[Dispatch]]:
    batch: list[Dispatch] = []
    size = 0
    for dispatch in dispatches:
        if batch and (len(batch) >= _BATCH or size + len(dispatch.body) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(dispatch)
        size += len(dispatch.body)
    if batch:
        yield batch


def _id_in(body: bytes) -> str | None:
    try:
        fields = from_json(body)
    except ValueError:
        return None
    task_id = fields.get("task_id") if isinstance(fields, dict) else None
    return task_id if isinstance(task_id, str) else None
