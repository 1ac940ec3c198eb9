"""The HTTP application of the orchestrator, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from agent_bus import VERSION
from orchestrator_service.api.auth import Doorkeeper
from orchestrator_service.api.bodies import refusal_of_parameters
from orchestrator_service.api.dashboard import add_dashboard
from orchestrator_service.api.described import described
from orchestrator_service.api.events import add_event_routes
from orchestrator_service.api.gate import Gate
from orchestrator_service.api.gates import add_gate_routes
from orchestrator_service.api.goals import add_goal_routes
from orchestrator_service.api.live import LiveServer
from orchestrator_service.api.login import add_login_routes
from orchestrator_service.api.pages import add_pages
from orchestrator_service.api.problems import ProblemKind, RequestRefused, answer_problem
from orchestrator_service.api.questions import AnswerOrder, add_question_routes
from orchestrator_service.api.schedules import add_schedule_routes
from orchestrator_service.api.sse import HEARTBEAT_S, Streams
from orchestrator_service.api.tasks import TASKS, CancelOrder, add_task_routes
from orchestrator_service.api.team import add_team_routes
from orchestrator_service.api.usage import add_usage_routes
from orchestrator_service.api.workers import add_worker_routes
from orchestrator_service.dashboard.shell import wants_page
from orchestrator_service.desk import Desk
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.orders import GoalOrder, GraphOrder, ScheduleOrder, TaskOrder
from orchestrator_service.settings import ApiSettings
from service_kit.findings import Finding
from service_kit.http_server import QuietServer

_DESCRIPTION: Final = (
    "Hand tasks, graphs of tasks and goals to a team of agents, follow them live, and get their results. Everything "
    "that is no success is a problem document (RFC 9457, application/problem+json) that names what is wrong and what "
    "is allowed."
)
_TAGS: Final = [
    {"name": "tasks", "description": "Hand in, look at, wait, cancel, retry."},
    {"name": "goals", "description": "What the orchestrator agent splits into tasks."},
    {"name": "schedules", "description": "Tasks that recur."},
    {"name": "questions", "description": "What agents ask of people: may I use this tool?"},
    {"name": "workers", "description": "Who does the tasks."},
    {"name": "events", "description": "Server-sent events, resumable by Last-Event-ID."},
    {"name": "team", "description": "Money, rules and counts."},
]


def make_app(
    desk: Desk,
    *,
    settings: ApiSettings,
    metrics: OrchestratorMetrics,
    liveness: Callable[[], list[Finding]],
    readiness: Callable[[], list[Finding]],
    refresh: Callable[[], Awaitable[None] | None],
    mcp: ASGIApp | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    sessions_file: Path | None = None,
) -> FastAPI:
    """Return the application. Set `app.state.closing` before the server stops: streams and waits end by it.

    Args:
        desk: Whom the routes ask.
        settings: Who may ask, and how much.
        metrics: What is counted, and shown at `/metrics`.
        liveness: What `/healthz` tells.
        readiness: What `/readyz` tells.
        refresh: Brings the gauges up to date before they are read.
        mcp: Serves `/mcp`, with the path as it came; the asker is in `scope["state"]["asker"]`.
        heartbeat_s: After so many seconds without an event a stream sends a comment.
        sessions_file: Where sessions of the dashboard outlive the process; None keeps them in memory.
    """
    app = FastAPI(
        title="codehornets orchestrator",
        version=VERSION,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.closing = closing = anyio.Event()
    streams = Streams(closing, metrics.sse_clients, heartbeat_s)
    doorkeeper = Doorkeeper(settings, sessions_file)
    add_login_routes(app, doorkeeper)
    add_dashboard(app, desk)
    add_task_routes(app, desk, streams, closing)
    add_worker_routes(app, desk)
    add_goal_routes(app, desk, streams)
    add_schedule_routes(app, desk)
    add_question_routes(app, desk)
    add_event_routes(app, desk, streams)
    add_team_routes(app, desk)
    add_usage_routes(app, desk)
    add_gate_routes(app, desk)
    add_pages(app, metrics, liveness=liveness, readiness=readiness, refresh=refresh)
    app.openapi = described(app, [TaskOrder, GraphOrder, GoalOrder, ScheduleOrder, CancelOrder, AnswerOrder])  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(RequestValidationError, _wrong_parameters)
    # Tasks are handed in far more often than anything else is asked: what the framework's layers do for other routes
    # the gate does itself, and they cost a fifth of the whole request.
    hot = {("POST", TASKS): next(route for route in app.routes if _hands_in(route))}
    app.add_middleware(
        Gate,
        settings=settings,
        doorkeeper=doorkeeper,
        live=LiveServer(desk, streams, closing),
        metrics=metrics,
        mcp=mcp,
        hot=hot,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"),
            expose_headers=("Location", "Retry-After"),
        )
    return app


def _hands_in(route: BaseRoute) -> bool:
    return isinstance(route, APIRoute) and route.path == TASKS and "POST" in (route.methods or ())


class ApiServer(QuietServer):
    """The server of the API: streams and waits end before it does."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, websockets=True)
        self._closing: anyio.Event = app.state.closing

    def stop(self) -> None:
        """Let streams, waits and `serve` end."""
        self._closing.set()
        super().stop()


async def _no_route(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, HTTPException) and error.status_code == 405:
        # The router tells of one route only, where several share the path.
        routes = (route for route in request.app.routes if isinstance(route, Route))
        methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
        allowed = ", ".join(sorted(methods))
        refusal = RequestRefused(
            ProblemKind.METHOD_NOT_ALLOWED,
            f"{request.method[:20]} is not taken here; allowed is {allowed}.",
            headers={"Allow": allowed},
        )
    elif wants_page(request.method, path, request.headers.get("accept", "")):
        page: Response = request.app.state.no_page()
        return page
    else:
        refusal = RequestRefused(
            ProblemKind.NO_SUCH_PATH, f"There is nothing at {path[:200]!r}; /docs lists what there is."
        )
    return answer_problem(refusal, path)


async def _wrong_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer_problem(refusal_of_parameters(error.errors()), request.url.path)
