"""The wire format: tasks, results, heartbeats and events, and nothing else.

Every record is decoded once at the edge (`Task.model_validate_json`), travels as a frozen object, and is
encoded once at the other edge. Fields that a record does not know are kept and handed through.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

PRIORITY_RANKS: Final = {"low": 25, "normal": 50, "high": 75, "urgent": 100}
"""What the named priorities mean as integers; the larger integer goes first."""

TASK_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$"
"""A task id is a file name on every transport: 1 to 128 of these characters, and never `..` at its start."""

_TASK_ID = re.compile(TASK_ID_PATTERN)


def is_task_id(text: str) -> bool:
    """Tell whether `text` may name a task (and so a result file)."""
    return _TASK_ID.match(text) is not None and "\n" not in text


def utc_now() -> datetime:
    """Return the present moment, aware of its zone, as all timestamps on the wire are."""
    return datetime.now(UTC)


def _priority_rank(value: object) -> object:
    if isinstance(value, str):
        if value in PRIORITY_RANKS:
            return PRIORITY_RANKS[value]
        raise ValueError(f"priority must be one of {', '.join(PRIORITY_RANKS)} or an integer")
    return value


TaskId = Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN)]
Priority = Annotated[int, BeforeValidator(_priority_rank), Field(ge=-(2**31), lt=2**31)]


class OnInterrupt(StrEnum):
    """What becomes of a task whose worker died or was stopped in the middle of it, or that was stuck."""

    RESUME = "resume"
    """Go on in the same conversation; where there is none, start over."""
    RESTART = "restart"
    """Start over in a fresh conversation."""
    FAIL = "fail"
    """Write a failed result; the task is not run again."""


class OnQuestion(StrEnum):
    """What becomes of a question that nobody answers in time."""

    DENY = "deny"
    """The tool is denied, the agent hears so and goes on."""
    WAIT = "wait"
    """There is no time: it waits for a person, as long as the task lives."""
    FAIL = "fail"
    """The task fails."""


class TaskStatus(StrEnum):
    """How a task ended."""

    COMPLETED = "completed"
    """The agent gave its answer."""
    FAILED = "failed"
    """The agent, its process or the task itself was at fault; `error` says how."""
    TIMED_OUT = "timed_out"
    """The task's time was over; `output` holds what there was by then."""
    CANCELLED = "cancelled"
    """Somebody asked for its end."""


class Task(BaseModel):
    """One piece of work for one worker. Only `description`, the prompt, must be given by the sender."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    task_id: TaskId
    description: Annotated[str, Field(min_length=1)]
    title: str | None = None
    priority: Priority = PRIORITY_RANKS["normal"]
    worker: str | None = None
    """The worker it is meant for; a task found in another worker's directory is set aside."""
    timeout: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """Seconds the agent may take, 30 days at most; None means the worker's `TASK_TIMEOUT`."""
    dependencies: list[TaskId] = Field(default_factory=list)
    session: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Tasks that name the same session share one conversation, oldest first, one at a time."""
    workspace: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    worktree: bool | None = None
    """Whether it runs in a worktree of its own; None means what the worker's `WORKTREES` says."""
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^-\s]\S*$")] | None = None
    allowed_tools: list[Annotated[str, Field(min_length=1, max_length=500)]] | None = None
    max_turns: Annotated[int, Field(ge=1)] | None = None
    max_budget_usd: Annotated[float, Field(gt=0)] | None = None
    output_schema: dict[str, Any] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    on_interrupt: Annotated[OnInterrupt, Field(strict=False)] = OnInterrupt.RESUME
    stuck_after: Annotated[float, Field(ge=0, le=7 * 86_400)] | None = None
    """Seconds of silence after which it counts as stuck, 0 for never; None means the worker's `STUCK_AFTER`."""
    on_question: Annotated[OnQuestion, Field(strict=False)] | None = None
    """None means the worker's `ON_QUESTION`."""
    question_timeout: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """Seconds that a question waits for a person; None means the worker's `QUESTION_TIMEOUT`."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: Annotated[datetime, Field(strict=False)] | None = None


class TaskError(BaseModel):
    """Why a task did not complete."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """A stable word for programs, such as `agent_died`, `invalid_task` or `rate_limited`."""
    message: str
    """One sentence for people."""


class Result(BaseModel):
    """What came of a task; exactly one is written per `task_id`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task_id: str
    worker: str
    instance: str
    status: TaskStatus
    output: str = ""
    structured_output: Any = None
    error: TaskError | None = None
    session_id: str | None = None
    attempts: int = 1
    num_turns: int | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    """Of all attempts, in US dollars, as far as it was told."""
    cost_is_partial: bool = False
    """Whether an attempt was cut off before it could tell its cost, so that there was more."""
    cost_is_notional: bool | None = None
    """Whether a subscription covers that cost, so that nobody is billed for it; None where there is no telling."""
    model: str | None = None
    """The model that Claude Code named at the beginning of the session."""
    worktree: str | None = None
    """The directory of its own that it ran in, where that is still there."""
    branch: str | None = None
    commit: str | None = None
    """The last commit on that branch."""
    changes: str | None = None
    """What it left in its worktree: `none`, `committed` or `uncommitted`; None where it had none."""
    changes_note: str | None = None
    """Why not everything is committed."""
    queued_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime
    duration_seconds: float = 0.0
    stdout: str = ""
    """For older readers: the same as `output`."""
    stderr: str = ""
    """For older readers: what the process said on its error stream, its last 64 KiB."""
    exit_code: int = 0
    """For older readers: 0 when completed, else the process's code, 124 for a timeout, 130 for a cancel, or 1."""
    timestamp: datetime
    """For older readers: the same as `completed_at`."""


