"""Routes of workers: look at them, hold them, let them go on."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI
from fastapi import Path as InPath
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.auth import asker
from orchestrator_service.api.described import API, answer, answers, dump
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.desk import Desk
from orchestrator_service.records import Told, WorkerRecord
from orchestrator_service.settings import Role

_WORKERS: Final = TypeAdapter(list[WorkerRecord])

WorkerInPath = Annotated[str, InPath(description="The name of the worker.", examples=["marie"])]


def add_worker_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of workers to `app`."""

    @app.get(
        f"{API}/workers",
        tags=["workers"],
        summary="List workers",
        response_model=list[WorkerRecord],
        responses=answers(200, "All workers, by name.", [examples.WORKER]),
    )
    async def listed() -> Response:
        """Return all workers: their roles, whether they are up, what they have, and what they cost today."""
        return dump(_WORKERS, await desk.workers())

    @app.get(
        f"{API}/workers/{{name}}",
        tags=["workers"],
        summary="Look at a worker",
        response_model=WorkerRecord,
        responses=answers(200, "The worker.", examples.WORKER, ProblemKind.NOT_KNOWN),
    )
    async def shown(name: WorkerInPath) -> Response:
        """Return one worker."""
        return answer(await desk.worker(name))

    @app.post(
        f"{API}/workers/{{name}}/pause",
        tags=["workers"],
        summary="Pause a worker",
        response_model=Told,
        responses=answers(200, "It gets nothing new.", examples.TOLD, ProblemKind.NOT_KNOWN),
    )
    async def pause(request: Request, name: WorkerInPath) -> Response:
        """Send a worker nothing new until it is resumed, and tell it so. What runs goes on."""
        return answer(await desk.pause(name, asker(request, Role.ADMIN)))

    @app.post(
        f"{API}/workers/{{name}}/resume",
        tags=["workers"],
        summary="Resume a worker",
        response_model=Told,
        responses=answers(
            200, "It gets tasks again.", {**examples.TOLD, "worker": examples.WORKER}, ProblemKind.NOT_KNOWN
        ),
    )
    async def resume(request: Request, name: WorkerInPath) -> Response:
        """End a pause."""
        return answer(await desk.resume(name, asker(request, Role.ADMIN)))
