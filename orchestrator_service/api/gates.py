"""Routes of gates: what a limit holds back, and the end of the wait."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI
from fastapi import Path as InPath
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.accounts import GateRecord
from orchestrator_service.api import money_examples
from orchestrator_service.api.auth import asker
from orchestrator_service.api.described import API, answer, answers, dump
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.desk import Desk
from orchestrator_service.settings import Role

_GATES: Final = TypeAdapter(list[GateRecord])

GateInPath = Annotated[str, InPath(description="The id of the gate.", examples=["5b1d7e0c9f3a2468"])]


def add_gate_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of gates to `app`."""

    @app.get(
        f"{API}/gates",
        tags=["workers"],
        summary="List closed gates",
        response_model=list[GateRecord],
        responses=answers(200, "The gates that are closed now.", [money_examples.GATE]),
    )
    async def listed() -> Response:
        """Return the limits that hold workers back: why, until when, whom, and how many tasks wait."""
        return dump(_GATES, await desk.gates())

    @app.post(
        f"{API}/gates/{{gate_id}}/open",
        tags=["workers"],
        summary="Open a gate",
        response_model=GateRecord,
        responses=answers(200, "It is open; this is how it was.", money_examples.GATE, ProblemKind.NOT_KNOWN),
    )
    async def opened(request: Request, gate_id: GateInPath) -> Response:
        """End the wait now: parked tasks go on. If the limit still holds, the gate closes again, no attempt spent."""
        return answer(await desk.open_gate(gate_id, asker(request, Role.ADMIN)))
