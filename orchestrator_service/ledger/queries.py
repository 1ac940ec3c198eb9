"""Questions to the ledger that many ask: one task, a page of tasks, a result, events. None of them changes anything."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from pydantic import ValidationError

from agent_bus.messages import Result
from orchestrator_service.errors import FieldProblem, NotKnown, OrderRefused
from orchestrator_service.ledger.rows import RUN_COLUMNS, SUMMARY_COLUMNS, run
from orchestrator_service.orders import TaskQuery
from orchestrator_service.records import TaskState, TryRecord

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


_FILTERS: Final = {
    "worker": "worker",
    "goal_id": "goal_id",
    "graph_id": "graph_id",
    "schedule": "schedule",
    "submitted_by": "submitted_by",
}


_NARROW: Final = ("worker", "goal_id", "graph_id", "schedule")
"""What these name is a part of the ledger that is small beside what one submitter may have."""


def page(connection: sqlite3.Connection, query: TaskQuery) -> tuple[list[TaskRow], str | None]:
    """Return the rows of a page and the cursor of the next one.

    Several states are asked for one by one and merged: so each part is read in order from an index, however many
    tasks there are.

    Raises:
        OrderRefused: a state or the cursor is none.
    """
    states = _states(query)
    clauses, values = _clauses(connection, query)
    order = "ASC" if query.oldest_first else "DESC"
    wanted = query.limit + 1
    rows: list[TaskRow] = []
    each: list[str | None] = [*states] or [None]
    for state in each:
        where = [*clauses, "state = ?"] if state is not None else clauses
        given = [*values, state] if state is not None else values
        text = f"SELECT {SUMMARY_COLUMNS} FROM tasks{' WHERE ' + ' AND '.join(where) if where else ''}"
        rows += connection.execute(f"{text} ORDER BY seq {order} LIMIT ?", (*given, wanted)).fetchall()
    rows.sort(key=lambda row: row[0], reverse=not query.oldest_first)
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    return rows, str(rows[-1][0]) if more else None


def _states(query: TaskQuery) -> list[str]:
    for state in query.states:
        if state not in list(TaskState):
            raise OrderRefused([FieldProblem("state", state, f"allowed are {', '.join(TaskState)}")])
    return list(dict.fromkeys(query.states))


def _clauses(connection: sqlite3.Connection, query: TaskQuery) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    narrow = any(getattr(query, name) is not None for name in _NARROW)
    for name, column in _FILTERS.items():
        if (value := getattr(query, name)) is not None:
            # Most of a ledger may be of one submitter: `+` keeps SQLite from taking that index beside a better one.
            clauses.append(f"+{column} = ?" if column == "submitted_by" and narrow else f"{column} = ?")
            values.append(value)
    if query.cursor is not None:
        if not (query.cursor.isascii() and query.cursor.isdigit() and len(query.cursor) < 18):
            raise OrderRefused([FieldProblem("cursor", query.cursor, "allowed is what a page gave as next_cursor")])
        clauses.append("seq > ?" if query.oldest_first else "seq < ?")
        values.append(int(query.cursor))
    # Tasks are numbered in the order of their times, but for those that came another way and are older than that: two
    # look-ups turn times into numbers, and the times themselves are compared as well.
    if query.since is not None:
        clauses += ["seq >= ?", "+submitted_at >= ?"]
        values += [_first_since(connection, query.since.timestamp()), query.since.timestamp()]
    if query.until is not None:
        clauses += ["seq < ?", "+submitted_at < ?"]
        values += [_first_since(connection, query.until.timestamp()), query.until.timestamp()]
    return clauses, values


def _first_since(connection: sqlite3.Connection, at: float) -> int:
    found = connection.execute(
        "SELECT seq FROM tasks WHERE submitted_at >= ? AND origin NOT IN ('file', 'redis')"
        " ORDER BY submitted_at, seq LIMIT 1",
        (at,),
    ).fetchone()
    return 2**62 if found is None else int(found[0])


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


def last_event(connection: sqlite3.Connection) -> int:
    """Return the number of the newest event."""
    return int(connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()[0])


def open_runs(connection: sqlite3.Connection) -> list[tuple[str, str, str, int | None, str]]:
    """Return (wire id, worker, transport, started, lane) of all dispatches that have not ended."""
    return connection.execute(
        "SELECT r.wire_id, r.worker, r.transport, r.started_at, t.lane FROM runs AS r JOIN tasks AS t ON t.seq = r.seq"
        " WHERE r.ended_at IS NULL"
    ).fetchall()
