"""The route of the team's events: all that happens, live."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.described import API, answers
from orchestrator_service.api.narrowed import narrowed
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.api.sse import LAST_EVENT_ID, Streams, position
from orchestrator_service.desk import Desk

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
