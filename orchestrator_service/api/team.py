"""Routes of the team as a whole: money, rules and counts."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from pydantic import TypeAdapter
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.described import API, answer, answers, dump
from orchestrator_service.desk import Desk
from orchestrator_service.records import Budget, Invariant

_INVARIANTS: Final = TypeAdapter(list[Invariant])
_COUNTS: Final = TypeAdapter(dict[str, int])


def add_team_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of the team as a whole to `app`."""

    @app.get(
        f"{API}/budget",
        tags=["team"],
        summary="Look at today's budget",
        response_model=Budget,
        responses=answers(200, "What may be spent today, and what is.", examples.BUDGET),
    )
    async def budget() -> Response:
        """Return what the team may spend today, what it has spent, and what running tasks have reserved."""
        return answer(await desk.budget())

    @app.get(
        f"{API}/invariants",
        tags=["team"],
        summary="Look at the rules that must hold",
        response_model=list[Invariant],
        responses=answers(200, "The rules, and whether they held at the last check.", examples.INVARIANTS),
    )
    async def invariants() -> Response:
        """Return whether files, streams and ledger agree."""
        return dump(_INVARIANTS, await desk.invariants())

    @app.get(
        f"{API}/counts",
        tags=["team"],
        summary="Count tasks",
        response_model=dict[str, int],
        responses=answers(200, "Tasks by state.", examples.COUNTS),
    )
    async def counts() -> Response:
        """Return how many tasks there are in each state."""
        return dump(_COUNTS, await desk.counts())
