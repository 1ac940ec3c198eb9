"""The route of the team's events: all that happens, live."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.described import API, answers, dump
from orchestrator_service.api.narrowed import narrowed
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.api.sse import LAST_EVENT_ID, Streams, position
from orchestrator_service.desk import Desk
from orchestrator_service.records import EventRecord

Name = Annotated[str, Field(min_length=1, max_length=200)]


class EventsQuery(BaseModel):
    """From where to follow the team, and what of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[
        str | None, Field(max_length=200, description="The `id` of the last event that was seen; a header wins.")
    ] = None
    agent: Annotated[
        bool, Field(description="Whether what agents say and do comes as well; that part cannot be resumed.")
    ] = False
    task: Annotated[Name | None, Field(description="Only events of this task.")] = None
    worker: Annotated[Name | None, Field(description="Only events of this worker.")] = None
    goal: Annotated[Name | None, Field(description="Only events of this goal.")] = None


class LatestQuery(BaseModel):
    """How many of the newest events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=500, description="Events at most.")] = 50


_LATEST: Final = TypeAdapter(list[EventRecord])


def add_event_routes(app: FastAPI, desk: Desk, streams: Streams) -> None:
    """Add the route of the team's events to `app`."""

    @app.get(
        f"{API}/events",
        tags=["events"],
        summary="Follow the team",
        response_class=Response,
        responses=answers(
            200,
            "What happens, from now or from a position on.",
            examples.STREAM,
            ProblemKind.REQUEST_REFUSED,
            media_type="text/event-stream",
        )
        | {204: {"description": "The client was here before, and nothing more will come."}},
        openapi_extra={"parameters": [LAST_EVENT_ID]},
    )
    async def events(request: Request, query: Annotated[EventsQuery, Query()]) -> Response:
        """Send what happens in the team, live. Without a position it begins now."""
        after = position(request)
        found = desk.events(after, agent=query.agent)
        fields = {"task_id": query.task, "worker": query.worker, "goal_id": query.goal}
        wanted = {field: value for field, value in fields.items() if value is not None}
        return await streams.open(narrowed(found, wanted) if wanted else found, resumed=after is not None)

    @app.get(
        f"{API}/events/latest",
        tags=["events"],
        summary="Look at the newest events",
        response_model=list[EventRecord],
        responses=answers(200, "The newest events, oldest first.", examples.LATEST_EVENTS, ProblemKind.REQUEST_REFUSED),
    )
    async def latest(query: Annotated[LatestQuery, Query()]) -> Response:
        """Return what happened last, without waiting for more; the `id` of the last one is where a stream goes on."""
        return dump(_LATEST, await desk.latest_events(query.limit))
