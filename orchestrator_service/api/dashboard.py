"""Routes of the dashboard: its pages, its files, and results as trees from which it builds elements."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agent_bus import VERSION
from orchestrator_service.api.problems import ProblemKind, RequestRefused
from orchestrator_service.dashboard.assets import Assets
from orchestrator_service.dashboard.markdown_tree import LONGEST, markdown_tree
from orchestrator_service.dashboard.shell import SECURITY_HEADERS, shell
from orchestrator_service.desk import Desk

STATIC: Final = "/static/"
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_PAGES: Final = ("/", "/tasks", "/tasks/{task_id}", "/goals", "/goals/{goal_id}", "/inbox", "/usage", "/login")


def add_dashboard(app: FastAPI, desk: Desk) -> None:
    """Add the dashboard to `app`, and in `app.state.no_page` what a browser gets where there is no page."""
    assets = Assets()
    page = shell(assets, VERSION)
    tag = f'"{assets.mark}-{VERSION}"'
    page_headers = {**SECURITY_HEADERS, "ETag": tag, "Cache-Control": "no-cache"}

    async def show(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=page_headers)
        return Response(page, media_type="text/html; charset=utf-8", headers=page_headers)

    async def static(request: Request) -> Response:
        found = assets.find(request.path_params["mark"], request.path_params["name"])
        if found is None:
            raise RequestRefused(ProblemKind.NO_SUCH_PATH, "There is no such file of the dashboard; reload the page.")
        headers = {**SECURITY_HEADERS, "Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        if found.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(found.compressed, media_type=found.media_type, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)

    async def task_output(request: Request) -> Response:
        told = await desk.result(request.path_params["task_id"])
        result = told.result
        body = _rendered("" if result is None else result.output)
        body["structured"] = None if result is None else result.structured_output
        return _private(body)

    async def goal_output(request: Request) -> Response:
        goal = await desk.goal(request.path_params["goal_id"])
        return _private(_rendered(goal.output or ""))

    app.state.no_page = lambda: Response(
        page, status_code=404, media_type="text/html; charset=utf-8", headers={**SECURITY_HEADERS, **_NO_STORE}
    )
    for path in _PAGES:
        app.add_route(path, show, methods=["GET"], include_in_schema=False)
    app.add_route(f"{STATIC}{{mark}}/{{name:path}}", static, methods=["GET"], include_in_schema=False)
    app.add_route("/rendered/tasks/{task_id}", task_output, methods=["GET"], include_in_schema=False)
    app.add_route("/rendered/goals/{goal_id}", goal_output, methods=["GET"], include_in_schema=False)


def _rendered(text: str) -> dict[str, Any]:
    return {"nodes": markdown_tree(text), "cut": len(text) > LONGEST, "characters": len(text)}


def _private(body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers=_NO_STORE)
