"""Forgetting what ended long ago, a slice at a time."""

from __future__ import annotations

from typing import Final

from orchestrator_service.ledger import questions
from orchestrator_service.ledger.series import prune_samples
from orchestrator_service.ledger.usage import prune_usage
from orchestrator_service.scheduling.step import Step

_SLICE: Final = 500
_SAMPLES_KEEP_DAYS: Final = 90
_USAGE_KEEP_DAYS: Final = 800
"""Two years and a little more can be compared."""


def prune(step: Step, before: float) -> int:
    """Forget tasks that ended before a moment and that no open task needs; returns how many were looked at.

    What they cost today counts for today's budget: a task is kept for two days at least. The newest one stays: the next
    one's number follows its, and no number is ever used twice.
    """
    before = min(before, step.now - 2 * 86_400.0)
    rows = step.connection.execute(
        "SELECT t.seq, t.task_id, t.state FROM tasks AS t WHERE t.ended_at < ?"
        " AND t.seq < (SELECT MAX(seq) FROM tasks) AND NOT EXISTS ("
        " SELECT 1 FROM dependencies AS d JOIN tasks AS o ON o.seq = d.seq WHERE d.needs = t.seq AND o.ended_at IS NULL"
        ") ORDER BY t.ended_at LIMIT ?",
        (before, _SLICE),
    ).fetchall()
    for seq, task_id, state in rows:
        step.connection.execute("DELETE FROM events WHERE task_id = ?", (task_id,))
        step.connection.execute("DELETE FROM dependencies WHERE needs = ?", (seq,))
        step.connection.execute("DELETE FROM tasks WHERE seq = ?", (seq,))
        step.book.moved(state, None)
    questions.prune(step.connection, before)
    step.connection.execute("DELETE FROM events WHERE task_id IS NULL AND at < ?", (before,))
    step.connection.execute("DELETE FROM goal_turns WHERE at < ?", (before,))
    step.connection.execute(
        "DELETE FROM sessions WHERE used_at < ? AND NOT EXISTS ("
        "SELECT 1 FROM tasks AS t WHERE t.session = sessions.session AND t.ended_at IS NULL)",
        (before,),
    )
    return len(rows)


def prune_history(step: Step) -> None:
    """Forget samples and sums that are older than anybody compares, whether tasks are forgotten or not."""
    prune_samples(step.connection, step.now - _SAMPLES_KEEP_DAYS * 86_400.0)
    prune_usage(step.connection, step.book.day_of(step.now - _USAGE_KEEP_DAYS * 86_400.0))
