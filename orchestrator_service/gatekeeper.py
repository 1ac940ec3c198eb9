"""The gates of the team's credentials: which are closed, told as they close and open, and the end of a wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from agent_bus.commands import Command, CommandName
from agent_bus.errors import QueueUnavailable
from agent_bus.gates import GateNotice, closed_gates, open_gate
from agent_bus.messages import Heartbeat
from orchestrator_service.accounts import GateRecord
from orchestrator_service.core import Core
from orchestrator_service.errors import LedgerUnavailable, NotKnown, Unavailable
from orchestrator_service.scheduling.step import Step
from orchestrator_service.transports.base import Transport

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""How often one looks while a gate is closed: its file may go, or its time may come."""


class RemoteGates(Protocol):
    """Gates that are seen on other machines, too."""

    async def closed(self, gate_ids: list[str]) -> dict[str, GateNotice]:
        """Return the notices of those that are closed."""

    async def open(self, gate_id: str, notice: GateNotice, by: str) -> None:
        """Open one, and tell everybody."""


class Gatekeeper:
    """Knows the closed gates."""

    def __init__(self, core: Core, transports: Mapping[str, Transport], directory: Path) -> None:
        """Look at the gates in `directory`, and tell the workers by `transports`."""
        self._core = core
        self._transports = transports
        self._directory = directory
        self.remote: RemoteGates | None = None
        """Plugged in where there is a Redis."""
        self._closed: dict[str, GateNotice] | None = None
        """None until it has looked once: what was closed before is no news."""
        self._looking = asyncio.Lock()
        self._due = asyncio.Event()
        self._due.set()

    def hear(self, beat: Heartbeat) -> None:
        """Look soon if a heartbeat tells of a gate that is closed."""
        if beat.parked_until is not None:
            self._due.set()

    async def run_forever(self) -> None:
        """Tell of gates that close and open, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            with suppress(LedgerUnavailable):
                await self.look()
            if self._closed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._due.wait()
                self._due.set()

    async def look(self) -> dict[str, GateNotice]:
        """Return the gates that are closed now, and tell of those that have closed or opened since the last look."""
        async with self._looking:
            return await self._look({})

    async def records(self) -> list[GateRecord]:
        """Return the gates that are closed now."""
        closed = await self.look()
        return [self._record(gate_id, notice) for gate_id, notice in sorted(closed.items())]

    async def open(self, gate_id: str, by: str) -> GateRecord:
        """End the wait behind a gate now, and return how it was.

        Raises:
            NotKnown: none of that id is closed.
            Unavailable: its file cannot be removed, or Redis is away.
        """
        async with self._looking:
            notice = (await self._look({})).get(gate_id)
            if notice is None:
                raise NotKnown("closed gate", gate_id)
            record = self._record(gate_id, notice)
            try:
                await asyncio.get_running_loop().run_in_executor(None, partial(open_gate, self._directory, gate_id))
                if self.remote is not None:
                    await self.remote.open(gate_id, notice, by)
            except OSError as error:
                raise Unavailable(f"The gate {gate_id} cannot be opened: {error.strerror or error}.") from error
            except QueueUnavailable as error:
                raise Unavailable(f"The gate {gate_id} cannot be opened everywhere: {error}.") from error
            log.info("the gate %s was opened by %s", gate_id, by, extra={"action": "gate_opened", "gate": gate_id})
            await self._look({gate_id: by})
        for worker in record.workers:
            for transport in self._transports.values():
                await transport.tell(worker, Command(name=CommandName.WAKE))
        return record

    async def _look(self, openers: dict[str, str]) -> dict[str, GateNotice]:
        closed = await asyncio.get_running_loop().run_in_executor(None, closed_gates, self._directory)
        if self.remote is not None:
            with suppress(QueueUnavailable):
                for gate_id, notice in (await self.remote.closed(sorted({*self._known(), *closed}))).items():
                    if gate_id not in closed or notice.until > closed[gate_id].until:
                        closed[gate_id] = notice
        before, self._closed = self._closed, closed
        if before is not None:
            told = _news(before, closed, openers)
            if told:
                try:
                    await self._core.change(lambda step: _tell(step, told))
                except LedgerUnavailable:
                    # It is told when it can be.
                    self._closed = before
                    raise
        return closed

    def _known(self) -> set[str]:
        """Return the gates that heartbeats name."""
        found = {beat.heartbeat.gate_id for beat in self._core.fleet.beats.values()}
        return {gate_id for gate_id in found if gate_id is not None}

    def _record(self, gate_id: str, notice: GateNotice) -> GateRecord:
        fleet = self._core.fleet
        sharing = [
            beat.heartbeat
            for beat in fleet.beats.values()
            if beat.heartbeat.gate_id == gate_id and fleet.is_alive(beat)
        ]
        workers = sorted({beat.worker for beat in sharing})
        return GateRecord(
            gate_id=gate_id,
            kind=notice.kind,
            message=notice.message,
            worker=notice.worker,
            closed_at=notice.closed_at,
            until=notice.until,
            parked_tasks=sum(self._waiting_at(worker, sharing) for worker in workers),
            workers=workers,
        )

    def _waiting_at(self, worker: str, sharing: list[Heartbeat]) -> int:
        beats = [beat for beat in sharing if beat.worker == worker]
        running = {task for beat in beats for task in beat.current_tasks}
        ours = sum(run.worker == worker and run.wire_id not in running for run in self._core.open.values())
        # Instances on one queue see the same tasks; what was handed to the worker directly only they know of.
        return max(ours, *(beat.queue_size for beat in beats))


def _news(
    before: dict[str, GateNotice], now: dict[str, GateNotice], openers: dict[str, str]
) -> list[tuple[str, dict[str, Any], str]]:
    told: list[tuple[str, dict[str, Any], str]] = []
    for gate_id, notice in before.items():
        if gate_id not in now:
            told.append(("gate_opened", {"gate_id": gate_id, "by": openers.get(gate_id)}, notice.worker))
    for gate_id, notice in now.items():
        if gate_id not in before or before[gate_id].until != notice.until:
            data = {
                "gate_id": gate_id,
                "kind": notice.kind,
                "until": notice.until.isoformat(timespec="seconds").replace("+00:00", "Z"),
                "message": notice.message,
            }
            told.append(("gate_closed", data, notice.worker))
    return told


def _tell(step: Step, told: list[tuple[str, dict[str, Any], str]]) -> None:
    for event, data, worker in told:
        step.happened(event, data, worker=worker)
