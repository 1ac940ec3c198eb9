"""Streams of events: one task's, with what its agent does, and the whole team's.

A task's stream has two sources, the ledger and the journal that the worker writes; its position names both:
`EVENT.TRY.BYTES`. Whoever comes back with a position misses nothing and gets nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, NamedTuple

from orchestrator_service.core import Core
from orchestrator_service.errors import FieldProblem, LedgerUnavailable, OrderRefused
from orchestrator_service.ledger import queries
from orchestrator_service.records import FINAL_STATES, StreamEvent
from orchestrator_service.scheduling.step import Happening, OpenRun
from orchestrator_service.stuck_tasks import STUCK, UNSTUCK
from orchestrator_service.transports.base import JournalLine, Transport

_PAGE: Final = 1000
_POSITION: Final = re.compile(r"(\d{1,17})(?:\.(\d{1,6})\.(\d{1,15}))?")
_QUEUED: Final = 64
_ENDS: Final = frozenset(("task_ended", "task_retrying", "task_withdrawn"))
"""Behind such an event nothing comes from the try before it."""

_SAID_BY_THE_WORKER: Final = frozenset((STUCK, UNSTUCK))
"""What the team is told of them stands in the journal, and is not told twice."""


def _position(after: str | None) -> tuple[int, int, int]:
    if after is None or after == "":
        return 0, 0, 0
    match = _POSITION.fullmatch(after)
    if match is None:
        raise OrderRefused([FieldProblem("Last-Event-ID", after, "allowed is the id of an event of this stream")])
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)


class _Try(NamedTuple):
    """One time that the task was sent: where its journal is."""

    number: int
    worker: str
    wire_id: str
    transport: str


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
        self._seq, self._number, self._bytes = _position(after)
        self._try: _Try | None = None
        """The one whose lines are told now: that of the last `task_sent` that was told."""

    async def events(self, *, follow: bool) -> AsyncIterator[StreamEvent]:
        """Yield events, oldest first; with `follow` until the task has ended. Raises NotKnown."""
        queue: asyncio.Queue[Happening | tuple[str, JournalLine] | None] = asyncio.Queue(_QUEUED)
        # What comes behind this is heard live; what is before it is in the ledger by now.
        heard_from = self._core.hub.last
        happenings, ended, last_try = await self._look()
        if last_try is not None:
            self._turn_to(last_try)
        feeders: list[asyncio.Task[None]] = []
        try:
            for happening in happenings:
                async for event in self._told(happening):
                    yield event
            if ended or not follow:
                async for event in self._lines():
                    yield event
                return
            feeders.append(asyncio.create_task(self._feed_happenings(queue, max(heard_from, self._seq))))
            journal = self._feed_journal(queue, feeders)
            while (item := await queue.get()) is not None:
                if isinstance(item, tuple):
                    wire_id, line = item
                    if self._try is not None and wire_id == self._try.wire_id and line.position > self._bytes:
                        yield self._line(line)
                elif item.seq > self._seq:
                    async for event in self._told(item):
                        yield event
                    if item.event == "task_sent":
                        journal.cancel()
                        journal = self._feed_journal(queue, feeders)
                    elif item.event == "task_ended" and await self._core.database.read(self._has_ended):
                        return
        finally:
            for feeder in feeders:
                feeder.cancel()
            await asyncio.gather(*feeders, return_exceptions=True)

    def _has_ended(self, connection: sqlite3.Connection) -> bool:
        return queries.task_row(connection, self._task_id)[2] in FINAL_STATES

    async def _look(self) -> tuple[list[Happening], bool, _Try | None]:
        """Return what happened behind the position, whether the task has ended, and the try that was told last."""
        found: list[Happening] = []
        after = self._seq

        def look(connection: sqlite3.Connection) -> tuple[list[Any], bool, _Try | None]:
            rows = queries.events_after(connection, after, _PAGE, self._task_id)
            return rows, self._has_ended(connection), self._try_at(connection)

        while True:
            rows, ended, last_try = await self._core.database.read(look)
            found += [Happening(*row) for row in rows]
            if len(rows) < _PAGE:
                return found, ended, last_try
            after = rows[-1][0]

    def _try_at(self, connection: sqlite3.Connection) -> _Try | None:
        sent = connection.execute(
            "SELECT worker, data FROM events WHERE task_id = ? AND event = 'task_sent' AND seq <= ?"
            " ORDER BY seq DESC LIMIT 1",
            (self._task_id, self._seq),
        ).fetchone()
        if sent is not None:
            return _try_of(sent[0], json.loads(sent[1]))
        # One that was handed to its worker directly was never sent by us.
        run = connection.execute(
            "SELECT r.number, r.worker, r.wire_id, r.transport FROM tasks AS t JOIN runs AS r ON r.seq = t.seq"
            " WHERE t.task_id = ? AND t.origin IN ('file', 'redis')",
            (self._task_id,),
        ).fetchone()
        return None if run is None else _Try(*run)

    def _turn_to(self, following: _Try) -> None:
        self._try = following
        if following.number != self._number:
            self._number, self._bytes = following.number, 0

    async def _told(self, happening: Happening) -> AsyncIterator[StreamEvent]:
        """Yield an event, and before it the lines of the try that it puts an end to."""
        if happening.event in ("task_sent", "task_ended", "task_retrying"):
            async for event in self._lines():
                yield event
        self._seq = happening.seq
        if happening.event in _SAID_BY_THE_WORKER:
            return
        if happening.event == "task_sent":
            self._turn_to(_try_of(happening.worker, happening.data))
        stream = happening.stream
        yield StreamEvent(id=self._here(), event=stream.event, data=stream.data)

    async def _lines(self) -> AsyncIterator[StreamEvent]:
        """Yield what is in the journal now, behind what was told."""
        if self._try is None or self._try.transport not in self._transports:
            return
        _, worker, wire_id, transport = self._try
        for line in await self._transports[transport].journal(worker, wire_id, self._bytes):
            yield self._line(line)

    def _line(self, line: JournalLine) -> StreamEvent:
        self._bytes = line.position
        return StreamEvent(id=self._here(), event="agent", data=line.line)

    def _here(self) -> str:
        return f"{self._seq}.{self._number}.{self._bytes}"

    async def _feed_happenings(self, queue: asyncio.Queue[Any], position: int) -> None:
        with suppress(LedgerUnavailable):
            while happenings := await self._core.hub.after(position):
                position = happenings[-1].seq
                for happening in happenings:
                    if happening.task_id == self._task_id:
                        await queue.put(happening)
        # The orchestrator stops, or cannot read: whoever follows comes back later with the position that it has.
        await queue.put(None)

    def _feed_journal(self, queue: asyncio.Queue[Any], feeders: list[asyncio.Task[None]]) -> asyncio.Task[None]:
        feeder = asyncio.create_task(self._follow_journal(queue, self._try, self._bytes))
        feeders.append(feeder)
        return feeder

    async def _follow_journal(self, queue: asyncio.Queue[Any], of: _Try | None, after: int) -> None:
        if of is None or of.transport not in self._transports:
            return
        lines = self._transports[of.transport].follow(of.worker, of.wire_id, after)
        async with aclosing(lines):  # type: ignore[type-var]
            async for line in lines:
                await queue.put((of.wire_id, line))


def _try_of(worker: str | None, sent: Mapping[str, Any]) -> _Try:
    return _Try(int(sent["try"]), worker or "", str(sent["wire_id"]), str(sent["transport"]))


async def follow_team(
    core: Core, transports: Mapping[str, Transport], after: str | None, *, agent: bool
) -> AsyncIterator[StreamEvent]:
    """Yield what happens in the team from `after` on, or from now on; with `agent` what the agents do as well."""
    # A position beyond all events is of another ledger: from now on, then, rather than never.
    position = core.hub.last if after is None or after == "" else min(_position(after)[0], core.hub.last)
    if not agent:
        with suppress(LedgerUnavailable):
            while found := await core.hub.after(position):
                position = found[-1].seq
                for happening in found:
                    yield happening.stream
        return
    queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue(_QUEUED)
    agents: dict[str, asyncio.Task[None]] = {}
    followed: dict[str, OpenRun] = {}
    read: dict[str, int] = {}
    """How far the journals are told, by wire id."""

    async def follow_agent(run: OpenRun) -> None:
        lines = transports[run.transport].follow(run.worker, run.wire_id, read[run.wire_id])
        async with aclosing(lines):  # type: ignore[type-var]
            async for line in lines:
                await tell(run, line)

    async def tell(run: OpenRun, line: JournalLine) -> None:
        if line.position > read[run.wire_id]:
            read[run.wire_id] = line.position
            await queue.put(StreamEvent(id="", event="agent", data=line.line))

    def begin(run: OpenRun, at: int = 0) -> None:
        if run.transport in transports and run.wire_id not in agents:
            followed[run.wire_id], read[run.wire_id] = run, at
            agents[run.wire_id] = asyncio.create_task(follow_agent(run))

    async def end(task_id: str) -> None:
        for wire_id in [name for name in agents if name == task_id or name.startswith(f"{task_id}+")]:
            run, agent_task = followed.pop(wire_id), agents.pop(wire_id)
            agent_task.cancel()
            await asyncio.gather(agent_task, return_exceptions=True)
            for line in await transports[run.transport].journal(run.worker, wire_id, read[wire_id]):
                await tell(run, line)
            del read[wire_id]

    async def happenings() -> None:
        at = position
        with suppress(LedgerUnavailable):
            while found := await core.hub.after(at):
                at = found[-1].seq
                for happening in found:
                    if happening.task_id is not None and happening.event in _ENDS:
                        await end(happening.task_id)
                    await queue.put(happening.stream)
                    run = core.open.get(str(happening.data["wire_id"])) if happening.event == "task_sent" else None
                    if run is not None:
                        begin(run)
        await queue.put(None)

    feeder: asyncio.Task[None] | None = None
    try:
        for run in list(core.open.values()):
            if run.transport not in transports:
                continue
            present = await transports[run.transport].journal(run.worker, run.wire_id, 0)
            begin(run, present[-1].position if present else 0)
        feeder = asyncio.create_task(happenings())
        while (event := await queue.get()) is not None:
            yield event
    finally:
        ending = [*agents.values(), *([] if feeder is None else [feeder])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
