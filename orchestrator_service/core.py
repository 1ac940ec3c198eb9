"""The middle of the orchestrator: every change of the ledger goes through here, and what it entails is carried out."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.event_hub import EventHub
from orchestrator_service.fleet import Fleet
from orchestrator_service.ledger.database import Database
from orchestrator_service.ledger.queries import events_after, last_event, open_runs
from orchestrator_service.scheduling.book import Book
from orchestrator_service.scheduling.clock import next_moment
from orchestrator_service.scheduling.planner import plan
from orchestrator_service.scheduling.step import Effects, Happening, OpenRun, Step

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


class Core:
    """Ledger, fleet and events, kept in step. Whoever carries out what a change entails is plugged in from outside."""

    def __init__(self, database: Database, book: Book, fleet: Fleet, clock: Callable[[], float] = time.time) -> None:
        """Use what is open; `clock` gives seconds since 1970."""
        self.clock = clock
        self.database = database
        self.book = book
        self.fleet = fleet
        self.hub = EventHub(self._read_happenings)
        self.open: dict[str, OpenRun] = {}
        """Dispatches that have not ended, by wire id."""
        self.begun: set[str] = set()
        """Those of them that an agent has, as far as is known."""
        self.carry_out: list[Callable[[Effects], None]] = []
        """Told of what is to be done once a change is durable."""
        self.on_happening: list[Callable[[Happening], None]] = []
        """Told of every event, in order."""
        self.on_fleet_change: Callable[[list[str], list[str]], None] = lambda came, went: None
        """Called with the names of workers that came up and that went down."""
        self.on_due: Callable[[], Coroutine[Any, Any, object]] | None = None
        """Called when something is due."""
        self._waiters: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._planning = False
        database.on_rollback = book.undone

    async def load(self) -> None:
        """Find the place again at which the ledger stands."""

        def look(connection: sqlite3.Connection) -> tuple[int, list[Any], list[Any]]:
            workers = connection.execute("SELECT name, paused FROM workers").fetchall()
            return last_event(connection), open_runs(connection), workers

        last, runs, workers = await self.database.read(look)
        self.hub = EventHub(self._read_happenings, last)
        for wire_id, worker, transport, started_at, _lane in runs:
            self.open[wire_id] = OpenRun(wire_id, worker, transport)
            if started_at is not None:
                self.begun.add(wire_id)
        for name, paused in workers:
            self.fleet.names.setdefault(name)
            if paused:
                self.fleet.paused.add(name)
        self.fleet.rebuild({})

    async def change(self, change: Callable[[Step], T], *, large: bool = False) -> T:
        """Change the ledger, send what can be sent after that, and return once all of it is durable.

        Raises:
            LedgerUnavailable: nothing was changed.
        """
        return (await self.change_and_look(change, lambda connection, value: None, large=large))[0]

    async def change_and_look(
        self, change: Callable[[Step], T], look: Callable[[sqlite3.Connection, T], R], *, large: bool = False
    ) -> tuple[T, R]:
        """Do the same, and return as well what `look` sees once everything is planned.

        Raises:
            LedgerUnavailable: nothing was changed.
        """

        def run(connection: sqlite3.Connection) -> tuple[T, R, Effects]:
            # Whole microseconds: what is told of a moment is the same moment when it is given back, as `since`.
            step = Step(connection, round(self.clock(), 6), self.fleet.view, self.book)
            self.book.refresh(connection, step.now)
            value = change(step)
            if self.book.lanes.total() > 0:
                plan(step)
            step.effects.wake_at = next_moment(step)
            return value, look(connection, value), step.effects

        durable = self.database.begin_write(run, large=large)
        durable.add_done_callback(self._durable)
        # Whoever asked may be gone by the time that it is durable; what it entails is carried out all the same.
        value, seen, _ = await asyncio.shield(durable)
        return value, seen

    def _durable(self, change: asyncio.Future[tuple[Any, Any, Effects]]) -> None:
        if not change.cancelled() and change.exception() is None:
            self._after(change.result()[2])

    def _after(self, effects: Effects) -> None:
        for dispatch in effects.dispatches:
            self.open[dispatch.wire_id] = OpenRun(dispatch.wire_id, dispatch.worker, dispatch.transport)
        for carry_out in self.carry_out:
            carry_out(effects)
        self.hub.publish(effects.happenings)
        for happening in effects.happenings:
            for observe in self.on_happening:
                observe(happening)
            if happening.event == "task_ended" and happening.task_id is not None:
                for waiter in self._waiters.get(happening.task_id, ()):
                    if not waiter.done():
                        waiter.set_result(None)
        self._set_timer(effects.wake_at)
        if effects.more_to_plan and not self._planning:
            self._planning = True
            self.spawn(self._plan_more(), "plan")

    async def _plan_more(self) -> None:
        self._planning = False
        with suppress(LedgerUnavailable):
            await self.change(lambda step: None)

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Have an event of the team written down and told, soon; a ledger that cannot be written costs the event."""
        self.spawn(self._tell(event, data), f"tell {event}")

    async def _tell(self, event: str, data: dict[str, Any]) -> None:
        goal_id = data.get("goal_id")
        with suppress(LedgerUnavailable):
            await self.change(lambda step: step.happened(event, data, goal_id=goal_id))

    def forget(self, wire_id: str) -> None:
        """Take note that a dispatch has ended."""
        self.open.pop(wire_id, None)
        self.begun.discard(wire_id)

    def look_at_fleet(self) -> None:
        """See who is there now, and tell of who came and who went."""
        in_flight: dict[str, int] = {}
        for run in self.open.values():
            in_flight[run.worker] = in_flight.get(run.worker, 0) + 1
        came, went, changed = self.fleet.rebuild(in_flight)
        if came or went or (changed and self.book.lanes.total() > 0):
            self.on_fleet_change(came, went)

    # -- waiting for ends

    def expect(self, task_id: str) -> asyncio.Future[None]:
        """Return a future that is done when the task ends; give it back to `expect_no_more`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[task_id].add(waiter)
        return waiter

    def expect_no_more(self, task_id: str, waiter: asyncio.Future[None]) -> None:
        """Forget a future of `expect`."""
        waiters = self._waiters.get(task_id)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[task_id]
        waiter.cancel()

    # -- what is due by itself

    def _set_timer(self, at: float | None) -> None:
        """Wake up at a moment, in seconds since 1970. The last word counts: it was computed last."""
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at if at is not None else float("inf")
        if at is not None and not self._closing:
            # A day at most: the machine's clock may be set meanwhile.
            delay = min(max(0.0, at - self.clock()), 86_400.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        if self.on_due is not None:
            self.spawn(self.on_due(), "due")

    # -- background work

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Do something beside everything else; what goes wrong with it is logged."""
        if self._closing:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %s", task.get_name(), error, exc_info=error, extra={"action": "work_failed"})

    async def aclose(self) -> None:
        """End what is done in the background; what the ledger holds goes on at the next start."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self.hub.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read_happenings(self, after: int, limit: int) -> list[Happening]:
        rows = await self.database.read(lambda connection: events_after(connection, after, limit))
        return [
            Happening(seq, at, event, task_id, worker, goal_id, data)
            for seq, at, event, task_id, worker, goal_id, data in rows
        ]
