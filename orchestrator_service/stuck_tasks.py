"""Tells the team of tasks that do not get on: heartbeats name them, and what their worker says stands in the journal.

A worker beats at once when it finds a task stuck, or moving again. What was told is told once, however often a
heartbeat says it and however often the orchestrator starts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from agent_bus.messages import Heartbeat
from orchestrator_service.core import Core
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.ledger import queries
from orchestrator_service.scheduling.step import OpenRun, Step
from orchestrator_service.transports.base import Transport

STUCK: Final = "task_stuck"
UNSTUCK: Final = "task_unstuck"
_WORDS: Final = {STUCK: "The task seems stuck.", UNSTUCK: "The task moves again."}


class StuckTasks:
    """Compares each heartbeat with the one before, and writes down what has changed."""

    def __init__(self, core: Core, transports: Mapping[str, Transport]) -> None:
        self._core = core
        self._transports = transports
        self._named: dict[tuple[str, str], set[str]] = {}
        """The runs that each instance named last, where it is known."""
        self._in_order = asyncio.Lock()

    def hear(self, beat: Heartbeat) -> None:
        """Take note of what a heartbeat names."""
        now, whose = set(beat.stuck_tasks), (beat.worker, beat.instance)
        before = self._named.get(whose)
        if before is None:
            # The first one since the start: what was told to be stuck may move by now.
            before = {run.wire_id for run in self._core.open.values() if run.worker == beat.worker} - now
            # Each start of a worker is another instance: those that nobody hears any more are forgotten.
            self._named = {known: runs for known, runs in self._named.items() if known in self._core.fleet.beats}
        self._named[whose] = now
        for wire_id in sorted(now - before):
            self._core.spawn(self._tell(STUCK, wire_id), STUCK)
        for wire_id in sorted(before - now):
            self._core.spawn(self._tell(UNSTUCK, wire_id), UNSTUCK)

    async def _tell(self, event: str, wire_id: str) -> None:
        async with self._in_order:
            run = self._core.open.get(wire_id)
            # One that has ended needs no word, and another instance may know better.
            if run is None or self._core.fleet.is_stuck(wire_id) is not (event == STUCK):
                return
            with suppress(LedgerUnavailable):
                if await self._is_told(wire_id) is (event == STUCK):
                    return
                data = await self._said(run, event) or {"message": _WORDS[event]}
                await self._core.change(lambda step: _write_down(step, run, event, data))

    async def _is_told(self, wire_id: str) -> bool:
        return await self._core.database.read(
            lambda connection: queries.last_of(connection, wire_id, STUCK, UNSTUCK) == STUCK
        )

    async def _said(self, run: OpenRun, event: str) -> dict[str, Any] | None:
        """Return what the worker said of it last."""
        if (transport := self._transports.get(run.transport)) is None:
            return None
        name = f'"{event}"'.encode()
        for line in reversed(await transport.journal(run.worker, run.wire_id, 0)):
            if name not in line.line:
                continue
            # A worker that was killed may have left half a line.
            with suppress(ValueError):
                told = json.loads(line.line)
                if isinstance(told, dict) and told.get("event") == event and isinstance(told.get("data"), dict):
                    return dict(told["data"])
        return None


def _write_down(step: Step, run: OpenRun, event: str, data: dict[str, Any]) -> None:
    task_id, goal_id, open_still = queries.task_of_run(step.connection, run.wire_id)
    if open_still:
        step.happened(event, data, task_id=task_id, worker=run.worker, goal_id=goal_id)
