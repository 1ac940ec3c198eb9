"""Carrying out what the scheduler decided: handing over, taking back, asking for an end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio

from orchestrator_service.core import Core
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.scheduling.settling import not_delivered, take_back
from orchestrator_service.scheduling.step import Effects, OpenRun
from orchestrator_service.transports.base import Dispatch, Transport, Undelivered

log = logging.getLogger(__name__)

_LEDGER_RETRY_S: Final = 1.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


class Dispatcher:
    """Hands dispatches to their transports, in order, those that come together in one go."""

    def __init__(self, core: Core, transports: Mapping[str, Transport]) -> None:
        self._core = core
        self._transports = transports
        self._outbox: defaultdict[str, list[Dispatch]] = defaultdict(list)
        self._unsent: set[str] = set()
        """Wire ids of what has been decided and is not with its transport yet."""
        self._idle: dict[str, asyncio.Event] = {}
        """Set while nothing is on its way to a transport."""
        self._pauses: dict[str, float] = {}
        """How long workers are left alone to which nothing could be handed over, in seconds."""
        core.carry_out.append(self._carry_out)

    def holds(self, wire_id: str) -> bool:
        """Tell whether a dispatch is on its way to its transport: nobody else can know of it yet."""
        return wire_id in self._unsent

    def _carry_out(self, effects: Effects) -> None:
        for dispatch in effects.dispatches:
            self._unsent.add(dispatch.wire_id)
            self._outbox[dispatch.transport].append(dispatch)
            idle = self._idle.setdefault(dispatch.transport, _set_event())
            if idle.is_set():
                idle.clear()
                self._core.spawn(self._send(dispatch.transport), "send")
        for run in effects.withdrawals:
            self._core.spawn(self.withdraw(run), "withdraw")
        for run in effects.cancels:
            self._core.spawn(self._end(run), "cancel")

    async def _send(self, name: str) -> None:
        try:
            while batch := self._outbox.pop(name, []):
                transport = self._transports.get(name)
                if transport is None:
                    reason = f"there is no way {name!r} to the workers now"
                    failures = [Undelivered(dispatch=dispatch, reason=reason) for dispatch in batch]
                else:
                    failures = await self._hand_over(transport, batch)
                self._unsent.difference_update(dispatch.wire_id for dispatch in batch)
                if failures:
                    await self._put_back(failures)
        finally:
            self._idle[name].set()

    async def _hand_over(self, transport: Transport, batch: list[Dispatch]) -> list[Undelivered]:
        try:
            failures = await transport.send(batch)
        except Exception:
            # Which of them arrived is not known; each is looked for with the next checks, and what follows is sent.
            log.exception("%d task(s) may not be handed over", len(batch), extra={"action": "send_failed"})
            return []
        lost = {failure.dispatch.worker for failure in failures}
        for worker in {dispatch.worker for dispatch in batch} - lost:
            self._pauses.pop(worker, None)
        return failures

    async def _put_back(self, failures: list[Undelivered]) -> None:
        log.warning(
            "%d task(s) could not be handed over: %s",
            len(failures),
            failures[0].reason,
            extra={"action": "undelivered", "tasks": len(failures)},
        )
        for failure in failures:
            self._core.open.pop(failure.dispatch.wire_id, None)
            self._leave_alone(failure.dispatch.worker, failure.reason)
        while True:
            try:
                await self._core.change(lambda step: not_delivered(step, failures))
            except LedgerUnavailable:
                await anyio.sleep(_LEDGER_RETRY_S)
            else:
                return

    def _leave_alone(self, worker: str, reason: str) -> None:
        """Plan nothing for a worker for a while; longer each time, until something reaches it again."""
        fleet = self._core.fleet
        if worker in fleet.unreachable:
            return
        fleet.unreachable[worker] = reason.rstrip(".")
        pause = self._pauses[worker] = min(_LONGEST_PAUSE_S, 2 * self._pauses.get(worker, _FIRST_PAUSE_S / 2))
        self._core.look_at_fleet()
        self._core.spawn(self._try_again(worker, pause * random.uniform(0.75, 1.0)), "reach worker")

    async def _try_again(self, worker: str, pause: float) -> None:
        await anyio.sleep(pause)
        self._core.fleet.unreachable.pop(worker, None)
        self._core.look_at_fleet()
        with suppress(LedgerUnavailable):
            await self._core.change(lambda step: None)

    async def withdraw(self, run: OpenRun) -> bool:
        """Take a dispatch back if no instance has claimed it; its task is planned anew. True if it was taken back."""
        transport = self._transports.get(run.transport)
        if transport is None:
            return False
        if (idle := self._idle.get(run.transport)) is not None:
            # What is not handed over yet cannot be taken back.
            await idle.wait()
        if not await transport.withdraw(run.worker, run.wire_id):
            return False
        self._core.open.pop(run.wire_id, None)
        while True:
            try:
                await self._core.change(lambda step: take_back(step, run.wire_id))
            except LedgerUnavailable:
                await anyio.sleep(_LEDGER_RETRY_S)
            else:
                return True

    async def _end(self, run: OpenRun) -> None:
        if not await self.withdraw(run) and run.transport in self._transports:
            await self._transports[run.transport].cancel(run.worker, run.wire_id)


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
