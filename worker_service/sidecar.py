"""The worker's HTTP side: health, readiness and metrics, in the worker's own process and loop.

Being in the same loop is the point: a loop that is blocked does not answer, and that is what a probe must find out.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service_kit.http_server import answer_findings
from worker_service.health import Health
from worker_service.hooks.bridge import HookBridge
from worker_service.hooks.endpoint import add_hook_route
from worker_service.metrics import Metrics


def make_app(
    health: Health,
    metrics: Metrics,
    refresh: Callable[[], None],
    *,
    hooks: HookBridge | None = None,
    hook_token: str | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        health: What is told of the worker.
        metrics: What is shown.
        refresh: Brings the gauges up to date before they are read.
        hooks: Takes what comes to `/hooks`; None leaves that path out.
        hook_token: What a request to `/hooks` must carry; None makes a random one, so that nothing is let in.
    """
    app = FastAPI(title="codehornets worker", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return answer_findings(health.liveness())

    @app.get("/readyz")
    async def readyz() -> Response:
        return answer_findings(health.readiness())

    @app.get("/metrics")
    async def show_metrics() -> Response:
        refresh()
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    if hooks is not None:
        add_hook_route(app, hooks, metrics, hook_token or secrets.token_urlsafe(32))
    return app
