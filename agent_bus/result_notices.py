"""Notices to the orchestrator: a small trigger for each result, and one that holds the latest failure.

`triggers/orchestrator/result-ID.trigger` is renamed into place once the result is there, so that a person's script
needs nothing but `inotifywait` to follow a team. The results are the truth and the notices are hints: one that is
lost, doubled or pruned loses nothing.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic_core import to_json

from agent_bus.layout import TRIGGER_SUFFIX
from agent_bus.messages import TaskStatus, utc_now

log = logging.getLogger(__name__)

KEPT_S: Final = 86_400.0
"""Notices that nobody took are removed after a day; whoever comes later reads the results."""

_PREFIX: Final = "result-"
_FAILURES: Final = frozenset((TaskStatus.FAILED, TaskStatus.TIMED_OUT))


class ResultNotices:
    """Tells of the results of one worker."""

    def __init__(self, directory: Path, *, worker: str, instance: str) -> None:
        """Write to `directory`, which is `WorkerLayout.orchestrator_triggers`."""
        self._directory = directory
        self._worker = worker
        self._staging = f"{directory}/.{instance}.notice"
        self._broken = False

    def tell(self, task_id: str, status: TaskStatus, path: str, error: str | None = None) -> None:
        """Tell of a result that is in place; a full disk costs the notice, never the result.

        Args:
            task_id: Whose result it is.
            status: How the task ended.
            path: Where the result is; for one on Redis, its key.
            error: Why the task did not complete.
        """
        notice = {"task_id": task_id, "worker": self._worker, "status": status.value, "path": path}
        try:
            self._put(f"{_PREFIX}{task_id}{TRIGGER_SUFFIX}", notice)
            if status in _FAILURES:
                told = {**notice, "error": error, "timestamp": utc_now().isoformat()}
                self._put(f"{self._worker}-error{TRIGGER_SUFFIX}", told)
        except OSError as failure:
            if not self._broken:
                log.warning(
                    "the orchestrator cannot be told of results: %s", failure, extra={"action": "notice_unwritable"}
                )
            self._broken = True
        else:
            self._broken = False

    def _put(self, name: str, notice: dict[str, Any]) -> None:
        body = to_json(notice)
        try:
            descriptor = self._open_staging()
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = self._open_staging()
        try:
            os.write(descriptor, body)
        finally:
            os.close(descriptor)
        os.rename(self._staging, f"{self._directory}/{name}")

    def _open_staging(self) -> int:
        return os.open(self._staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def prune(self) -> int:
        """Remove notices that nobody took for a day; returns how many. Looks at the whole directory."""
        removed = 0
        oldest = time.time() - KEPT_S
        with suppress(OSError), os.scandir(self._directory) as listing:
            for entry in listing:
                if not (entry.name.startswith(_PREFIX) and entry.name.endswith(TRIGGER_SUFFIX)):
                    continue
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)
                        removed += 1
        return removed
