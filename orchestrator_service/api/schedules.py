"""Routes of schedules: tasks that recur."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI
from fastapi import Path as InPath
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.auth import asker
from orchestrator_service.api.bodies import parse, read_body
from orchestrator_service.api.described import API, BODY_PROBLEMS, answer, answers, body, dump
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.desk import Desk
from orchestrator_service.orders import ScheduleOrder
from orchestrator_service.records import ScheduleRecord
from orchestrator_service.settings import Role

_SCHEDULES: Final = TypeAdapter(list[ScheduleRecord])

ScheduleName = Annotated[str, InPath(description="The name of the schedule.", examples=["morning-report"])]


def add_schedule_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of schedules to `app`."""

    @app.get(
        f"{API}/schedules",
        tags=["schedules"],
        summary="List schedules",
        response_model=list[ScheduleRecord],
        responses=answers(200, "All schedules, by name.", [examples.SCHEDULE]),
    )
    async def listed() -> Response:
        """Return all recurring tasks, and when each is due next."""
        return dump(_SCHEDULES, await desk.schedules())

    @app.post(
        f"{API}/schedules",
        tags=["schedules"],
        summary="Make a task recur",
        status_code=201,
        response_model=ScheduleRecord,
        responses=answers(201, "It will.", examples.SCHEDULE, *BODY_PROBLEMS, ProblemKind.CONFLICT),
        openapi_extra=body(ScheduleOrder, examples.SCHEDULE_ORDER),
    )
    async def create(request: Request) -> Response:
        """Hand in a task again and again, at the times of a cron expression."""
        who = asker(request, Role.ADMIN)
        record = await desk.create_schedule(parse(await read_body(request), ScheduleOrder), who)
        return answer(record, 201, Location=f"{API}/schedules/{record.name}")

    @app.get(
        f"{API}/schedules/{{name}}",
        tags=["schedules"],
        summary="Look at a schedule",
        response_model=ScheduleRecord,
        responses=answers(200, "The schedule.", examples.SCHEDULE, ProblemKind.NOT_KNOWN),
    )
    async def shown(name: ScheduleName) -> Response:
        """Return one schedule."""
        return answer(await desk.schedule(name))

    @app.delete(
        f"{API}/schedules/{{name}}",
        tags=["schedules"],
        summary="Delete a schedule",
        status_code=204,
        response_class=Response,
        responses=answers(204, "It is gone; the tasks it brought stay.", None, ProblemKind.NOT_KNOWN),
    )
    async def delete(request: Request, name: ScheduleName) -> Response:
        """Forget a schedule."""
        await desk.delete_schedule(name, asker(request, Role.ADMIN))
        return Response(status_code=204)

    @app.post(
        f"{API}/schedules/{{name}}/pause",
        tags=["schedules"],
        summary="Pause a schedule",
        response_model=ScheduleRecord,
        responses=answers(
            200, "It is held.", {**examples.SCHEDULE, "paused": True, "next_at": None}, ProblemKind.NOT_KNOWN
        ),
    )
    async def pause(request: Request, name: ScheduleName) -> Response:
        """Hold a schedule until it is resumed."""
        return answer(await desk.set_schedule_paused(name, True, asker(request, Role.ADMIN)))

    @app.post(
        f"{API}/schedules/{{name}}/resume",
        tags=["schedules"],
        summary="Resume a schedule",
        response_model=ScheduleRecord,
        responses=answers(200, "It goes on.", examples.SCHEDULE, ProblemKind.NOT_KNOWN),
    )
    async def resume(request: Request, name: ScheduleName) -> Response:
        """Let a schedule go on."""
        return answer(await desk.set_schedule_paused(name, False, asker(request, Role.ADMIN)))
