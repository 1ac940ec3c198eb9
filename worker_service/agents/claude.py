"""The Claude agent as the dispatcher knows it. The SDK behind it is imported beside the running worker.

That import takes most of a second; a worker is ready, and its other parts work, before it is done.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from worker_service.agents.base import Run
from worker_service.isolation import IsolationVerdict
from worker_service.settings import WorkerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from worker_service.agents.claude_sessions import ClaudeSessions
    from worker_service.hooks.bridge import HookBridge


class ClaudeAgent:
    """Works with Claude Code."""

    name = "claude"

    def __init__(self, settings: WorkerSettings, cli: Path, isolation: IsolationVerdict) -> None:
        """Use the program `cli`, whose shell commands run as `isolation` says."""
        self._settings = settings
        self._cli = cli
        self.bridge: HookBridge | None = None
        """Where hook events go; to be set before `serve_forever`. None runs the sessions without hooks."""
        self.isolation = isolation
        """How shell commands run."""
        self._loaded = anyio.Event()
        self._sessions: ClaudeSessions | None = None

    async def serve_forever(self) -> None:
        """Import the SDK, then keep processes warm."""
        module = await anyio.to_thread.run_sync(importlib.import_module, "worker_service.agents.claude_sessions")
        self._sessions = module.ClaudeSessions(self._settings, self._cli, self.bridge, isolated=self.isolation.isolated)
        self._loaded.set()
        await self._sessions.pool.serve_forever()

    async def run(self, run: Run) -> None:
        """Work on one task; waits for the SDK when the task is faster."""
        await self._loaded.wait()
        assert self._sessions is not None
        await self._sessions.run(run)

    async def aclose(self) -> None:
        """End every process."""
        if self._sessions is not None:
            await self._sessions.pool.aclose()

    def processes(self) -> dict[str, int]:
        """Return the number of processes by state."""
        return {} if self._sessions is None else self._sessions.pool.counts()

    def statement(self) -> str | None:
        """Say why Claude cannot be started, or None."""
        return None if self._sessions is None else self._sessions.pool.trouble
