"""The rows of goals, and what of the rows of tasks a goal is interested in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from agent_bus.messages import TaskError
from orchestrator_service.errors import Conflict, NotKnown
from orchestrator_service.ledger.usage import count_goal_turn
from orchestrator_service.records import OPEN_STATES, GoalRecord, GoalState, TaskState

_COLUMNS: Final = (
    "goal_id, goal, state, submitted_by, submitted_at, ended_at, session_id, output, error_kind, error_message, "
    "max_tasks, max_depth, timeout, max_budget_usd, agent_cost_usd, agent_notional_usd, model, metadata, attempts"
)
_OPEN: Final = ", ".join(f"'{state.value}'" for state in sorted(OPEN_STATES))


@dataclass(frozen=True, kw_only=True)
class GoalRow:
    """One goal as it is stored. Moments are seconds since 1970."""

    goal_id: str
    goal: str
    state: GoalState
    submitted_by: str
    submitted_at: float
    ended_at: float | None = None
    session_id: str
    output: str | None = None
    error_kind: str | None = None
    error_message: str | None = None
    max_tasks: int
    max_depth: int
    timeout: float
    max_budget_usd: float | None
    agent_cost_usd: float | None = None
    agent_notional_usd: float | None = None
    model: str | None
    metadata: str
    attempts: int = 0

    @property
    def end_at(self) -> float:
        """When its time is over."""
        return self.submitted_at + self.timeout


@dataclass(frozen=True, kw_only=True)
class GoalTask:
    """A task of a goal."""

    task_id: str
    title: str | None
    state: TaskState
    reserve_usd: float | None
    cost_usd: float | None
    notional_usd: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN_STATES

    @property
    def committed_usd(self) -> float:
        """What it has cost or, while it has not ended, may cost in all its tries."""
        return max(self.cost_usd or 0.0, self.reserve_usd or 0.0 if self.is_open else 0.0)


def insert_goal(db: sqlite3.Connection, row: GoalRow) -> None:
    """Store a new goal. Raises Conflict for an id that is used."""
    values = (
        row.goal_id,
        row.goal,
        row.state.value,
        row.submitted_by,
        row.submitted_at,
        row.session_id,
        row.max_tasks,
        row.max_depth,
        row.timeout,
        row.max_budget_usd,
        row.model,
        row.metadata,
    )
    try:
        db.execute(
            "INSERT INTO goals (goal_id, goal, state, submitted_by, submitted_at, session_id, max_tasks, max_depth, "
            f"timeout, max_budget_usd, model, metadata) VALUES ({', '.join('?' * len(values))})",
            values,
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"There is a goal {row.goal_id!r} already.") from error


def goal_row(db: sqlite3.Connection, goal_id: str) -> GoalRow:
    """Return a goal. Raises NotKnown."""
    found = db.execute(f"SELECT {_COLUMNS} FROM goals WHERE goal_id = ?", (goal_id,)).fetchone()
    if found is None:
        raise NotKnown("goal", goal_id)
    return _row(found)


def newest_goals(db: sqlite3.Connection, limit: int) -> list[GoalRecord]:
    """Return the newest goals, newest first."""
    found = db.execute(f"SELECT {_COLUMNS} FROM goals ORDER BY seq DESC LIMIT ?", (limit,))
    return [_record(db, _row(columns)) for columns in found.fetchall()]


def goal_record(db: sqlite3.Connection, goal_id: str) -> GoalRecord:
    """Return a goal as it is told. Raises NotKnown."""
    return _record(db, goal_row(db, goal_id))


def running_goals(db: sqlite3.Connection) -> list[GoalRow]:
    """Return the goals that have not ended, oldest first."""
    found = db.execute(f"SELECT {_COLUMNS} FROM goals WHERE ended_at IS NULL ORDER BY seq")
    return [_row(columns) for columns in found.fetchall()]


def tasks_of_goal(db: sqlite3.Connection, goal_id: str) -> list[GoalTask]:
    """Return the tasks of a goal, in the order in which they were handed in."""
    found = db.execute(
        "SELECT task_id, title, state, reserve_usd, cost_usd, notional_usd FROM tasks WHERE goal_id = ? ORDER BY seq",
        (goal_id,),
    )
    return [
        GoalTask(
            task_id=task_id, title=title, state=TaskState(state), reserve_usd=reserve, cost_usd=cost, notional_usd=part
        )
        for task_id, title, state, reserve, cost, part in found.fetchall()
    ]


def tasks_without_goal(db: sqlite3.Connection) -> list[str]:
    """Return the open tasks of goals that have ended: nobody waits for them any more."""
    found = db.execute(
        "SELECT task_id FROM tasks JOIN goals USING (goal_id) "
        f"WHERE tasks.state IN ({_OPEN}) AND tasks.goal_id IS NOT NULL AND tasks.cancel_at IS NULL "
        "AND goals.ended_at IS NOT NULL ORDER BY tasks.seq"
    )
    return [task_id for (task_id,) in found.fetchall()]


def begin_attempt(db: sqlite3.Connection, goal_id: str) -> int:
    """Count a beginning, and return how many there were."""
    (attempts,) = db.execute(
        "UPDATE goals SET attempts = attempts + 1 WHERE goal_id = ? RETURNING attempts", (goal_id,)
    ).fetchone()
    return int(attempts)


def give_back_attempt(db: sqlite3.Connection, goal_id: str) -> None:
    """Count a beginning no longer: it was stopped in good order."""
    db.execute("UPDATE goals SET attempts = max(0, attempts - 1) WHERE goal_id = ?", (goal_id,))


def store_agent_cost(
    db: sqlite3.Connection,
    goal_id: str,
    cost_usd: float | None,
    *,
    day: str,
    at: float,
    notional: bool = False,
    tokens: Sequence[int | None] = (),
) -> None:
    """Set what the agent has cost so far; what is new of it counts as used, with the tokens of its last turn.

    Args:
        db: The ledger.
        goal_id: The goal.
        cost_usd: Of all its turns; None where the last one's was not told.
        day: The day in the budget's time zone.
        at: The moment in seconds since 1970.
        notional: Whether a subscription covers what is new.
        tokens: Of the last turn, in the order of `ledger.usage.TOKENS`; empty where nothing is known of them.
    """
    found = db.execute("SELECT COALESCE(agent_cost_usd, 0), model FROM goals WHERE goal_id = ?", (goal_id,)).fetchone()
    if found is None:
        return
    before, model = found
    new = 0.0
    if cost_usd is not None:
        new = cost_usd - before
        db.execute(
            "UPDATE goals SET agent_cost_usd = ?, agent_notional_usd ="
            " CASE WHEN ? THEN COALESCE(agent_notional_usd, 0) + ? ELSE agent_notional_usd END WHERE goal_id = ?",
            (cost_usd, notional, new, goal_id),
        )
    if new or any(tokens):
        count_goal_turn(db, goal_id, model, day, at, new, notional, tokens)


def end_goal(
    db: sqlite3.Connection,
    goal_id: str,
    state: GoalState,
    at: float,
    output: str | None = None,
    error: TaskError | None = None,
) -> bool:
    """Store how a goal ended; False if it had ended before, and then nothing is changed."""
    kind, message = (None, None) if error is None else (error.kind, error.message)
    changed = db.execute(
        "UPDATE goals SET state = ?, ended_at = ?, output = coalesce(?, output), error_kind = ?, error_message = ? "
        "WHERE goal_id = ? AND ended_at IS NULL",
        (state.value, at, output, kind, message, goal_id),
    )
    return changed.rowcount == 1


def keep_output(db: sqlite3.Connection, goal_id: str, output: str) -> None:
    """Add what the agent had said to a goal that was ended from outside."""
    db.execute("UPDATE goals SET output = ? WHERE goal_id = ? AND output IS NULL", (output, goal_id))


def _row(columns: tuple[Any, ...]) -> GoalRow:
    named = dict(zip(_COLUMNS.split(", "), columns, strict=True))
    named["state"] = GoalState(named["state"])
    return GoalRow(**named)


def _record(db: sqlite3.Connection, row: GoalRow) -> GoalRecord:
    tasks = tasks_of_goal(db, row.goal_id)
    error = None if row.error_kind is None else TaskError(kind=row.error_kind, message=row.error_message or "")
    return GoalRecord(
        goal_id=row.goal_id,
        goal=row.goal,
        state=row.state,
        submitted_by=row.submitted_by,
        submitted_at=datetime.fromtimestamp(row.submitted_at, UTC),
        ended_at=None if row.ended_at is None else datetime.fromtimestamp(row.ended_at, UTC),
        session_id=row.session_id,
        output=row.output,
        error=error,
        task_ids=[task.task_id for task in tasks],
        max_tasks=row.max_tasks,
        max_depth=row.max_depth,
        timeout=row.timeout,
        max_budget_usd=row.max_budget_usd,
        agent_cost_usd=row.agent_cost_usd,
        agent_notional_cost_usd=row.agent_notional_usd,
        cost_usd=(row.agent_cost_usd or 0.0) + sum(task.cost_usd or 0.0 for task in tasks),
        notional_cost_usd=(row.agent_notional_usd or 0.0) + sum(task.notional_usd or 0.0 for task in tasks),
        metadata=json.loads(row.metadata),
    )
