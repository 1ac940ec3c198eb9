"""Removes old worktrees: at the start of the worker, and when one that is left is due. Nothing ticks in between."""

from __future__ import annotations

import logging
from typing import Final

import anyio
import anyio.to_thread

from agent_bus.messages import utc_now
from service_kit.git.command import Git
from service_kit.worktrees.pruning import Verdict, prune
from worker_service.workspaces.desk import Workspaces

log = logging.getLogger(__name__)

_LEAST_S: Final = 60.0
_AGAIN_S: Final = 6 * 3600.0
"""One that had to stay is looked at again after so long, at most."""


class Keeper:
    """Keeps the worktrees of one worker tidy."""

    def __init__(self, workspaces: Workspaces, *, keep_s: float) -> None:
        """Remove what has not been used for `keep_s` seconds."""
        self._workspaces = workspaces
        self._keep_s = keep_s
        self._ended = anyio.Event()
        self._told: dict[str, str] = {}
        workspaces.on_ended = self._note_end

    def _note_end(self) -> None:
        self._ended.set()

    async def run_forever(self) -> None:
        """Serve until cancelled."""
        git = self._workspaces.git
        if git is None:
            return
        while True:
            self._ended = anyio.Event()
            try:
                wait_s = await anyio.to_thread.run_sync(self.tidy, git)
            except OSError as error:
                log.warning("worktrees cannot be looked at: %s", error, extra={"action": "worktrees_unreadable"})
                wait_s = _AGAIN_S
            if wait_s is None:
                await self._ended.wait()
            else:
                await anyio.sleep(wait_s)

    def tidy(self, git: Git) -> float | None:
        """Remove what may go; return the seconds until the next is due, None where there is none."""
        looked_at = set()
        for verdict in prune(self._workspaces.book, git, keep_s=self._keep_s):
            looked_at.add(verdict.record.name)
            self._tell(verdict)
        waits = []
        now = utc_now()
        for name in self._workspaces.book.names():
            record = self._workspaces.book.read(name)
            if record is None:
                continue
            age_s = (now - record.used_at).total_seconds()
            waits.append(min(self._keep_s, _AGAIN_S) if age_s >= self._keep_s else self._keep_s - age_s)
        return max(_LEAST_S, min(waits)) if waits else None

    def _tell(self, verdict: Verdict) -> None:
        name, words = verdict.record.name, verdict.words
        # Each reason to stay is told once, not at each look.
        if not (verdict.is_removed or verdict.is_forgotten) and self._told.get(name) == words:
            return
        self._told[name] = words
        if verdict.is_forgotten:
            del self._told[name]
        log.info(
            "worktree %s (%s) %s",
            verdict.record.path,
            verdict.record.key,
            words,
            extra={"action": "worktree_kept" if not verdict.is_removed else "worktree_removed"},
        )
