"""The orchestrator behind every door: `desk.Desk` over the ledger, the scheduler and the transports."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from agent_bus.commands import Command, CommandName
from agent_bus.questions import Decision
from orchestrator_service import bookkeeping
from orchestrator_service.accounts import GateRecord, Series, SeriesQuery, Usage, UsageQuery
from orchestrator_service.core import Core
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, FieldProblem, NotKnown, OrderRefused, Unavailable
from orchestrator_service.explain import waits_for
from orchestrator_service.gatekeeper import Gatekeeper
from orchestrator_service.inbox import Inbox
from orchestrator_service.ledger import queries
from orchestrator_service.ledger.listing import page
from orchestrator_service.ledger.rows import event_record, record, run_of, summary
from orchestrator_service.orders import GoalOrder, GraphOrder, ScheduleOrder, TaskOrder, TaskQuery
from orchestrator_service.reconciliation import Reconciler
from orchestrator_service.records import (
    FINAL_STATES,
    Budget,
    EventRecord,
    GoalRecord,
    Invariant,
    QuestionRecord,
    ScheduleRecord,
    StreamEvent,
    Submission,
    TaskPage,
    TaskRecord,
    TaskResult,
    TaskState,
    TaskSummary,
    Told,
    WorkerInstance,
    WorkerRecord,
)
from orchestrator_service.scheduling import lifecycle, recurring
from orchestrator_service.scheduling.admission import Admitted, admit
from orchestrator_service.scheduling.routing import lane_of
from orchestrator_service.scheduling.step import Step
from orchestrator_service.task_stream import TaskStream, follow_team
from orchestrator_service.transports.base import Transport

log = logging.getLogger(__name__)

_LONGEST_REASON: Final = 500
_MOST_IN_LOOP: Final = 20
"""Tasks of a graph that are let in without leaving the loop; more would hold everybody up."""
_MOST_WAITED_FOR: Final = 1000


class SubmissionDesk(Protocol):
    """Where tasks are handed in."""

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """Hand in tasks."""


class GoalDesk(Protocol):
    """Who works on goals; None of them is there where Claude Code is not."""

    async def desk_for(self, order: TaskOrder | GraphOrder) -> SubmissionDesk | None:
        """Return where an order must be handed in that a goal's task asks for; None for any other."""

    async def create(self, order: GoalOrder, asker: Asker) -> GoalRecord:
        """Begin to work on a goal."""

    async def list(self, limit: int) -> list[GoalRecord]:
        """Return the newest goals."""

    async def get(self, goal_id: str) -> GoalRecord:
        """Return a goal."""

    async def cancel(self, goal_id: str, asker: Asker) -> GoalRecord:
        """End a goal."""


