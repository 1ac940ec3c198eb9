"""What the orchestrator tells: tasks, workers, goals, schedules and findings, as they go out."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from agent_bus.messages import OnQuestion, Result, TaskError
from agent_bus.questions import Decision, QuestionState

_FROZEN: Final = ConfigDict(frozen=True)


class TaskState(StrEnum):
    """Where a task is in its life."""

    BLOCKED = "blocked"
    """Others must complete first."""
    SCHEDULED = "scheduled"
    """A moment must come first: its `not_before`, or the end of the pause before a retry."""
    READY = "ready"
    """It could be sent; a worker, a free place or money is lacking, and `waits_for` says which."""
    SENT = "sent"
    """It lies with a worker."""
    RUNNING = "running"
    """An agent has the prompt."""
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


FINAL_STATES: Final = frozenset((TaskState.COMPLETED, TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED))
OPEN_STATES: Final = frozenset(TaskState) - FINAL_STATES


class WaitsFor(BaseModel):
    """What a task that is not with a worker waits for."""

    model_config = _FROZEN

    kind: Literal[
        "dependencies",
        "not_before",
        "retry",
        "worker",
        "worker_down",
        "worker_paused",
        "slot",
        "budget",
        "session",
        "turn",
    ]
    message: str
    """One sentence for people."""


class Route(BaseModel):
    """For whom a task is; all empty means any worker."""

    model_config = _FROZEN

    worker: str | None = None
    role: str | None = None
    skills: list[str] = []


class TaskSummary(BaseModel):
    """A task in a list."""

    model_config = _FROZEN

    task_id: str
    title: str | None
    """As it was given, else the beginning of the description; None for tasks that came another way."""
    state: TaskState
    waits_for: WaitsFor | None = None
    worker: str | None
    """Whom it was sent to last."""
    route: Route
    priority: int
    dependencies: int
    """How many tasks it needs."""
    unmet: int
    """How many of them have not ended."""
    tries: int
    """How often it was sent."""
    graph_id: str | None
    goal_id: str | None
    schedule: str | None
    parent: str | None
    depth: int
    origin: str
    """How it came: `api`, `mcp`, `goal`, `schedule`, or `file` and `redis` for tasks handed to a worker directly."""
    submitted_by: str
    submitted_at: datetime
    ready_at: datetime | None
    next_at: datetime | None
    """When a scheduled task becomes ready."""
    sent_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    deadline: datetime | None
    cancel_requested_at: datetime | None
    cost_usd: float | None
    """Of all its tries, notional dollars among them."""
    notional_cost_usd: float | None = None
    """The part of it that a subscription covers: nobody is billed for it."""
    error: TaskError | None
    stuck: bool = False
    """Whether its worker has found that it does not get on."""


class TryRecord(BaseModel):
    """One time that a task was handed to a worker."""

    model_config = _FROZEN

    number: int
    wire_id: str
    """What it is called at the worker: the task's id, for later tries `ID+2`, `ID+3` …"""
    worker: str
    transport: str
    """`file` or `redis`."""
    sent_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    status: str | None
    """How it ended; `withdrawn` when it was taken back before a worker had begun it, `given_up` when its worker did not
    come back to confirm its end."""
    session_id: str | None
    attempts: int | None
    reserved_usd: float | None
    cost_usd: float | None
    cost_is_notional: bool | None = None
    """Whether a subscription covers it; None where that is not known."""
    error: TaskError | None
    event_position: int
    """How many bytes of its event journal were there when it was last looked at."""


class TaskRecord(TaskSummary):
    """All that is known of a task but its result."""

    description: str
    needs: list[str]
    """The ids of the tasks it needs."""
    order: dict[str, Any]
    """The order as it was accepted."""
    runs: list[TryRecord]


class TaskPage(BaseModel):
    """Some tasks of a list."""

    model_config = _FROZEN

    tasks: list[TaskSummary]
    next_cursor: str | None
    """Gives the next page; None on the last one."""
    total: int | None = None
    """How many there are on all pages; None unless it was asked for."""


class TaskResult(BaseModel):
    """What came of a task."""

    model_config = _FROZEN

    task_id: str
    state: TaskState
    result: Result | None
    """The worker's own result of the last try; None for a task that ended before it reached a worker."""
    error: TaskError | None


class Submission(BaseModel):
    """What was accepted, durably."""

    model_config = _FROZEN

    graph_id: str | None
    tasks: list[TaskSummary]
    repeated: bool = False
    """Whether the same idempotency key had brought it before: nothing was handed in twice."""


class WorkerInstance(BaseModel):
    """One process of a worker, as its heartbeat tells."""

    model_config = _FROZEN

    instance: str
    transport: str
    status: str
    timestamp: datetime
    age_seconds: float
    alive: bool
    current_tasks: list[str]
    slots: int
    mode: str
    agent: str
    version: str
    http_port: int | None
    parked_until: datetime | None
    stuck_tasks: list[str]
    """Those of its current tasks that do not get on."""


