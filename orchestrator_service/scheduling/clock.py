"""What comes due by itself: the end of a pause, a deadline, a new day's money, a recurring task."""

from __future__ import annotations

from typing import Final

from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.lifecycle import cancel, get, release
from orchestrator_service.scheduling.step import Step

_MOST_AT_ONCE: Final = 200
"""More than this is done in the next step, so that nobody else waits long."""


def advance(step: Step) -> None:
    """Do what is due."""
    connection = step.connection
    due = connection.execute(
        "SELECT seq FROM tasks WHERE state = 'scheduled' AND next_at <= ? ORDER BY next_at LIMIT ?",
        (step.now, _MOST_AT_ONCE),
    ).fetchall()
    for (seq,) in due:
        release(step, get(connection, seq))
    late = connection.execute(
        "SELECT seq FROM tasks WHERE deadline IS NOT NULL AND ended_at IS NULL AND cancel_at IS NULL"
        " AND deadline <= ? ORDER BY deadline LIMIT ?",
        (step.now, _MOST_AT_ONCE),
    ).fetchall()
    for (seq,) in late:
        row = get(connection, seq)
        if not row.is_final:
            cancel(
                step, row, status=TaskState.TIMED_OUT, kind="deadline", message="Its deadline passed before it ended."
            )


def next_moment(step: Step) -> float | None:
    """Return when something is due next, in seconds since 1970; None for never."""
    row = step.connection.execute(
        "SELECT (SELECT MIN(next_at) FROM tasks WHERE state = 'scheduled'),"
        " (SELECT MIN(deadline) FROM tasks WHERE deadline IS NOT NULL AND ended_at IS NULL AND cancel_at IS NULL),"
        " (SELECT MIN(next_at) FROM schedules WHERE paused = 0)"
    ).fetchone()
    moments = [moment for moment in row if moment is not None]
    if step.book.lanes.total() > 0 and (step.book.budget.day_usd or step.book.budget.worker_day_usd):
        # What waits for money may go on when the day is over.
        moments.append(step.book.day_ends(step.now))
    return min(moments, default=None)
