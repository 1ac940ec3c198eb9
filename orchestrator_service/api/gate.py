"""What every request goes through: who sends it, how much and how often; and what is counted of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator_service.api.auth import Caller, Doorkeeper, check_same_origin, header, need_role
from orchestrator_service.api.dashboard import STATIC
from orchestrator_service.api.limits import RateLimit, check_length, limited
from orchestrator_service.api.live import LIVE, SESSION_OVER, LiveServer
from orchestrator_service.api.own_agents import is_own_agent
from orchestrator_service.api.problems import ProblemKind, RequestRefused, answer_problem, as_refusal
from orchestrator_service.dashboard.shell import is_page, wants_page
from orchestrator_service.desk import Asker
from orchestrator_service.errors import OrchestratorError
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.settings import ApiSettings, Role

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset(("/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/logout"))
"""Served without a token, beside the dashboard's pages and files: they tell nothing of tasks."""
MCP_PATH: Final = "/mcp"
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Gate:
    """The outermost application: nothing of it is entered by somebody who may not, and no error leaves it bare."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ApiSettings,
        doorkeeper: Doorkeeper,
        live: LiveServer,
        metrics: OrchestratorMetrics,
        mcp: ASGIApp | None,
        hot: Mapping[tuple[str, str], BaseRoute] | None = None,
    ) -> None:
        """Stand before `app`; routes in `hot`, by method and path, are entered without its layers in between."""
        self._app, self._mcp, self._hot = app, mcp, hot or {}
        self._doorkeeper, self._live = doorkeeper, live
        self._rate = RateLimit(settings.rate_limit, settings.rate_burst)
        self._most_bytes = settings.max_request_bytes
        self._requests, self._durations = metrics.http_requests, metrics.http_request_duration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await self._let_page_in(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal: RequestRefused | None = None
        try:
            await self._let_in(scope, limited(receive, self._most_bytes), send_on)
        except RequestRefused as error:
            refusal = error
        except OrchestratorError as error:
            refusal = as_refusal(error, asked=scope["method"] == "GET")
        except ClientDisconnect:
            status = status or 499
        except Exception:
            log.exception(
                "A request failed: %s %s", scope["method"], scope["path"][:200], extra={"action": "request_failed"}
            )
            refusal = RequestRefused(
                ProblemKind.INTERNAL, "Something unforeseen went wrong; the orchestrator's log says what."
            )
        if refusal is not None and status == 0:
            await answer_problem(refusal, scope["path"])(scope, receive, send_on)
        self._count(scope, status, time.perf_counter() - began)

    async def _let_page_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a live channel; whoever may not have one is turned away before it is open (403)."""
        try:
            self._doorkeeper.check_source(scope)
            caller = self._doorkeeper.admit(scope)
            if scope["path"] != LIVE:
                raise RequestRefused(ProblemKind.NO_SUCH_PATH, "There is no such channel.")
            if any(name == b"origin" for name, _ in scope["headers"]):
                check_same_origin(scope)
            self._rate.take(caller.name)
        except RequestRefused as refusal:
            log.debug("a live channel was refused: %s", refusal.detail, extra={"action": "live_refused"})
            await send({"type": "websocket.close", "code": SESSION_OVER})
            return
        _introduce(scope, caller)
        session = self._doorkeeper.session(scope)
        left_s = None if session is None else self._doorkeeper.sessions.left_s(session)
        await self._live.serve(scope, receive, send, left_s, None if session is None else session.ended)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._doorkeeper.check_source(scope)
        path: str = scope["path"]
        for_mcp = self._mcp is not None and (path == MCP_PATH or path.startswith(f"{MCP_PATH}/"))
        if not _is_open(scope, path):
            caller = self._doorkeeper.admit(scope)
            self._rate.take(caller.name)
            _introduce(scope, caller)
        check_length(scope, self._most_bytes)
        if for_mcp and self._mcp is not None:
            need_role(scope, Role.SUBMIT)
            if scope["state"]["caller"].is_anybody and is_own_agent(scope):
                scope["state"]["may_answer"] = False
            await self._mcp(scope, receive, send)
        elif (route := self._hot.get((scope["method"], path))) is not None:
            scope["route"] = route
            await route.handle(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        if route is None:
            # What nobody let in, or what leads nowhere: a path of its own for each would have no end.
            route = MCP_PATH if status and scope["path"].startswith(MCP_PATH) and self._mcp is not None else "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        if not scope.get("codehornets.stream", False):
            self._durations.labels(route).observe(seconds)


def _is_open(scope: Scope, path: str) -> bool:
    if path in OPEN_PATHS or path.startswith(STATIC) or is_page(path):
        return True
    return wants_page(scope["method"], path, header(scope, b"accept") or "")


def _introduce(scope: Scope, caller: Caller) -> None:
    state = scope.setdefault("state", {})
    state["caller"] = caller
    state["asker"] = Asker(name=caller.name)
    state["may_answer"] = caller.role.allows(Role.APPROVE)
