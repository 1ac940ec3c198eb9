"""Leases: an instance renews what it holds, and gives back what dead instances held.

An entry that nobody renewed for a whole lease counts as a dead owner's. After Redis was away all leases look like that,
so nobody judges others before it has had an unbroken connection for one lease: time for everybody to renew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import anyio

from agent_bus.errors import QueueUnavailable
from agent_bus.redis import keys as redis_keys
from agent_bus.redis.caller import Argument, RedisCaller
from agent_bus.redis.keys import WorkerKeys
from agent_bus.redis.scripts import on_stream
from agent_bus.redis.url import COMMAND_TIMEOUT_S

log = logging.getLogger(__name__)

_STRAY_S: Final = 3 * COMMAND_TIMEOUT_S
"""An entry of ours that we know nothing of, after so long: the answer that told of it was lost."""
_FORGET_INSTANCE_S: Final = 3600.0
_MOST_RECLAIMED: Final = 1000
_PAGE: Final = 1000


@dataclass(slots=True)
class Held:
    """A task that this instance holds."""

    entry: str
    task_id: str
    session: str
    attempt: int
    ending: bool = False
    """Its end is on the way to Redis."""
    lost: bool = False
    """Another instance has taken it over: the lease ran out, during a pause of this process, say."""
    letter_written: bool = False
    """It is among the dead letters already."""


class Leases:
    """Renews, reclaims and reconciles, three times a lease."""

    def __init__(
        self,
        caller: RedisCaller,
        keys: WorkerKeys,
        *,
        instance: str,
        lease_s: float,
        held: Callable[[], Iterable[Held]],
        ready: Callable[[], None],
    ) -> None:
        """Keep the leases of `held`, and call `ready` when something can be taken that could not before."""
        self._caller = caller
        self._keys = keys
        self._lease_s = lease_s
        self._held = held
        self._ready = ready
        self._head: tuple[Argument, ...] = (keys.worker, instance, redis_keys.INDEX_TTL_S)
        self._page_after = "-"
        self._at_once = anyio.Event()
        caller.on_change.append(self._connection_changed)

    async def run_forever(self) -> None:
        """Keep the leases until cancelled."""
        while True:
            with anyio.move_on_after(self._lease_s / 3):
                await self._at_once.wait()
            self._at_once = anyio.Event()
            try:
                await self.tend()
            except QueueUnavailable:
                # The caller tells of it; when Redis is back, this begins at once.
                continue

    async def tend(self) -> None:
        """Do all that is due.

        Raises:
            QueueUnavailable: Redis is away.
        """
        await self.renew()
        since = self._caller.answered_since
        if since is not None and time.monotonic() - since >= self._lease_s:
            await self.reclaim()
        await self.reconcile()

    async def renew(self) -> None:
        """Renew every lease, and notice those that are lost.

        Raises:
            QueueUnavailable: Redis is away; the leases run on.
        """
        held = {one.entry: one for one in self._held()}
        arguments: list[Argument] = [*self._head, int(1000 * min(_STRAY_S, self._lease_s))]
        for one in held.values():
            arguments += (one.entry, one.attempt, one.task_id, one.session)
        lost, strays = await self._caller.run(on_stream("renew"), (self._keys.tasks,), arguments)
        for entry in lost:
            one = held[entry.decode()]
            # It may have ended while the question was on its way.
            if not one.lost and not one.ending and any(one is other for other in self._held()):
                one.lost = True
                log.warning(
                    "task %s is not held here any more: its lease of %g s ran out, or its entry is gone",
                    one.task_id,
                    self._lease_s,
                    extra={"action": "lease_lost", "task_id": one.task_id},
                )
        if strays:
            self._ready()

    async def reclaim(self) -> int:
        """Give back what dead instances held; returns how many tasks that were.

        Raises:
            QueueUnavailable: Redis is away.
        """
        lease_ms, forget_ms = int(1000 * self._lease_s), int(1000 * max(_FORGET_INSTANCE_S, self._lease_s))
        arguments = [*self._head, lease_ms, forget_ms, _MOST_RECLAIMED, self._keys.bell]
        reclaimed = int(await self._caller.run(on_stream("reclaim"), (self._keys.tasks,), arguments))
        if reclaimed:
            log.warning(
                "%d task(s) of instances that died go on elsewhere", reclaimed, extra={"action": "tasks_reclaimed"}
            )
            self._ready()
        return reclaimed

    async def reconcile(self) -> int:
        """Index again what an index has lost: one page a time, and on while pages show losses.

        Raises:
            QueueUnavailable: Redis is away.
        """
        mended = 0
        while True:
            arguments = [*self._head, self._page_after, _PAGE]
            last, missing = await self._caller.run(on_stream("reconcile"), (self._keys.tasks,), arguments)
            mended += int(missing)
            self._page_after = f"({last.decode()}" if last else "-"
            if not missing or not last:
                break
        if mended:
            log.warning("%d waiting task(s) were not in the index", mended, extra={"action": "index_mended"})
            self._ready()
        return mended

    def _connection_changed(self, connected: bool) -> None:
        if connected:
            self._at_once.set()
