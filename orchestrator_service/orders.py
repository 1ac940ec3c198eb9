"""What the orchestrator is asked for: tasks, graphs of tasks, goals and schedules, as they come in."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from agent_bus.layout import WORKER_NAME_PATTERN
from agent_bus.messages import PRIORITY_RANKS, TASK_ID_PATTERN, OnInterrupt, OnQuestion, Priority

LONGEST_ID: Final = 112
"""On the wire a later try of task ID is called `ID+2`, and a name there has at most 128 characters."""
LONGEST_DESCRIPTION: Final = 900_000
"""Characters; with its other fields a task must stay below the workers' `MAX_TRIGGER_BYTES`."""
MOST_TASKS_IN_GRAPH: Final = 20_000
MOST_DEPENDENCIES: Final = 1_000

OrderId = Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN, max_length=LONGEST_ID)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
WorkerName = Annotated[str, StringConstraints(pattern=WORKER_NAME_PATTERN)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Moment = Annotated[AwareDatetime, Field(strict=False)]

_STRICT: Final = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class OnFailure(StrEnum):
    """What becomes of the tasks that need a task which did not complete."""

    FAIL_DEPENDENTS = "fail_dependents"
    """They fail as well, without being run."""
    CONTINUE = "continue"
    """They are run; where they name its output they get what there is."""


class RetryPolicy(BaseModel):
    """How often and when a task that failed or ran out of time is tried again."""

    model_config = _STRICT

    max_retries: Annotated[int, Field(ge=0, le=100)] = 0
    """Further tries after the first one."""
    initial_seconds: Annotated[float, Field(gt=0, le=86_400)] = 5.0
    """Pause before the first retry."""
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    """Each further pause is this much longer."""
    longest_seconds: Annotated[float, Field(gt=0, le=7 * 86_400)] = 300.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Up to this share of a pause is taken off at random, so that what failed together does not return together."""


class TaskOrder(BaseModel):
    """One task as it is handed in. Only `description` must be given."""

    model_config = _STRICT

    description: Annotated[str, Field(min_length=1, max_length=LONGEST_DESCRIPTION)]
    """The prompt. `{{results.ID.output}}` stands for the output of task ID, which must be among `dependencies`."""
    task_id: OrderId | None = None
    """None makes one up; in a graph `GRAPH.KEY`."""
    key: Key | None = None
    """A short name within its graph, by which `dependencies` and placeholders of the same graph may name it."""
    title: Words | None = None
    worker: WorkerName | None = None
    """This worker and no other."""
    role: Words | None = None
    """Any worker of this role (as the team file has it, whatever its case)."""
    skills: Annotated[list[Words], Field(max_length=50)] = []
    """Any worker that has all of these."""
    priority: Priority = PRIORITY_RANKS["normal"]
    dependencies: Annotated[list[OrderId], Field(max_length=MOST_DEPENDENCIES)] = []
    """Task ids, or keys of the same graph: all must have completed before this one is sent."""
    on_failure: OnFailure = Field(default=OnFailure.FAIL_DEPENDENTS, strict=False)
    retry: RetryPolicy = RetryPolicy()
    not_before: Moment | None = None
    deadline: Moment | None = None
    """A task that has not ended by then is ended as `timed_out`."""
    timeout: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """Seconds the agent may take; None means the worker's own bound."""
    session: Words | None = None
    """Tasks that name the same session share one conversation, at one worker."""
    workspace: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    worktree: bool | None = None
    """Whether it runs in a git worktree of its own; None means as the worker is set."""
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^-\s]\S*$")] | None = None
    allowed_tools: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(max_length=500)] | None
    ) = None
    max_turns: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_budget_usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """What its run may cost; reserved before it starts. None means `TASK_BUDGET_USD`."""
    output_schema: dict[str, Any] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How often a worker may begin one try of it, crashes included."""
    on_interrupt: OnInterrupt = Field(default=OnInterrupt.RESUME, strict=False)
    stuck_after: Annotated[float, Field(ge=0, le=7 * 86_400)] | None = None
    """Seconds of silence after which it counts as stuck, 0 for never; None means the worker's own bound."""
    on_question: Annotated[OnQuestion, Field(strict=False)] | None = None
    """What becomes of a permission that it asks for and nobody answers; None means the worker's own rule."""
    question_timeout: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """Seconds that such a question waits for a person; None means the worker's own bound."""
    metadata: dict[str, Any] = {}
    parent: OrderId | None = None
    """The task in whose course this one was asked for."""


