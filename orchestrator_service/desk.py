"""The desk: what one can ask of the orchestrator, whichever door one comes by (HTTP, MCP, a goal's agent).

Everything here may raise `errors.LedgerUnavailable`; what else is raised each method says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_bus.questions import Decision
from orchestrator_service.accounts import GateRecord, Series, SeriesQuery, Usage, UsageQuery
from orchestrator_service.orders import GoalOrder, GraphOrder, ScheduleOrder, TaskOrder, TaskQuery
from orchestrator_service.records import (
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
    TaskSummary,
    Told,
    WorkerRecord,
)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks, and by which door."""

    name: str
    """The token's name, or `local` without tokens."""
    origin: str = "api"
    """`api`, `mcp`, `goal` or `schedule`."""
    goal_id: str | None = None
    """The goal for which a task is handed in: its limits hold."""


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """A request that may come twice and must count once."""

    key: str
    digest: str
    """Of the request's body: the same key with another body is a mistake."""


class Desk(Protocol):
    """What one can ask of the orchestrator."""

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """Accept a task or a graph, durably, and hand out what can be handed out.

        Raises:
            OrderRefused: a field is wrong: a cycle, an unknown dependency or worker, a budget that can never be had.
            Conflict: an id is used, or the idempotency key came with another body.
        """

    async def task(self, task_id: str) -> TaskRecord:
        """Return a task. Raises NotKnown."""

    async def tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of tasks. Raises OrderRefused for a cursor or state that is none."""

    async def result(self, task_id: str) -> TaskResult:
        """Return what came of a task.

        Raises:
            NotKnown: there is no such task.
            Conflict: it has not ended.
        """

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        """Return the tasks once all (or any) of them have ended, or as they are when the time is over.

        Raises:
            NotKnown: one of them is not there.
        """

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        """End a task: at once if no worker has it, else as soon as its worker does.

        Raises:
            NotKnown: there is no such task.
            Conflict: it has ended.
        """

    async def retry(self, task_id: str, asker: Asker) -> TaskSummary:
        """Try a task again that failed, ran out of time or was cancelled; dependents that failed with it come back.

        Raises:
            NotKnown: there is no such task.
            Conflict: it has completed or not ended.
        """

    def task_events(self, task_id: str, after: str | None, *, follow: bool) -> AsyncIterator[StreamEvent]:
        """Yield what happened to a task and what its agent does, oldest first, and go on live until it has ended.

        Raises:
            NotKnown: there is no such task.
            OrderRefused: `after` is no position.
        """

    def events(self, after: str | None, *, agent: bool = False) -> AsyncIterator[StreamEvent]:
        """Yield what happens in the team, live, from `after` on (None: from now on).

        Args:
            after: The `id` of the last event that was seen.
            agent: Whether what agents say and do comes as well; that part cannot be resumed.

        Raises:
            OrderRefused: `after` is no position.
        """

    async def latest_events(self, limit: int) -> list[EventRecord]:
        """Return the newest events of the team, oldest first, as far as the ledger keeps them."""

    def position(self) -> str:
        """Return where the team's stream is now: `events` behind it misses nothing that happens from now on."""

    async def workers(self) -> list[WorkerRecord]:
        """Return all workers, by name."""

    async def worker(self, name: str) -> WorkerRecord:
        """Return a worker. Raises NotKnown."""

    async def pause(self, name: str, asker: Asker) -> Told:
        """Send a worker nothing new until `resume`, and tell it so. Raises NotKnown."""

    async def resume(self, name: str, asker: Asker) -> Told:
        """End a pause. Raises NotKnown."""

    async def questions(
        self, *, state: str = "open", worker: str | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[QuestionRecord]:
        """Return the newest questions of agents, newest first; `state` is `open`, `answered` or `all`."""

    async def question(self, question_id: str) -> QuestionRecord:
        """Return one. Raises NotKnown."""

    async def answer_question(
        self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
    ) -> QuestionRecord:
        """Answer a question; the first answer counts.

        Raises:
            NotKnown: there is no such question.
            Conflict: it was answered already, or nothing waits for the answer any more.
            Unavailable: its worker cannot be reached now; nothing was changed.
        """

    async def create_schedule(self, order: ScheduleOrder, asker: Asker) -> ScheduleRecord:
        """Make a task recur. Raises OrderRefused for a wrong field and Conflict for a name that is taken."""

    async def schedules(self) -> list[ScheduleRecord]:
        """Return all recurring tasks, by name."""

    async def schedule(self, name: str) -> ScheduleRecord:
        """Return one. Raises NotKnown."""

    async def set_schedule_paused(self, name: str, paused: bool, asker: Asker) -> ScheduleRecord:
        """Hold a schedule, or let it go on. Raises NotKnown."""

    async def delete_schedule(self, name: str, asker: Asker) -> None:
        """Forget a schedule; the tasks it brought stay. Raises NotKnown."""

    async def create_goal(self, order: GoalOrder, asker: Asker) -> GoalRecord:
        """Begin to work on a goal.

        Raises:
            Conflict: its id is used.
            Unavailable: there is no Claude Code here, or it cannot log in.
        """

    async def goals(self, limit: int = 50) -> list[GoalRecord]:
        """Return the newest goals, newest first."""

    async def goal(self, goal_id: str) -> GoalRecord:
        """Return a goal. Raises NotKnown."""

    async def cancel_goal(self, goal_id: str, asker: Asker) -> GoalRecord:
        """End a goal and its open tasks. Raises NotKnown, and Conflict if it has ended."""

    async def budget(self) -> Budget:
        """Return what may be spent today and what is."""

    async def invariants(self) -> list[Invariant]:
        """Return the rules and whether they held when they were last checked."""

    async def counts(self) -> dict[str, int]:
        """Return how many tasks there are in each state."""

    async def usage(self, query: UsageQuery) -> Usage:
        """Return what was used in these days, and what is left of the budgets. Raises OrderRefused for no time."""

    async def series(self, query: SeriesQuery) -> Series:
        """Return how it went over time. Raises OrderRefused for no time, and for too many steps."""

    async def gates(self) -> list[GateRecord]:
        """Return the gates that are closed now."""

    async def open_gate(self, gate_id: str, asker: Asker) -> GateRecord:
        """End the wait behind a gate, and return how it was. Raises NotKnown where none of that id is closed."""
