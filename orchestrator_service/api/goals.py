"""Routes of goals: what a team is to reach, and what came of it."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI, Query
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.auth import asker
from orchestrator_service.api.bodies import parse, read_body
from orchestrator_service.api.described import API, BODY_PROBLEMS, answer, answers, body, dump
from orchestrator_service.api.narrowed import of_goal
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.api.sse import LAST_EVENT_ID, Streams, position
from orchestrator_service.desk import Desk
from orchestrator_service.orders import GoalOrder
from orchestrator_service.records import GoalRecord
from orchestrator_service.settings import Role

_GOALS: Final = TypeAdapter(list[GoalRecord])

GoalInPath = Annotated[str, InPath(description="The id of the goal.", examples=["goal-51c2"])]


class GoalsQuery(BaseModel):
    """How many goals to list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=500, description="Goals at most.")] = 50


class GoalEventsQuery(BaseModel):
    """From where to follow a goal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[
        str | None, Field(max_length=200, description="The `id` of the last event that was seen; a header wins.")
    ] = None
    agent: Annotated[bool, Field(description="Whether what agents say and do comes as well.")] = False


def add_goal_routes(app: FastAPI, desk: Desk, streams: Streams) -> None:
    """Add the routes of goals to `app`."""

    @app.get(
        f"{API}/goals",
        tags=["goals"],
        summary="List goals",
        response_model=list[GoalRecord],
        responses=answers(200, "The newest goals, newest first.", [examples.GOAL], ProblemKind.REQUEST_REFUSED),
    )
    async def listed(query: Annotated[GoalsQuery, Query()]) -> Response:
        """Return the newest goals."""
        return dump(_GOALS, await desk.goals(query.limit))

    @app.post(
        f"{API}/goals",
        tags=["goals"],
        summary="Give the team a goal",
        status_code=201,
        response_model=GoalRecord,
        responses=answers(
            201, "It is worked on.", examples.GOAL, *BODY_PROBLEMS, ProblemKind.CONFLICT, ProblemKind.UNAVAILABLE
        ),
        openapi_extra=body(GoalOrder, examples.GOAL_ORDER),
    )
    async def create(request: Request) -> Response:
        """Let the orchestrator agent split a goal into tasks, hand them to workers, and write one synthesis."""
        who = asker(request, Role.SUBMIT)
        record = await desk.create_goal(parse(await read_body(request), GoalOrder), who)
        return answer(record, 201, Location=f"{API}/goals/{record.goal_id}")

    @app.get(
        f"{API}/goals/{{goal_id}}",
        tags=["goals"],
        summary="Look at a goal",
        response_model=GoalRecord,
        responses=answers(200, "The goal.", examples.GOAL, ProblemKind.NOT_KNOWN),
    )
    async def shown(goal_id: GoalInPath) -> Response:
        """Return a goal with its synthesis, once there is one, and the tasks it came from."""
        return answer(await desk.goal(goal_id))

    @app.post(
        f"{API}/goals/{{goal_id}}/cancel",
        tags=["goals"],
        summary="Cancel a goal",
        response_model=GoalRecord,
        responses=answers(200, "It has ended.", examples.CANCELLED_GOAL, ProblemKind.NOT_KNOWN, ProblemKind.CONFLICT),
    )
    async def cancel(request: Request, goal_id: GoalInPath) -> Response:
        """End a goal and its open tasks."""
        return answer(await desk.cancel_goal(goal_id, asker(request, Role.SUBMIT)))

    @app.get(
        f"{API}/goals/{{goal_id}}/events",
        tags=["goals", "events"],
        summary="Follow a goal",
        response_class=Response,
        responses=answers(
            200,
            "What happens for the goal, from now or from a position on.",
            examples.STREAM,
            ProblemKind.NOT_KNOWN,
            ProblemKind.REQUEST_REFUSED,
            media_type="text/event-stream",
        )
        | {204: {"description": "The client was here before, and nothing more will come."}},
        openapi_extra={"parameters": [LAST_EVENT_ID]},
    )
    async def events(request: Request, goal_id: GoalInPath, query: Annotated[GoalEventsQuery, Query()]) -> Response:
        """Send what happens for a goal and its tasks, live until it has ended."""
        after = position(request)
        return await streams.open(of_goal(desk, goal_id, after, agent=query.agent), resumed=after is not None)
