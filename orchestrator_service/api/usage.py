"""Routes of use and money: what was used by whom, and how it went over time."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from orchestrator_service.accounts import Series, SeriesQuery, Usage, UsageBy, UsageQuery
from orchestrator_service.api import money_examples
from orchestrator_service.api.described import API, answer, answers
from orchestrator_service.api.moments import Moment
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.desk import Desk


class UsageFilters(BaseModel):
    """Which use is asked for, as the query says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Annotated[UsageBy, Field(description="What the rows stand for.")] = UsageBy.DAY
    since: Annotated[Moment | None, Field(description="From the day of this moment on, such as 2026-03-02T00:00Z.")] = (
        None
    )
    until: Annotated[Moment | None, Field(description="Up to this moment; its day counts as a whole.")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="Rows at most; the total is of all.")] = 100


class SeriesFilters(BaseModel):
    """Which time is asked for, as the query says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: Annotated[Moment | None, Field(description="Where it begins; a day before `until` if not said.")] = None
    until: Annotated[Moment | None, Field(description="Where it ends; now if not said.")] = None
    step: Annotated[
        float | None,
        Field(ge=1, le=31_622_400, allow_inf_nan=False, description="Seconds; what gives 100 to 200 if not said."),
    ] = None


def add_usage_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of use and money to `app`."""

    @app.get(
        f"{API}/usage",
        tags=["team"],
        summary="Look at cost and tokens",
        response_model=Usage,
        responses=answers(200, "What was used, and what is left.", money_examples.USAGE, ProblemKind.REQUEST_REFUSED),
    )
    async def usage(filters: Annotated[UsageFilters, Query()]) -> Response:
        """Return cost and tokens by day, worker, goal, task or model, and what is left of the budgets.

        Each try of a task counts, on the day on which it was handed out; so do the goals' own agents. `cost_usd` is of
        all dollars, `notional_cost_usd` the part of it that a subscription covers. Days are those of the budget.
        """
        query = UsageQuery(by=filters.by, since=filters.since, until=filters.until, limit=filters.limit)
        return answer(await desk.usage(query))

    @app.get(
        f"{API}/series",
        tags=["team"],
        summary="Look at how it went over time",
        response_model=Series,
        responses=answers(200, "Lists of the same length.", money_examples.SERIES, ProblemKind.REQUEST_REFUSED),
    )
    async def series(filters: Annotated[SeriesFilters, Query()]) -> Response:
        """Return throughput, times, errors, queue, and cost, step by step; 2000 steps at most."""
        return answer(await desk.series(SeriesQuery(since=filters.since, until=filters.until, step_s=filters.step)))