def encode_result(result: Result) -> bytes:
    """Return the result as JSON; what JSON cannot hold (half a character, an odd object) becomes text of some kind."""
    try:
        return result.model_dump_json().encode()
    except ValueError:
        return json.dumps(result.model_dump(), default=str, ensure_ascii=False).encode("utf-8", "replace")


def refusal_result(task_id: str, *, kind: str, message: str, worker: str, instance: str) -> Result:
    """Return the failed result of a task that was set aside before it was ever run."""
    now = utc_now()
    text = f"The task was set aside: {message}."
    return Result(
        task_id=task_id,
        worker=worker,
        instance=instance,
        status=TaskStatus.FAILED,
        error=TaskError(kind=kind, message=text),
        attempts=0,
        completed_at=now,
        timestamp=now,
        exit_code=1,
        stderr=text,
    )


class WorkerStatus(StrEnum):
    """What a worker is doing, as its heartbeat tells."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    PAUSED = "paused"
    """Takes no task now: told so, or its credential's rate limit is not over."""
    DRAINING = "draining"
    STOPPED = "stopped"


class Heartbeat(BaseModel):
    """A worker's sign of life."""

    model_config = ConfigDict(frozen=True, extra="allow")

    worker: str
    instance: str
    component: Literal["worker", "watcher", "orchestrator"] = "watcher"
    timestamp: datetime
    status: Annotated[WorkerStatus, Field(strict=False)]
    current_tasks: list[str] = Field(default_factory=list)
    queue_size: int = 0
    mode: str
    pid: int
    http_port: int | None = None
    version: str
    interval_seconds: float = 10.0
    """How often the next ones come; three missed ones mean trouble."""
    slots: int = 1
    agent: str = "claude"
    probe_age_seconds: float | None = None
    """Seconds since a probe last went through the watcher to the dispatcher; None before the first one."""
    bells: list[str] = Field(default_factory=list)
    """The wake-up sources in force, such as `inotify` or `interval`."""
    open_questions: int = 0
    """Questions of its agents that wait for a person."""
    parked_until: datetime | None = None
    """When the rate limit that holds this worker's tasks back is announced to end."""
    stuck_tasks: list[str] = Field(default_factory=list)
    """Those of its current tasks that do not get on."""
    gate_id: str | None = None
    """The gate of its credential, closed or not; workers that name the same one share it."""
    cost_is_notional: bool | None = None
    """Whether a subscription covers what its agents cost; None where there is no telling."""


class Event(BaseModel):
    """Something that happened, live: one line of `events/NAME/ID.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    event: str
    timestamp: datetime
    worker: str
    task_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


def encode_event(event: Event) -> bytes:
    """Return the event as JSON on one line; what JSON cannot hold (half a character) becomes a question mark."""
    try:
        return event.model_dump_json().encode()
    except ValueError:
        return json.dumps(event.model_dump(), default=str, ensure_ascii=False).encode("utf-8", "replace")
