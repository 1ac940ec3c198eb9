"""Streams of events: one task's, with what its agent does, and the whole team's.

A task's stream has two sources, the ledger and the journal that the worker writes; its position names both:
`EVENT.TRY.BYTES`. Whoever comes back with a position misses nothing and gets nothing twice.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from orchestrator_service.core import Core
from orchestrator_service.errors import FieldProblem, OrderRefused
from orchestrator_service.ledger import queries
from orchestrator_service.records import FINAL_STATES, StreamEvent
from orchestrator_service.scheduling.step import Happening
from orchestrator_service.transports.base import JournalLine, Transport

_PAGE: Final = 1000
_POSITION: Final = re.compile(r"(\d{1,17})(?:\.(\d{1,6})\.(\d{1,15}))?")
_QUEUED: Final = 64


def _position(after: str | None) -> tuple[int, int, int]:
    if after is None or after == "":
        return 0, 0, 0
    match = _POSITION.fullmatch(after)
    if match is None:
        raise OrderRefused([FieldProblem("Last-Event-ID", after, "allowed is the id of an event of this stream")])
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)


class TaskStream:
    """What happened to one task, and what its agent does."""

    def __init__(self, core: Core, transports: Mapping[str, Transport], task_id: str, after: str | None) -> None:
        """Begin behind `after`.

        Raises:
            OrderRefused: it is no position.
        """
        self._core = core
        self._transports = transports
        self._task_id = task_id
        self._seq, self._try, self._bytes = _position(after)

    async def events(self, *, follow: bool) -> AsyncIterator[StreamEvent]:
        """Yield events, oldest first; with `follow` until the task has ended. Raises NotKnown."""
        ended = await self._core.database.read(self._has_ended)
        queue: asyncio.Queue[Happening | tuple[int, JournalLine] | None] = asyncio.Queue(_QUEUED)
        feeders: list[asyncio.Task[None]] = []
        try:
            for happening in await self._ledger_rows():
                async for event in self._told_before(happening):
                    yield event
                yield self._stamped(happening)
            if ended or not follow:
                async for event in self._rest_of_journal():
                    yield event
                if not follow or ended:
                    return
            feeders.append(asyncio.create_task(self._feed_happenings(queue)))
            journal = asyncio.create_task(self._feed_journal(queue))
            feeders.append(journal)
            while True:
                item = await queue.get()
                if item is None:
                    return
                if isinstance(item, tuple):
                    number, line = item
                    if number == self._try and line.position > self._bytes:
                        self._bytes = line.position
                        yield self._line(line)
                    continue
                if item.event in ("task_sent", "task_ended", "task_retrying"):
                    # The lines of a try come before what comes of it.
                    journal.cancel()
                    async for event in self._rest_of_journal():
                        yield event
                    journal = asyncio.create_task(self._feed_journal(queue))
                    feeders.append(journal)
                yield self._stamped(item)
                if item.event == "task_ended" and await self._core.database.read(self._has_ended):
                    return
        finally:
            for feeder in feeders:
                feeder.cancel()
            await asyncio.gather(*feeders, return_exceptions=True)

    def _has_ended(self, connection: sqlite3.Connection) -> bool:
        return queries.task_row(connection, self._task_id)[2] in FINAL_STATES

    async def _ledger_rows(self) -> list[Happening]:
        found: list[Happening] = []
        after = self._seq
        while True:
            rows = await self._core.database.read(
                lambda connection: queries.events_after(connection, after, _PAGE, self._task_id)  # noqa: B023
            )
            for seq, at, event, task_id, worker, goal_id, data in rows:
                found.append(Happening(seq, at, event, task_id, worker, goal_id, data))
            if len(rows) < _PAGE:
                return found
            after = rows[-1][0]

    async def _told_before(self, happening: Happening) -> AsyncIterator[StreamEvent]:
        if happening.event in ("task_ended", "task_retrying", "task_sent"):
            async for event in self._rest_of_journal(before=happening.seq):
                yield event

    def _stamped(self, happening: Happening) -> StreamEvent:
        self._seq = max(self._seq, happening.seq)
        stream = happening.stream
        return StreamEvent(id=self._here(), event=stream.event, data=stream.data)

    def _line(self, line: JournalLine) -> StreamEvent:
        return StreamEvent(id=self._here(), event="agent", data=line.line)

    def _here(self) -> str:
        return f"{self._seq}.{self._try}.{self._bytes}"

    async def _run(self, before: int | None = None) -> tuple[int, str, str, str] | None:
        """Return (number, worker, wire id, transport) of the last try, or of the last one sent before an event."""

        def look(connection: sqlite3.Connection) -> Any:
            return connection.execute(
                "SELECT r.number, r.worker, r.wire_id, r.transport FROM tasks AS t JOIN runs AS r ON r.seq = t.seq"
                " WHERE t.task_id = ? AND r.sent_at < COALESCE((SELECT at FROM events WHERE seq = ?), 1e18)"
                " ORDER BY r.number DESC LIMIT 1",
                (self._task_id, before),
            ).fetchone()

        found: tuple[int, str, str, str] | None = await self._core.database.read(look)
        return found

    async def _rest_of_journal(self, before: int | None = None) -> AsyncIterator[StreamEvent]:
        """Yield what is in the journal of a try now, behind what was told."""
        run = await self._run(before)
        if run is None or run[0] < self._try or run[3] not in self._transports:
            return
        number, worker, wire_id, transport = run
        if number > self._try:
            self._try, self._bytes = number, 0
        for line in await self._transports[transport].journal(worker, wire_id, self._bytes):
            self._bytes = line.position
            yield self._line(line)

    async def _feed_happenings(self, queue: asyncio.Queue[Any]) -> None:
        position = self._seq
        while happenings := await self._core.hub.after(position):
            position = happenings[-1].seq
            for happening in happenings:
                if happening.task_id == self._task_id:
                    await queue.put(happening)
        # The orchestrator stops: whoever follows comes back later with the position that it has.
        await queue.put(None)

    async def _feed_journal(self, queue: asyncio.Queue[Any]) -> None:
        run = await self._run()
        if run is None or run[3] not in self._transports:
            return
        number, worker, wire_id, transport = run
        if number > self._try:
            self._try, self._bytes = number, 0
        lines = self._transports[transport].follow(worker, wire_id, self._bytes)
        async with aclosing(lines):  # type: ignore[type-var]
            async for line in lines:
                await queue.put((number, line))


async def follow_team(
    core: Core, transports: Mapping[str, Transport], after: str | None, *, agent: bool
) -> AsyncIterator[StreamEvent]:
    """Yield what happens in the team from `after` on, or from now on; with `agent` what the agents do as well."""
    position = core.hub.last if after is None or after == "" else _position(after)[0]
    queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue(_QUEUED)
    feeders: dict[str, asyncio.Task[None]] = {}

    async def follow_agent(worker: str, wire_id: str, transport: str) -> None:
        at = 0
        present = await transports[transport].journal(worker, wire_id, 0)
        if present:
            at = present[-1].position
        lines = transports[transport].follow(worker, wire_id, at)
        async with aclosing(lines):  # type: ignore[type-var]
            async for line in lines:
                await queue.put(StreamEvent(id="", event="agent", data=line.line))

    def begin(wire_id: str) -> None:
        run = core.open.get(wire_id)
        if agent and run is not None and run.transport in transports and wire_id not in feeders:
            feeders[wire_id] = asyncio.create_task(follow_agent(run.worker, run.wire_id, run.transport))

    async def happenings() -> None:
        at = position
        while found := await core.hub.after(at):
            at = found[-1].seq
            for happening in found:
                await queue.put(happening.stream)
            if agent:
                for wire_id in core.open:
                    begin(wire_id)
                for wire_id in [wire_id for wire_id in feeders if wire_id and wire_id not in core.open]:
                    feeders.pop(wire_id).cancel()
        await queue.put(None)

    for wire_id in list(core.open):
        begin(wire_id)
    feeders[""] = asyncio.create_task(happenings())
    try:
        while (event := await queue.get()) is not None:
            yield event
    finally:
        for feeder in feeders.values():
            feeder.cancel()
        await asyncio.gather(*feeders.values(), return_exceptions=True)
