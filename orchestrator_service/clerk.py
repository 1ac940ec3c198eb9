"""Hears what comes back from workers and writes it down, in groups: what comes meanwhile is in the next one."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Final

import anyio

from agent_bus.messages import Event, Heartbeat
from agent_bus.questions import Question
from orchestrator_service.core import Core
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.scheduling.settling import begin, note_broken, settle
from orchestrator_service.scheduling.step import Step
from orchestrator_service.transports.base import HeardResult

log = logging.getLogger(__name__)

_MOST_TOGETHER: Final = 50
_LEDGER_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class Clerk:
    """The ears of the orchestrator (`transports.base.Ears`)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._results: list[HeardResult] = []
        self._begun: list[str] = []
        self._broken: dict[str, str] = {}
        self._writing = False
        self.on_stored: Callable[[HeardResult], None] = lambda heard: None
        """Told of each result that the ledger has."""
        self.on_event: Callable[[Event], None] = lambda event: None
        """Told of what agents and workers do, as far as it is told live."""
        self.on_question: Callable[[str, Question], None] = lambda transport, question: None
        """Told of what agents ask of people, and of what came of it; the transport is given first."""
        self.on_beat: Callable[[Heartbeat], None] = lambda beat: None
        """Told of each sign of life."""

    # -- transports.base.Ears

    def hear_result(self, heard: HeardResult) -> None:
        """Write a result down, soon."""
        self._results.append(heard)
        self._write_soon()

    def hear_broken_result(self, transport: str, worker: str, wire_id: str, reason: str) -> None:
        """Write down that a result cannot be understood."""
        if wire_id in self._core.open:
            self._broken[wire_id] = reason
            self._write_soon()

    def hear_started(self, transport: str, worker: str, wire_id: str) -> None:
        """Write down that an agent has a task, if it is one of ours."""
        if wire_id in self._core.open and wire_id not in self._core.begun:
            self._core.begun.add(wire_id)
            self._begun.append(wire_id)
            self._write_soon()

    def hear_heartbeat(self, transport: str, beat: Heartbeat) -> None:
        """Take note of a worker that lives, and of what it runs."""
        core = self._core
        if core.fleet.hear(transport, beat):
            core.spawn(self._remember_worker(beat.worker), "remember worker")
        for wire_id in beat.current_tasks:
            self.hear_started(transport, beat.worker, wire_id)
        core.look_at_fleet()
        self.on_beat(beat)

    def hear_event(self, transport: str, event: Event) -> None:
        """Pass an event on to whoever listens."""
        self.on_event(event)

    def hear_question(self, transport: str, question: Question) -> None:
        """Pass a question on to the inbox."""
        self.on_question(transport, question)

    # --

    async def _remember_worker(self, name: str) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO workers (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (name,))

        try:
            await self._core.database.write(write)
        except LedgerUnavailable:
            log.debug("worker %s is not remembered now", name)

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            self._core.spawn(self._write(), "write results")

    async def _write(self) -> None:
        failures = 0
        try:
            while self._results or self._begun or self._broken:
                results, self._results = self._results[:_MOST_TOGETHER], self._results[_MOST_TOGETHER:]
                begun, self._begun = self._begun, []
                broken, self._broken = self._broken, {}
                try:
                    await self._write_together(begun, results, broken)
                except LedgerUnavailable:
                    # Nothing is lost: it is kept here, and its files and streams are kept where they are.
                    self._results = results + self._results
                    self._begun = begun + self._begun
                    self._broken = {**broken, **self._broken}
                    await anyio.sleep(_LEDGER_RETRY_S[min(failures, len(_LEDGER_RETRY_S) - 1)])
                    failures += 1
                    continue
                failures = 0
        finally:
            self._writing = False

    async def _write_together(self, begun: list[str], results: list[HeardResult], broken: dict[str, str]) -> None:
        try:
            await self._core.change(lambda step: _write_down(step, begun, results, broken))
        except (ValueError, OverflowError, TypeError, sqlite3.Error) as error:
            if len(results) + len(begun) + len(broken) > 1:
                # One of them cannot be kept; it keeps no other one out.
                await self._write_one_by_one(begun, results, broken)
                return
            log.exception("what a worker told cannot be kept", extra={"action": "cannot_be_kept"})
            for heard in results:
                await self._tell_broken(heard.result.task_id, error)
        else:
            self._forget(results)

    async def _write_one_by_one(self, begun: list[str], results: list[HeardResult], broken: dict[str, str]) -> None:
        for wire_id in begun:
            await self._write_together([wire_id], [], {})
        for heard in results:
            await self._write_together([], [heard], {})
        for wire_id, reason in broken.items():
            await self._write_together([], [], {wire_id: reason})

    async def _tell_broken(self, wire_id: str, error: Exception) -> None:
        reason = f"The result of {wire_id} cannot be kept: {error}."
        await self._core.change(lambda step: note_broken(step, wire_id, reason))

    def _forget(self, results: list[HeardResult]) -> None:
        for heard in results:
            self._core.open.pop(heard.result.task_id, None)
            self._core.begun.discard(heard.result.task_id)
            if heard.on_stored is not None:
                heard.on_stored()
            self.on_stored(heard)


def _write_down(step: Step, begun: list[str], results: list[HeardResult], broken: dict[str, str]) -> None:
    for wire_id in begun:
        begin(step, wire_id)
    for heard in results:
        settle(step, heard)
    for wire_id, reason in broken.items():
        note_broken(step, wire_id, reason)
