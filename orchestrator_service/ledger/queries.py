"""Questions to the ledger that many ask: one task, a result, events. None of them changes anything."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from pydantic import ValidationError

from agent_bus.messages import Result
from orchestrator_service.errors import NotKnown
from orchestrator_service.ledger.rows import RUN_COLUMNS, SUMMARY_COLUMNS, run
from orchestrator_service.records import TryRecord

TaskRow = tuple[Any, ...]


def task_row(connection: sqlite3.Connection, task_id: str) -> TaskRow:
    """Return the `SUMMARY_COLUMNS` of a task. Raises NotKnown."""
    found: TaskRow | None = connection.execute(
        f"SELECT {SUMMARY_COLUMNS} FROM tasks WHERE task_id = ?", (task_id,)
    ).fetchone()
    if found is None:
        raise NotKnown("task", task_id)
    return found


def rows_between(connection: sqlite3.Connection, first_seq: int, last_seq: int) -> list[TaskRow]:
    """Return the tasks with these numbers."""
    return connection.execute(
        f"SELECT {SUMMARY_COLUMNS} FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq", (first_seq, last_seq)
    ).fetchall()


def details(connection: sqlite3.Connection, seq: int) -> tuple[dict[str, Any], list[str], list[TryRecord]]:
    """Return a task's order, the ids of the tasks it needs, and its tries."""
    body = connection.execute("SELECT body FROM orders WHERE seq = ?", (seq,)).fetchone()
    needs = connection.execute(
        "SELECT t.task_id FROM dependencies AS d JOIN tasks AS t ON t.seq = d.needs WHERE d.seq = ? ORDER BY t.seq",
        (seq,),
    )
    runs = connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE seq = ? ORDER BY number", (seq,))
    return json.loads(body[0]) if body else {}, [name for (name,) in needs], [run(row) for row in runs]


def last_result(connection: sqlite3.Connection, task_id: str) -> Result | None:
    """Return the result of a task's last try, if it has one."""
    found = connection.execute(
        "SELECT r.body FROM tasks AS t JOIN results AS r ON r.wire_id = t.wire_id WHERE t.task_id = ?", (task_id,)
    ).fetchone()
    if found is None:
        return None
    try:
        return Result.model_validate_json(found[0])
    except ValidationError:
        return None


def events_after(
    connection: sqlite3.Connection, after: int, limit: int, task_id: str | None = None
) -> list[tuple[int, float, str, str | None, str | None, str | None, str]]:
    """Return (seq, at, event, task, worker, goal, data) of what happened behind `after`, oldest first."""
    columns = "SELECT seq, at, event, task_id, worker, goal_id, data FROM events"
    if task_id is not None:
        rows = connection.execute(
            f"{columns} WHERE task_id = ? AND seq > ? ORDER BY seq LIMIT ?", (task_id, after, limit)
        )
    else:
        rows = connection.execute(f"{columns} WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
    return rows.fetchall()


def latest_events(connection: sqlite3.Connection, limit: int) -> list[tuple[Any, ...]]:
    """Return (seq, at, event, task, title, worker, goal, data) of the newest events, oldest first."""
    rows = connection.execute(
        "SELECT e.seq, e.at, e.event, e.task_id, t.title, e.worker, e.goal_id, e.data"
        " FROM (SELECT * FROM events ORDER BY seq DESC LIMIT ?) AS e LEFT JOIN tasks AS t ON t.task_id = e.task_id"
        " ORDER BY e.seq",
        (limit,),
    )
    return rows.fetchall()


def task_of_run(connection: sqlite3.Connection, wire_id: str) -> tuple[str, str | None, bool]:
    """Return the task of a run, its goal, and whether the run is under way; a run must be in the ledger."""
    task_id, goal_id, ended_at = connection.execute(
        "SELECT t.task_id, t.goal_id, r.ended_at FROM runs AS r JOIN tasks AS t ON t.seq = r.seq WHERE r.wire_id = ?",
        (wire_id,),
    ).fetchone()
    return task_id, goal_id, ended_at is None


def last_of(connection: sqlite3.Connection, wire_id: str, *events: str) -> str | None:
    """Return which of these events happened last to the task of a run, since it was sent; None for none of them."""
    names = (*events, "task_sent")
    found = connection.execute(
        "SELECT e.event FROM runs AS r JOIN tasks AS t ON t.seq = r.seq JOIN events AS e ON e.task_id = t.task_id"
        f" WHERE r.wire_id = ? AND e.event IN ({', '.join('?' * len(names))}) ORDER BY e.seq DESC LIMIT 1",
        (wire_id, *names),
    ).fetchone()
    return None if found is None or found[0] == "task_sent" else str(found[0])


def last_event(connection: sqlite3.Connection) -> int:
    """Return the number of the newest event."""
    return int(connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()[0])


def open_runs(connection: sqlite3.Connection) -> list[tuple[str, str, str, int | None, str]]:
    """Return (wire id, worker, transport, started, lane) of all dispatches that have not ended."""
    return connection.execute(
        "SELECT r.wire_id, r.worker, r.transport, r.started_at, t.lane FROM runs AS r JOIN tasks AS t ON t.seq = r.seq"
        " WHERE r.ended_at IS NULL"
    ).fetchall()