class Orchestrator:
    """Implements `desk.Desk`; what each method promises is said there."""

    def __init__(
        self,
        core: Core,
        transports: Mapping[str, Transport],
        reconciler: Reconciler,
        inbox: Inbox,
        gatekeeper: Gatekeeper,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._transports = transports
        self._reconciler = reconciler
        self._gatekeeper = gatekeeper
        self.goal_desk: GoalDesk | None = None
        """Plugged in where there is one."""

    # -- tasks

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """See `desk.Desk`."""
        if self.goal_desk is not None and asker.goal_id is None:
            # What the tasks of a goal ask for is held to the limits of the goal.
            held = None
            with suppress(NotKnown):
                # A parent that is not there is refused below, with its field.
                held = await self.goal_desk.desk_for(order)
            if held is not None:
                return await held.submit(order, asker, idempotency)

        large = isinstance(order, GraphOrder) and len(order.tasks) > _MOST_IN_LOOP

        def change(step: Step) -> Admitted:
            return admit(step, order, asker, idempotency)

        def look(connection: sqlite3.Connection, admitted: Admitted) -> list[queries.TaskRow]:
            return queries.rows_between(connection, admitted.first_seq, admitted.last_seq)

        admitted, rows = await self._core.change_and_look(change, look, large=large)
        return Submission.model_construct(
            graph_id=admitted.graph_id, tasks=[self._summary(row) for row in rows], repeated=admitted.repeated
        )

    def _summary(self, row: tuple[Any, ...]) -> TaskSummary:
        return summary(row, waits_for(row, self._core.fleet.view, self._core.book), stuck=self._is_stuck(row))

    def _is_stuck(self, row: tuple[Any, ...]) -> bool:
        run = run_of(row)
        return run is not None and self._core.fleet.is_stuck(run)

    async def task(self, task_id: str) -> TaskRecord:
        """See `desk.Desk`."""

        def look(connection: sqlite3.Connection) -> tuple[Any, ...]:
            row = queries.task_row(connection, task_id)
            return row, *queries.details(connection, row[0])

        row, order, needs, runs = await self._core.database.read(look)
        waits = waits_for(row, self._core.fleet.view, self._core.book)
        return record(row, waits, order, needs, runs, stuck=self._is_stuck(row))

    async def tasks(self, query: TaskQuery) -> TaskPage:
        """See `desk.Desk`."""
        rows, cursor, total = await self._core.database.read(lambda connection: page(connection, query))
        return TaskPage.model_construct(tasks=[self._summary(row) for row in rows], next_cursor=cursor, total=total)

    async def result(self, task_id: str) -> TaskResult:
        """See `desk.Desk`."""

        def look(connection: sqlite3.Connection) -> tuple[Any, ...]:
            return queries.task_row(connection, task_id), queries.last_result(connection, task_id)

        row, result = await self._core.database.read(look)
        task = self._summary(row)
        if task.state not in FINAL_STATES:
            raise Conflict(f"Task {task_id} has no result yet: it is {task.state}.")
        return TaskResult.model_construct(task_id=task_id, state=task.state, result=result, error=task.error)

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        """See `desk.Desk`."""
        wanted = list(dict.fromkeys(task_ids))
        if len(wanted) > _MOST_WAITED_FOR:
            told = f"at most {_MOST_WAITED_FOR} tasks can be waited for at once"
            raise OrderRefused([FieldProblem("id", len(wanted), told)])
        waiters = {task_id: self._core.expect(task_id) for task_id in wanted}
        try:
            tasks = await self._look_at(wanted)
            pending = [waiters[task.task_id] for task in tasks if task.state not in FINAL_STATES]
            if pending and not (any_of and len(pending) < len(tasks)):
                how = asyncio.FIRST_COMPLETED if any_of else asyncio.ALL_COMPLETED
                await asyncio.wait(pending, timeout=max(0.0, timeout_s), return_when=how)
                tasks = await self._look_at(wanted)
            return tasks
        finally:
            for task_id, waiter in waiters.items():
                self._core.expect_no_more(task_id, waiter)

    async def _look_at(self, task_ids: list[str]) -> list[TaskSummary]:
        rows = await self._core.database.read(
            lambda connection: [queries.task_row(connection, task_id) for task_id in task_ids]
        )
        return [self._summary(row) for row in rows]

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        """See `desk.Desk`."""
        why = f"{asker.name} cancelled it{': ' + reason[:_LONGEST_REASON] if reason else '.'}"

        def change(step: Step) -> None:
            row = _find(step, task_id)
            if row.is_final:
                raise Conflict(f"Task {task_id} has ended already ({row.state}); there is nothing to cancel.")
            if row.cancel_at is None:
                lifecycle.cancel(step, row, status=TaskState.CANCELLED, kind="cancelled", message=why)

        await self._core.change(change)
        return (await self._look_at([task_id]))[0]

    async def retry(self, task_id: str, asker: Asker) -> TaskSummary:
        """See `desk.Desk`."""

        def change(step: Step) -> None:
            row = _find(step, task_id)
            if not row.is_final or row.state == TaskState.COMPLETED:
                raise Conflict(
                    f"Task {task_id} is {row.state}; only one that failed, ran out of time or was cancelled is retried."
                )
            lifecycle.try_again(step, row)

        await self._core.change(change)
        return (await self._look_at([task_id]))[0]

    def task_events(self, task_id: str, after: str | None, *, follow: bool) -> AsyncIterator[StreamEvent]:
        """See `desk.Desk`."""
        return TaskStream(self._core, self._transports, task_id, after).events(follow=follow)

    def events(self, after: str | None, *, agent: bool = False) -> AsyncIterator[StreamEvent]:
        """See `desk.Desk`."""
        return follow_team(self._core, self._transports, after, agent=agent)

    async def latest_events(self, limit: int) -> list[EventRecord]:
        """See `desk.Desk`."""
        rows = await self._core.database.read(lambda connection: queries.latest_events(connection, limit))
        return [event_record(row) for row in rows]

    def position(self) -> str:
        """See `desk.Desk`."""
        return str(self._core.hub.last)

    # -- workers

    async def workers(self) -> list[WorkerRecord]:
        """See `desk.Desk`."""
        return [self._worker(name) for name in sorted(self._core.fleet.names)]

    async def worker(self, name: str) -> WorkerRecord:
        """See `desk.Desk`."""
        if name not in self._core.fleet.names:
            raise NotKnown("worker", name)
        return self._worker(name)

    def _worker(self, name: str) -> WorkerRecord:
        fleet, book = self._core.fleet, self._core.book
        member = fleet.view.members[name]
        role, skills = fleet.role_of(name)
        beats = fleet.instances(name)
        held = name in fleet.paused
        begun = book.day_of(self._core.clock()) == book.day
        state = "unknown" if not beats else "down" if not member.up else "paused" if member.paused else "up"
        return WorkerRecord.model_construct(
            name=name,
            role=role,
            skills=skills,
            state=state,
            status=beats[0].heartbeat.status.value if beats else "unknown",
            paused=held,
            heartbeat_age_seconds=round(fleet.age_s(beats[0]), 3) if beats else None,
            slots=member.slots if member.up else 0,
            in_flight=max(0, book.in_flight[name]),
            max_in_flight=member.cap,
            waiting=max(0, book.lanes[lane_of(name, None, ())]),
            transport=member.transport,
            spent_today_usd=round(book.spent[name], 6) if begun else 0.0,
            reserved_usd=round(max(0.0, book.reserved[name]), 6) if begun else 0.0,
            budget_usd=book.budget.worker_day_usd,
            open_questions=sum(beat.heartbeat.open_questions for beat in beats if fleet.is_alive(beat)),
            instances=[
                WorkerInstance.model_construct(
                    instance=beat.heartbeat.instance,
                    transport=beat.transport,
                    status=beat.heartbeat.status.value,
                    timestamp=beat.heartbeat.timestamp,
                    age_seconds=round(fleet.age_s(beat), 3),
                    alive=fleet.is_alive(beat),
                    current_tasks=beat.heartbeat.current_tasks,
                    slots=beat.heartbeat.slots,
                    mode=beat.heartbeat.mode,
                    agent=beat.heartbeat.agent,
                    version=beat.heartbeat.version,
                    http_port=beat.heartbeat.http_port,
                    parked_until=beat.heartbeat.parked_until,
                    stuck_tasks=beat.heartbeat.stuck_tasks,
                )
                for beat in beats
            ],
        )

    async def pause(self, name: str, asker: Asker) -> Told:
        """See `desk.Desk`."""
        return await self._hold(name, True, asker)

    async def resume(self, name: str, asker: Asker) -> Told:
        """See `desk.Desk`."""
        return await self._hold(name, False, asker)

    async def _hold(self, name: str, hold: bool, asker: Asker) -> Told:
        fleet = self._core.fleet
        if name not in fleet.names:
            raise NotKnown("worker", name)

        def change(step: Step) -> None:
            step.connection.execute(
                "INSERT INTO workers (name, paused, paused_by, paused_at) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET paused = excluded.paused, paused_by = excluded.paused_by,"
                " paused_at = excluded.paused_at",
                (name, int(hold), asker.name, step.now),
            )
            step.happened("worker_paused" if hold else "worker_resumed", {"by": asker.name}, worker=name)

        await self._core.change(change)
        (fleet.paused.add if hold else fleet.paused.discard)(name)
        self._core.look_at_fleet()
        command = Command(name=CommandName.PAUSE if hold else CommandName.RESUME)
        told = [await transport.tell(name, command) for transport in self._transports.values()]
        if hold:
            self._core.spawn(self._reconciler.evacuate([name]), "evacuate")
        else:
            await self._core.change(lambda step: None)
        return Told.model_construct(worker=self._worker(name), told=any(told))

    # -- questions

    async def questions(
        self, *, state: str = "open", worker: str | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[QuestionRecord]:
        """See `desk.Desk`."""
        return await self._inbox.list(state=state, worker=worker, task_id=task_id, limit=limit)

    async def question(self, question_id: str) -> QuestionRecord:
        """See `desk.Desk`."""
        return await self._inbox.get(question_id)

    async def answer_question(
        self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
    ) -> QuestionRecord:
        """See `desk.Desk`."""
        return await self._inbox.answer(question_id, decision, asker, reason)

    # -- schedules

    async def create_schedule(self, order: ScheduleOrder, asker: Asker) -> ScheduleRecord:
        """See `desk.Desk`."""
        return await self._core.change(lambda step: recurring.create(step, order, asker))

    async def schedules(self) -> list[ScheduleRecord]:
        """See `desk.Desk`."""
        return await self._core.database.read(recurring.find_all)

    async def schedule(self, name: str) -> ScheduleRecord:
        """See `desk.Desk`."""
        return await self._core.database.read(lambda connection: recurring.find(connection, name))

    async def set_schedule_paused(self, name: str, paused: bool, asker: Asker) -> ScheduleRecord:
        """See `desk.Desk`."""
        return await self._core.change(lambda step: recurring.set_paused(step, name, paused, asker))

    async def delete_schedule(self, name: str, asker: Asker) -> None:
        """See `desk.Desk`."""
        await self._core.change(lambda step: recurring.delete(step, name, asker))

    # -- goals

    def _goals(self) -> GoalDesk:
        if self.goal_desk is None:
            raise Unavailable("Goals are not worked on here.")
        return self.goal_desk

    async def create_goal(self, order: GoalOrder, asker: Asker) -> GoalRecord:
        """See `desk.Desk`."""
        return await self._goals().create(order, asker)

    async def goals(self, limit: int = 50) -> list[GoalRecord]:
        """See `desk.Desk`."""
        return await self._goals().list(limit)

    async def goal(self, goal_id: str) -> GoalRecord:
        """See `desk.Desk`."""
        return await self._goals().get(goal_id)

    async def cancel_goal(self, goal_id: str, asker: Asker) -> GoalRecord:
        """See `desk.Desk`."""
        return await self._goals().cancel(goal_id, asker)

    # -- the team as a whole

    async def budget(self) -> Budget:
        """See `desk.Desk`."""
        book = self._core.book
        day = book.day_of(self._core.clock())
        # Nothing was spent or reserved on a day that nothing has happened on.
        begun = day == book.day
        return Budget(
            day=day,
            limit_usd=book.budget.day_usd,
            spent_usd=round(sum(book.spent.values()), 6) if begun else 0.0,
            reserved_usd=round(max(0.0, sum(book.reserved.values())), 6) if begun else 0.0,
            task_limit_usd=book.budget.task_usd,
            worker_limit_usd=book.budget.worker_day_usd,
        )

    async def usage(self, query: UsageQuery) -> Usage:
        """See `desk.Desk`."""
        return await bookkeeping.usage(self._core, query)

    async def series(self, query: SeriesQuery) -> Series:
        """See `desk.Desk`."""
        return await bookkeeping.series(self._core, query)

    async def gates(self) -> list[GateRecord]:
        """See `desk.Desk`."""
        return await self._gatekeeper.records()

    async def open_gate(self, gate_id: str, asker: Asker) -> GateRecord:
        """See `desk.Desk`."""
        return await self._gatekeeper.open(gate_id, asker.name)

    async def invariants(self) -> list[Invariant]:
        """See `desk.Desk`."""
        return self._reconciler.invariants

    async def counts(self) -> dict[str, int]:
        """See `desk.Desk`."""
        return {state.value: max(0, self._core.book.states[state.value]) for state in TaskState}


def _find(step: Step, task_id: str) -> lifecycle.Row:
    row = lifecycle.find(step.connection, task_id)
    if row is None:
        raise NotKnown("task", task_id)
    return row
