"""What is told of use and money: sums of cost and tokens, what is left of budgets, series over time, closed gates."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

_FROZEN: Final = ConfigDict(frozen=True)

MOST_POINTS: Final = 2000
"""So many moments a series has at most."""


class UsageBy(StrEnum):
    """What the rows of a usage stand for."""

    DAY = "day"
    WORKER = "worker"
    GOAL = "goal"
    TASK = "task"
    MODEL = "model"


class UsageQuery(BaseModel):
    """Which use is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: UsageBy = UsageBy.DAY
    since: datetime | None = None
    """The first day is the one of this moment."""
    until: datetime | None = None
    """The last day is the one that this moment ends or interrupts."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class UsageSums(BaseModel):
    """What was used."""

    model_config = _FROZEN

    tasks: int
    """Each task counts once, where its first try is."""
    tries: int
    """Tries that came to an end; each has its cost."""
    cost_usd: float
    """All dollars, the notional ones among them."""
    notional_cost_usd: float
    """The part of it that a subscription covers: nobody is billed for it."""
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_creation_tokens: int


class UsageRow(UsageSums):
    """What was used by one day, worker, goal, task or model."""

    key: str
    """The day, the name or the id; empty for tasks without a goal, and where the model is not known."""
    label: str
    """The same for people: the title of a task, the beginning of a goal."""


class BudgetLine(BaseModel):
    """What of a budget is left today. No limit is None, and then so is what is left."""

    model_config = _FROZEN

    limit_usd: float | None
    spent_usd: float
    reserved_usd: float
    left_usd: float | None


class WorkerBudget(BudgetLine):
    """What of a worker's budget is left today."""

    worker: str


class TeamBudget(BudgetLine):
    """What of the team's budget is left today, and of each worker's."""

    day: str
    """The date, in the time zone of the budget."""
    workers: list[WorkerBudget]


class Usage(BaseModel):
    """What was used, row by row and as a whole."""

    model_config = _FROZEN

    rows: list[UsageRow]
    """Days: the newest first. All others: the dearest first."""
    total: UsageSums
    """Of the whole time asked for, with what the rows leave out."""
    budget: TeamBudget


class SeriesQuery(BaseModel):
    """Which time a series is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: datetime | None = None
    """None means a day before `until`."""
    until: datetime | None = None
    """None means now."""
    step_s: float | None = None
    """Seconds; None means what gives 100 to 200 points."""


class Series(BaseModel):
    """How it went over time. All lists are as long as `times`; None where nothing is known or nothing happened."""

    model_config = _FROZEN

    step_seconds: float
    times: list[datetime]
    """When each step begins."""
    completed: list[int]
    failed: list[int]
    """With those that ran out of time; cancelled ones are in neither."""
    p50_seconds: list[float | None]
    """From the submission to the end, of those that completed, failed or ran out of time."""
    p95_seconds: list[float | None]
    p99_seconds: list[float | None]
    error_rate: list[float | None]
    """Failed, as a share of completed and failed."""
    queue_depth: list[int | None]
    """Tasks that were ready, or sent and not begun, at the end of the step."""
    running: list[int | None]
    cost_usd: list[float]
    """All dollars, the notional ones among them, of the tries that ended and of the goals' own agents."""
    notional_cost_usd: list[float]


class GateRecord(BaseModel):
    """A gate that is closed: a limit holds back all workers that share a credential."""

    model_config = _FROZEN

    gate_id: str
    """Stands for the credential; the credential cannot be told from it."""
    kind: str
    """Which limit, such as `five_hour`."""
    message: str
    worker: str
    """Who met it."""
    closed_at: datetime | None
    """None where an older worker closed it."""
    until: datetime
    """When it opens by itself."""
    parked_tasks: int
    """Tasks that wait at the workers that share it."""
    workers: list[str]
    """Those that share it, as far as their heartbeats tell."""
