"""What is served beside the API: health, metrics, and a page that lists the endpoints."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any, Final

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from orchestrator_service.errors import OrchestratorError
from orchestrator_service.metrics import OrchestratorMetrics
from service_kit.findings import Finding
from service_kit.http_server import answer_findings

log = logging.getLogger(__name__)

_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
}
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}table{border-collapse:collapse;width:100%}td{border-top:1px solid #ddd;padding:.4rem .6rem;"
    "vertical-align:top}code{font:14px ui-monospace,monospace}.m{font-weight:600;width:5rem}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}td{border-color:#333}a{color:#8bf}}"
)


def add_pages(
    app: FastAPI,
    metrics: OrchestratorMetrics,
    *,
    liveness: Callable[[], list[Finding]],
    readiness: Callable[[], list[Finding]],
    refresh: Callable[[], Awaitable[None] | None],
) -> None:
    """Add what is served without a token to `app`."""

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return answer_findings(liveness())

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        return answer_findings(readiness())

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        try:
            refreshed = refresh()
            if inspect.isawaitable(refreshed):
                await refreshed
        except OrchestratorError as error:
            # The other series are the more wanted then.
            log.warning("Metrics are not up to date: %s", error, extra={"action": "metrics_stale"})
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # Making the document takes a third of a second once: no coroutines, so that it is made beside the loop.
    @app.get("/openapi.json", include_in_schema=False)
    def openapi() -> Response:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(_page(app.openapi()), headers=_PAGE_HEADERS)


def _page(schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td class=m>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td><b>{escape(told.get('summary', ''))}</b><br>{escape(told.get('description', ''))}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, told in methods.items()
    )
    return _html(
        "codehornets API",
        f"<h1>{escape(schema['info']['title'])}</h1><p>{escape(schema['info'].get('description', ''))}</p>"
        f"<p>Everything, with examples: <a href=/openapi.json>/openapi.json</a>.</p><table>{rows}</table>",
    )


def _html(title: str, body: str) -> str:
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body>{body}</body></html>"
    )
