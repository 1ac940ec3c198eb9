"""One log line a task, as long as people could read them; beyond that one that counts the rest."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from agent_bus.logs import LineQuota
from agent_bus.messages import Result

log = logging.getLogger(__name__)

LINES_A_SECOND: Final = 50


class TaskLog:
    """Tells how tasks ended."""

    def __init__(self, lines_a_second: int = LINES_A_SECOND) -> None:
        self._quota = LineQuota(lines_a_second)
        self._untold: Counter[str] = Counter()

    def ended(self, result: Result) -> None:
        """Log the end of a task, or count it when there are too many."""
        if not self._quota.allows_one():
            self._untold[result.status.value] += 1
            return
        self.flush()
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