class GraphOrder(BaseModel):
    """Tasks that are handed in together: all of them are accepted, or none."""

    model_config = _STRICT

    tasks: Annotated[list[TaskOrder], Field(min_length=1, max_length=MOST_TASKS_IN_GRAPH)]
    graph_id: Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN, max_length=48)] | None = None
    """None makes one up."""
    title: Words | None = None


class GoalOrder(BaseModel):
    """What a team is to reach; the orchestrator agent splits it into tasks."""

    model_config = _STRICT

    goal: Annotated[str, Field(min_length=1, max_length=100_000)]
    goal_id: Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN, max_length=48)] | None = None
    max_tasks: Annotated[int, Field(ge=1, le=1000)] | None = None
    """None means `GOAL_MAX_TASKS`."""
    max_depth: Annotated[int, Field(ge=1, le=10)] | None = None
    """How deep its tasks may ask for further tasks; None means `GOAL_MAX_DEPTH`."""
    timeout: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = None
    """Seconds; None means `GOAL_TIMEOUT`."""
    max_budget_usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """For the orchestrator agent and all its tasks together; None means `GOAL_BUDGET_USD`."""
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^-\s]\S*$")] | None = None
    metadata: dict[str, Any] = {}


class Overlap(StrEnum):
    """What happens when a recurring task is due while the one before has not ended."""

    SKIP = "skip"
    """This time is left out, and said so."""
    QUEUE = "queue"
    """It is handed in all the same."""


class Missed(StrEnum):
    """What happens when times went by while the orchestrator was away."""

    ONCE = "once"
    """The task is handed in once for all of them."""
    SKIP = "skip"
    """They are left out, and said so."""


class ScheduleOrder(BaseModel):
    """A task that recurs."""

    model_config = _STRICT

    name: Key
    cron: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Five fields as cron has them: minute, hour, day of the month, month, day of the week."""
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "UTC"
    task: TaskOrder
    """What is handed in each time; it has no `task_id` and no `key` of its own."""
    overlap: Overlap = Field(default=Overlap.SKIP, strict=False)
    missed: Missed = Field(default=Missed.ONCE, strict=False)
    paused: bool = False


class TaskSort(StrEnum):
    """By what tasks are listed; those that lack it come last, in either order."""

    SUBMITTED = "submitted"
    ENDED = "ended"
    DURATION = "duration"
    """From the beginning of the last try to the end."""
    COST = "cost"
    PRIORITY = "priority"
    WORKER = "worker"
    STATE = "state"
    """In the order of a task's life."""
    TITLE = "title"


class TaskQuery(BaseModel):
    """Which tasks a list is to hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    states: tuple[str, ...] = ()
    """Any of these; none means all."""
    worker: str | None = None
    goal_id: str | None = None
    graph_id: str | None = None
    schedule: str | None = None
    submitted_by: str | None = None
    since: datetime | None = None
    """Handed in at this moment or later."""
    until: datetime | None = None
    text: str | None = None
    """Is in the id, title or description, whatever its case."""
    sort: TaskSort = TaskSort.SUBMITTED
    oldest_first: bool = False
    """Whether the smallest comes first: the oldest, the cheapest …"""
    cursor: str | None = None
    """What the page before gave as `next_cursor`."""
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    count: bool = False
    """Whether to tell how many there are on all pages."""