class WorkerRecord(BaseModel):
    """A worker as the orchestrator sees it."""

    model_config = _FROZEN

    name: str
    role: str
    skills: list[str]
    state: Literal["up", "down", "paused", "unknown"]
    """`down`: no heartbeat for `WORKER_SILENT_AFTER` seconds; `unknown`: never heard of since it was named."""
    status: str
    """What its heartbeat says, such as `idle` or `busy`; `unknown` without one."""
    paused: bool
    """Whether the orchestrator holds its tasks back."""
    heartbeat_age_seconds: float | None
    slots: int
    in_flight: int
    """Tasks that were sent to it and have not ended."""
    max_in_flight: int
    waiting: int
    """Tasks for it alone that are ready and not sent."""
    transport: str | None
    """How tasks reach it: `file` or `redis`; None while it is not there."""
    spent_today_usd: float
    reserved_usd: float
    budget_usd: float | None
    open_questions: int = 0
    """Questions of its agents that wait for a person."""
    instances: list[WorkerInstance]


class Told(BaseModel):
    """A worker, and whether it could be told directly."""

    model_config = _FROZEN

    worker: WorkerRecord
    told: bool
    """Whether a control channel took the command; the orchestrator holds its own tasks back in any case."""


class ScheduleRecord(BaseModel):
    """A recurring task."""

    model_config = _FROZEN

    name: str
    cron: str
    timezone: str
    task: dict[str, Any]
    overlap: str
    missed: str
    paused: bool
    next_at: datetime | None
    last_at: datetime | None
    last_task_id: str | None
    last_outcome: str | None
    """What came of the last time: `handed in`, `skipped: …` or `refused: …`."""
    created_by: str
    created_at: datetime


class GoalState(StrEnum):
    """Where a goal is."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class GoalRecord(BaseModel):
    """A goal and what came of it."""

    model_config = _FROZEN

    goal_id: str
    goal: str
    state: GoalState
    submitted_by: str
    submitted_at: datetime
    ended_at: datetime | None
    session_id: str | None
    """The Claude session of the orchestrator agent."""
    output: str | None
    """The synthesis."""
    error: TaskError | None
    task_ids: list[str]
    """The tasks it came from, in the order in which they were handed in."""
    max_tasks: int
    max_depth: int
    timeout: float
    max_budget_usd: float | None
    agent_cost_usd: float | None
    """What the orchestrator agent itself cost."""
    agent_notional_cost_usd: float | None = None
    """The part of it that a subscription covers."""
    cost_usd: float
    """With all its tasks, notional dollars among them."""
    notional_cost_usd: float = 0.0
    """The part of it that a subscription covers: nobody is billed for it."""
    metadata: dict[str, Any]


class QuestionRecord(BaseModel):
    """A question of an agent to a person, and what came of it."""

    model_config = _FROZEN

    question_id: str
    task_id: str
    worker: str
    tool: str
    input: dict[str, Any]
    """What the tool would be given; long texts are cut and say so."""
    summary: str
    """One line for a person."""
    asked_because: str | None
    """Why Claude Code asks, where it says so."""
    policy: OnQuestion
    """What becomes of it when nobody answers."""
    asked_at: datetime
    expires_at: datetime | None
    """When the policy decides; None means never."""
    state: QuestionState
    decision: Decision | None
    answered_by: str | None
    answered_at: datetime | None
    """When it came to its end, in whatever way."""
    reason: str | None
    """What the person said, or why it was withdrawn."""
    unreachable: str | None = None
    """Why an open question cannot be answered now, in one sentence; None where it can be."""


class Budget(BaseModel):
    """What may be spent today, and what is."""

    model_config = _FROZEN

    day: str
    """The date, in the time zone of the budget."""
    limit_usd: float | None
    spent_usd: float
    """Notional dollars count as well: a budget bounds use, whoever pays for it."""
    reserved_usd: float
    task_limit_usd: float | None
    worker_limit_usd: float | None


class Invariant(BaseModel):
    """One of the rules that files, streams and ledger must keep, and whether they do."""

    model_config = _FROZEN

    name: str
    holds: bool
    violations: int
    examples: list[str]
    """Up to ten sentences that name what breaks it."""
    checked_at: datetime | None


class EventRecord(BaseModel):
    """Something that happened in the team, with the title of its task."""

    model_config = _FROZEN

    id: str
    """Its place in the team's stream."""
    event: str
    timestamp: datetime
    task_id: str | None
    title: str | None
    """Of the task; None where the event is of none, or the ledger does not know it."""
    worker: str | None
    goal_id: str | None
    data: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class StreamEvent:
    """One event of a stream, ready to be sent."""

    id: str
    """Where the reader is now: give it back as `Last-Event-ID` to go on behind it. Empty where one cannot go on."""
    event: str
    data: bytes
    """A JSON object: `event`, `timestamp`, `task_id`, `worker`, `goal_id`, `data`."""
    framed: bytes | None = field(default=None, repr=False, compare=False)
    """The event as it goes over the line, once somebody has needed it: the same for all who listen."""
