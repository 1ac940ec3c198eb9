"""Carrying out what the scheduler decided: handing over, taking back, asking for an end."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping

import anyio

from orchestrator_service.core import Core
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.scheduling.settling import not_delivered, take_back
from orchestrator_service.scheduling.step import Effects, OpenRun
from orchestrator_service.transports.base import Dispatch, Transport, Undelivered

log = logging.getLogger(__name__)

_LEDGER_RETRY_S = 1.0


class Dispatcher:
    """Hands dispatches to their transports, in order, those that come together in one go."""

    def __init__(self, core: Core, transports: Mapping[str, Transport]) -> None:
        self._core = core
        self._transports = transports
        self._outbox: defaultdict[str, list[Dispatch]] = defaultdict(list)
        self._idle: dict[str, asyncio.Event] = {}
        """Set while nothing is on its way to a transport."""
        core.carry_out.append(self._carry_out)

    def _carry_out(self, effects: Effects) -> None:
        for dispatch in effects.dispatches:
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
                    failures = await transport.send(batch)
                if failures:
                    await self._put_back(failures)
        finally:
            self._idle[name].set()

    async def _put_back(self, failures: list[Undelivered]) -> None:
        log.warning(
            "%d task(s) could not be handed over: %s",
            len(failures),
            failures[0].reason,
            extra={"action": "undelivered", "tasks": len(failures)},
        )
        for failure in failures:
            self._core.open.pop(failure.dispatch.wire_id, None)
        while True:
            try:
                await self._core.change(lambda step: not_delivered(step, failures))
            except LedgerUnavailable:
                await anyio.sleep(_LEDGER_RETRY_S)
            else:
                return

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
