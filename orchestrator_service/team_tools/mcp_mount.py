"""MCP over HTTP as a part of the API: an ASGI application that loads the library with the first request."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from anyio.abc import TaskStatus
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator_service.team_tools.tools import AnsweringDesk

log = logging.getLogger(__name__)


def make_mcp_app(desk: AnsweringDesk) -> tuple[ASGIApp, AbstractAsyncContextManager[None]]:
    """Return an ASGI application, and what must be entered for as long as it serves.

    It expects to find who asks in `scope["state"]["asker"]` (a `desk.Asker`); tokens, the Host header and the size of
    the request were looked at before.
    """
    mount = _Mount(desk)
    return mount, mount.run()


class _Mount:
    def __init__(self, desk: AnsweringDesk) -> None:
        self._desk = desk
        self._app: ASGIApp | None = None
        self._starting = asyncio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve for the length of the block."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = self._app = None
                tasks.cancel_scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._app is None:
            async with self._starting:
                tasks = self._tasks
                if tasks is None:
                    await PlainTextResponse("The orchestrator is stopping.", status_code=503)(scope, receive, send)
                    return
                if self._app is None:
                    await tasks.start(self._serve)
        assert self._app is not None
        await self._app(scope, receive, send)

    async def _serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        # In a thread: the import takes most of a second, in which the loop has other things to do.
        await asyncio.to_thread(importlib.import_module, "orchestrator_service.team_tools.mcp_server")
        from orchestrator_service.team_tools.mcp_server import http_manager

        manager = http_manager(self._desk)
        async with manager.run():
            self._app = manager.handle_request
            log.info("MCP is served", extra={"action": "mcp_started"})
            task_status.started()
            await anyio.sleep_forever()
