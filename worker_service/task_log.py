"""One log line a task, as long as people could read them; beyond that a line a second that counts the rest."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

from agent_bus.messages import Result

log = logging.getLogger(__name__)

LINES_A_SECOND: Final = 50
"""More than this nobody reads, and each line costs as much as a small task."""


class TaskLog:
    """Tells how tasks ended."""

    def __init__(self, lines_a_second: int = LINES_A_SECOND) -> None:
        self._allowed = lines_a_second
        self._second = 0
        self._lines = 0
        self._untold: Counter[str] = Counter()

    def ended(self, result: Result) -> None:
        """Log the end of a task, or count it when there are too many."""
        second = int(time.monotonic())
        if second != self._second:
            self.flush()
            self._second, self._lines = second, 0
        if self._lines >= self._allowed:
            self._untold[result.status.value] += 1
            return
        self._lines += 1
        log.info(
            "task %s %s in %.3f s%s",
            result.task_id,
            result.status.value,
            result.duration_seconds,
            "" if result.error is None else f": {result.error.message}",
            extra={
                "action": "task_ended",
                "task_id": result.task_id,
                "status": result.status.value,
                "attempts": result.attempts,
            },
        )

    def flush(self) -> None:
        """Log what was only counted so far."""
        if self._untold:
            counts = dict(self._untold)
            self._untold.clear()
            told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
            log.info("%s more", told, extra={"action": "tasks_ended", **counts})
