"""Requests to end a task: files `ID.cancel` beside the task files, and what is known of them here."""

from __future__ import annotations

import os
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent_bus.layout import CANCEL_SUFFIX

_MOST_KEPT: Final = 10_000
"""The tasks of most markers run in other replicas; what is forgotten the next scan finds again."""


class CancelRequests:
    """The tasks whose end was asked for, of one worker."""

    def __init__(self, tasks: Path) -> None:
        """Look after the markers in the directory `tasks`."""
        self._tasks = tasks
        self._ids: dict[str, None] = {}

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._ids

    def note(self, task_id: str, *, never_forget: Container[str]) -> None:
        """Take note of a marker; where there are too many the oldest is forgotten, but none of `never_forget`."""
        self._ids[task_id] = None
        if len(self._ids) > _MOST_KEPT:
            oldest = next((kept for kept in self._ids if kept not in never_forget), None)
            if oldest is not None:
                del self._ids[oldest]

    def mark(self, task_id: str) -> None:
        """Leave a marker, for whichever replica takes the task.

        Raises:
            OSError: it cannot be written.
        """
        self._path(task_id).touch()

    def settle(self, task_id: str) -> None:
        """Forget a request whose task has ended, and take its marker away."""
        if task_id in self._ids:
            del self._ids[task_id]
            self.remove_marker(task_id)

    def remove_marker(self, task_id: str) -> None:
        """Take the marker away."""
        with suppress(OSError):
            os.unlink(self._path(task_id))

    def _path(self, task_id: str) -> Path:
        return self._tasks / f"{task_id}{CANCEL_SUFFIX}"
