"""The orchestrator's answers about use and money."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from orchestrator_service.accounts import (
    MOST_POINTS,
    BudgetLine,
    Series,
    SeriesQuery,
    TeamBudget,
    Usage,
    UsageQuery,
    WorkerBudget,
)
from orchestrator_service.core import Core
from orchestrator_service.errors import FieldProblem, OrderRefused
from orchestrator_service.ledger.series import read_series
from orchestrator_service.ledger.usage import read_usage
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.book import Book

_DAY_S: Final = 86_400.0
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
_POINTS: Final = 200
"""So many steps at most where nobody says how long one is."""
_FIRST_DAY: Final = "0001-01-01"
_LAST_DAY: Final = "9999-12-31"


async def usage(core: Core, query: UsageQuery) -> Usage:
    """See `desk.Desk.usage`."""
    since = None if query.since is None else query.since.timestamp()
    until = None if query.until is None else query.until.timestamp()
    _check_order(since, until)
    first = _FIRST_DAY if since is None else _day_of(core.book, since)
    # The moment itself is not in it: midnight is the end of the day before.
    last = _LAST_DAY if until is None else _day_of(core.book, until - 1e-6)
    rows, total = await core.database.read(
        lambda connection: read_usage(connection, query.by, first, last, query.limit)
    )
    return Usage(rows=rows, total=total, budget=team_budget(core))


def _day_of(book: Book, moment: float) -> str:
    try:
        return book.day_of(moment)
    except (OverflowError, ValueError):
        return _FIRST_DAY if moment < 0 else _LAST_DAY


def team_budget(core: Core) -> TeamBudget:
    """Return what is left of today's budgets."""
    book = core.book
    day = book.day_of(core.clock())
    # Nothing was spent or reserved on a day that nothing has happened on.
    spent, reserved = (book.spent, book.reserved) if day == book.day else ({}, {})
    names = sorted({*core.fleet.names, *spent, *reserved})
    return TeamBudget(
        **_line(book.budget.day_usd, sum(spent.values()), sum(reserved.values())).model_dump(),
        day=day,
        workers=[
            WorkerBudget(
                worker=name,
                **_line(book.budget.worker_day_usd, spent.get(name, 0.0), reserved.get(name, 0.0)).model_dump(),
            )
            for name in names
        ],
    )


def _line(limit: float | None, spent: float, reserved: float) -> BudgetLine:
    spent, reserved = round(max(0.0, spent), 6), round(max(0.0, reserved), 6)
    left = None if limit is None else round(max(0.0, limit - spent - reserved), 6)
    return BudgetLine(limit_usd=limit, spent_usd=spent, reserved_usd=reserved, left_usd=left)


async def series(core: Core, query: SeriesQuery) -> Series:
    """See `desk.Desk.series`."""
    now = core.clock()
    until = now if query.until is None else query.until.timestamp()
    since = until - _DAY_S if query.since is None else query.since.timestamp()
    _check_order(since, until)
    step = query.step_s or next((step for step in _STEPS_S if (until - since) / step <= _POINTS), (until - since) / 100)
    if (until - since) / step > MOST_POINTS:
        told = f"that gives {(until - since) / step:.0f} steps; allowed are {MOST_POINTS}: name a longer step"
        raise OrderRefused([FieldProblem("step", step, told)])
    if query.since is None:
        # Steps that begin at round moments stay the same from one question to the next.
        since = (until - _DAY_S) // step * step
    found = await core.database.read(lambda connection: read_series(connection, since, until, step))
    if until < now:
        return found
    # The last step is not over: what there is to do now is known better than by the last sample.
    states = core.book.states
    queued = max(0, states[TaskState.READY] + states[TaskState.SENT])
    return found.model_copy(
        update={
            "queue_depth": [*found.queue_depth[:-1], queued],
            "running": [*found.running[:-1], max(0, states[TaskState.RUNNING])],
        }
    )


def _check_order(since: float | None, until: float | None) -> None:
    if since is not None and until is not None and since >= until:
        told = "it must be later than since"
        raise OrderRefused([FieldProblem("until", datetime.fromtimestamp(until).isoformat(), told)])
