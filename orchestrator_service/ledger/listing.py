"""A page of tasks: filtered, searched, sorted, counted.

A page begins where the one before ended, by the value that it is sorted by and the task's number: what is handed in
meanwhile neither repeats a task nor leaves one out.
"""

from __future__ import annotations

import json
import re
import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from itertools import product
from typing import Any, Final

from orchestrator_service.errors import FieldProblem, OrderRefused
from orchestrator_service.ledger.queries import TaskRow
from orchestrator_service.ledger.rows import SUMMARY_COLUMNS
from orchestrator_service.orders import TaskQuery, TaskSort
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.routing import lane_of

_FILTERS: Final = {
    "goal_id": "goal_id",
    "graph_id": "graph_id",
    "schedule": "schedule",
    "submitted_by": "submitted_by",
}


_NARROW: Final = ("worker", "goal_id", "graph_id", "schedule")
"""What these name is a part of the ledger that is small beside what one submitter may have."""

_PLACES: Final = " ".join(f"WHEN '{state}' THEN {place}" for place, state in enumerate(TaskState))
_SORTS: Final = {
    TaskSort.ENDED: "ended_at",
    TaskSort.DURATION: "(ended_at - started_at)",
    TaskSort.COST: "cost_usd",
    TaskSort.PRIORITY: "priority",
    TaskSort.WORKER: "worker",
    TaskSort.STATE: f"CASE state {_PLACES} END",
    TaskSort.TITLE: "title COLLATE NOCASE",
}
_BAD_CURSOR: Final = "allowed is what a page gave as next_cursor, with the same sort and order"


def page(connection: sqlite3.Connection, query: TaskQuery) -> tuple[list[TaskRow], str | None, int | None]:
    """Return the rows of a page, the cursor of the next one, and the number of all where it is asked for.

    Raises:
        OrderRefused: a state or the cursor is none.
    """
    states = _states(query)
    clauses, values = _clauses(connection, query)
    # Looking for a text is what takes long: where all that has it is counted, it is looked for once.
    together = query.count and query.cursor is None and bool(query.text)
    total = _count(connection, query, states, clauses, values) if query.count and not together else None
    if query.sort is TaskSort.SUBMITTED and not together:
        return *_by_number(connection, query, states, clauses, values), total
    rows, cursor, counted = _by_value(connection, query, states, clauses, values, count=together)
    return rows, cursor, counted if together else total


def _count(
    connection: sqlite3.Connection, query: TaskQuery, states: list[str], clauses: list[str], values: list[Any]
) -> int:
    found = 0
    for clause, meant in _meant_for(query):
        where, given = _with_states(states, [*clauses, *clause], [*values, *meant])
        found += int(connection.execute(f"SELECT COUNT(*) FROM tasks{where}", given).fetchone()[0])
    return found


def _meant_for(query: TaskQuery) -> list[tuple[list[str], list[str]]]:
    """Return clauses of which each task of the worker that is asked for meets one: sent to it, or waiting for it."""
    if query.worker is None:
        return [([], [])]
    # Each part is read in order from an index; an OR of both would be sorted.
    return [
        (["worker = ?"], [query.worker]),
        (["worker IS NULL AND lane = ?"], [lane_of(query.worker, None, ())]),
    ]


def _by_number(
    connection: sqlite3.Connection, query: TaskQuery, states: list[str], clauses: list[str], values: list[Any]
) -> tuple[list[TaskRow], str | None]:
    """Several states and a worker's parts are asked for one by one and merged: each is read in order from an index."""
    if query.cursor is not None:
        if not (query.cursor.isascii() and query.cursor.isdigit() and len(query.cursor) < 18):
            raise OrderRefused([FieldProblem("cursor", query.cursor, _BAD_CURSOR)])
        clauses = [*clauses, "seq > ?" if query.oldest_first else "seq < ?"]
        values = [*values, int(query.cursor)]
    order = "ASC" if query.oldest_first else "DESC"
    wanted = query.limit + 1
    rows: list[TaskRow] = []
    each: list[str | None] = [*states] or [None]
    for state, (clause, meant) in product(each, _meant_for(query)):
        where, given = _with_states([] if state is None else [state], [*clauses, *clause], [*values, *meant])
        text = f"SELECT {SUMMARY_COLUMNS} FROM tasks{where} ORDER BY seq {order} LIMIT ?"
        rows += connection.execute(text, (*given, wanted)).fetchall()
    rows.sort(key=lambda row: row[0], reverse=not query.oldest_first)
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    return rows, str(rows[-1][0]) if more else None


