"""The worker's HTTP side: health, readiness and metrics, in the worker's own process and loop.

Being in the same loop is the point: a loop that is blocked does not answer, and that is what a probe must find out.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from worker_service.findings import Finding
from worker_service.health import Health
from worker_service.hooks.bridge import HookBridge
from worker_service.hooks.endpoint import add_hook_route
from worker_service.metrics import Metrics


class SidecarUnavailable(Exception):
    """The address cannot be listened on; the text is one sentence for a person."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 means any free one.

    Raises:
        SidecarUnavailable: the address is in use or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise SidecarUnavailable(
            f"HTTP_HOST {host!r} with HTTP_PORT {port} cannot be listened on: {reason}; "
            "choose another port (0 takes any free one)."
        ) from error


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

    def answer(findings: list[Finding]) -> Response:
        well = all(finding.well for finding in findings)
        text = "\n".join(str(finding) for finding in findings) + "\n"
        return PlainTextResponse(text.encode("utf-8", "backslashreplace"), status_code=200 if well else 503)

    @app.get("/healthz")
    async def healthz() -> Response:
        return answer(health.liveness())

    @app.get("/readyz")
    async def readyz() -> Response:
        return answer(health.readiness())

    @app.get("/metrics")
    async def show_metrics() -> Response:
        refresh()
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    if hooks is not None:
        add_hook_route(app, hooks, metrics, hook_token or secrets.token_urlsafe(32))
    return app


class Sidecar(uvicorn.Server):
    """A uvicorn that does not tick: its own main loop wakes ten times a second, this one only to end."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                date_header=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._stop = anyio.Event()

    async def main_loop(self) -> None:
        """Serve until `stop`."""
        await self._stop.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the entry point."""
        yield

    def stop(self) -> None:
        """Let `serve` end."""
        self.should_exit = True
        self._stop.set()


async def serve(sidecar: Sidecar, listener: socket.socket, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
    """Serve on the socket; reports itself started at once, since the socket queues early callers."""
    task_status.started()
    await sidecar.serve(sockets=[listener])