def _by_value(
    connection: sqlite3.Connection,
    query: TaskQuery,
    states: list[str],
    clauses: list[str],
    values: list[Any],
    *,
    count: bool,
) -> tuple[list[TaskRow], str | None, int]:
    key, order, beyond = _SORTS.get(query.sort, "seq"), *(("ASC", ">") if query.oldest_first else ("DESC", "<"))
    if query.cursor is not None:
        value, seq = _read_cursor(query)
        if value is None:
            clauses = [*clauses, f"{key} IS NULL AND seq {beyond} ?"]
            values = [*values, seq]
        else:
            clauses = [*clauses, f"({key} {beyond} ? OR ({key} = ? AND seq {beyond} ?) OR {key} IS NULL)"]
            values = [*values, value, value, seq]
    parts, given = [], []
    for clause, meant in _meant_for(query):
        where, held = _with_states(states, [*clauses, *clause], [*values, *meant])
        parts.append(f"SELECT seq, {key} AS sorted_by FROM tasks{where}")
        given += held
    # Numbers alone are sorted, and only the rows of the page are read.
    counted = "COUNT(*) OVER ()" if count else "0"
    found = connection.execute(
        f"SELECT seq, sorted_by, {counted} FROM ({' UNION ALL '.join(parts)})"
        f" ORDER BY sorted_by {order} NULLS LAST, seq {order} LIMIT ?",
        (*given, query.limit + 1),
    ).fetchall()
    total = found[0][2] if found else 0
    more = len(found) > query.limit
    found = found[: query.limit]
    text = f"SELECT {SUMMARY_COLUMNS} FROM tasks WHERE seq = ?"
    rows = [connection.execute(text, (seq,)).fetchone() for seq, _, _ in found]
    if not more:
        return rows, None, total
    seq, value, _ = found[-1]
    return rows, str(seq) if query.sort is TaskSort.SUBMITTED else _write_cursor(query, seq, value), total


def _write_cursor(query: TaskQuery, seq: int, value: object) -> str:
    told = json.dumps([query.sort, query.oldest_first, value, seq])
    return urlsafe_b64encode(told.encode()).decode().rstrip("=")


def _read_cursor(query: TaskQuery) -> tuple[str | int | float | None, int]:
    given = query.cursor or ""
    try:
        sort, oldest_first, value, seq = json.loads(urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    except (ValueError, TypeError, RecursionError):
        sort = oldest_first = value = seq = None
    if (
        sort != query.sort
        or oldest_first is not query.oldest_first
        or not isinstance(value, str | int | float | None)
        or not isinstance(seq, int)
        or abs(seq) >= 2**62
        or (isinstance(value, int) and abs(value) >= 2**62)
    ):
        raise OrderRefused([FieldProblem("cursor", query.cursor, _BAD_CURSOR)])
    return value, seq


def _with_states(states: list[str], clauses: list[str], values: list[Any]) -> tuple[str, list[Any]]:
    if states:
        clauses = [*clauses, f"state IN ({', '.join('?' * len(states))})"]
        values = [*values, *states]
    return f" WHERE {' AND '.join(clauses)}" if clauses else "", values


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
    if query.text:
        text, given = _search(connection, query.text)
        clauses.append(text)
        values += given
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


def _search(connection: sqlite3.Connection, text: str) -> tuple[str, list[Any]]:
    """Return the clause for tasks whose id, title or description has a text.

    The order is looked through as it is stored, which is fast; only where it has the text somewhere is its description
    taken out and looked at. What SQLite cannot compare whatever its case (it knows English letters only) is a gap in
    the pattern, and Python looks again.
    """
    clause = (
        "(task_id LIKE ? ESCAPE '!' OR title LIKE ? ESCAPE '!' OR EXISTS (SELECT 1 FROM orders AS o"
        " WHERE o.seq = tasks.seq AND o.body LIKE ? ESCAPE '!'"
        " AND json_extract(o.body, '$.description') LIKE ? ESCAPE '!'))"
    )
    pattern, stored = _pattern(text), _pattern(json.dumps(text, ensure_ascii=False)[1:-1])
    values: list[Any] = [pattern, pattern, stored, pattern]
    if text.isascii():
        return clause, values
    needle = text.lower()
    connection.create_function("has_text", 1, lambda found: isinstance(found, str) and needle in found.lower())
    exact = (
        "(has_text(task_id) OR has_text(title) OR has_text("
        "(SELECT json_extract(o.body, '$.description') FROM orders AS o WHERE o.seq = tasks.seq)))"
    )
    return f"{clause} AND {exact}", values


def _pattern(text: str) -> str:
    escaped = re.sub(r"([!%_])", r"!\1", text)
    return "%" + re.sub(r"[^\x00-\x7f]+", "%", escaped) + "%"
