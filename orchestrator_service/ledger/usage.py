"""What was used: sums that are kept as tries end, and what is read from them.

A sum stands for a day, a worker, a goal and a model. So a question about any of these costs the same however many tasks
there were, and what was used is still known when its tasks are forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent_bus.layout import ORCHESTRATOR
from orchestrator_service.accounts import UsageBy, UsageRow, UsageSums

TOKENS: Final = (
    ("input_tokens", "input_tokens"),
    ("output_tokens", "output_tokens"),
    ("cache_read_tokens", "cache_read_input_tokens"),
    ("cache_creation_tokens", "cache_creation_input_tokens"),
)
"""What the ledger calls each kind of token, and what a result calls it."""
_SUMS: Final = (
    "tasks, tries, cost_usd, notional_cost_usd, input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens"
)
_SUMMED: Final = ", ".join(f"COALESCE(SUM({name}), 0)" for name in _SUMS.split(", "))
_ADDED: Final = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS.split(", "))
_FROM_RUNS: Final = (
    "COUNT(*), COALESCE(SUM(cost_usd), 0), COALESCE(SUM(CASE WHEN notional THEN cost_usd END), 0),"
    " COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0), COALESCE(SUM(cache_read_tokens), 0),"
    " COALESCE(SUM(cache_creation_tokens), 0)"
)
_LONGEST_LABEL: Final = 120


def tokens_of(usage: Mapping[str, Any] | None) -> tuple[int | None, ...]:
    """Return what a usage, as Claude Code tells it, says of tokens, in the order of `TOKENS`."""
    usage = usage or {}
    given = [usage.get(name) for _, name in TOKENS]
    return tuple(
        value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
        for value in given
    )


def count_run(connection: sqlite3.Connection, wire_id: str) -> None:
    """Take a run that has ended into the sums, once."""
    found = connection.execute(
        "SELECT r.seq, r.budget_day, r.worker, COALESCE(t.goal_id, ''), COALESCE(r.model, ''), r.cost_usd, r.notional,"
        " r.input_tokens, r.output_tokens, r.cache_read_tokens, r.cache_creation_tokens"
        " FROM runs AS r JOIN tasks AS t ON t.seq = r.seq WHERE r.wire_id = ? AND r.counted IS NULL",
        (wire_id,),
    ).fetchone()
    if found is None:
        return
    seq, day, worker, goal_id, model, cost, notional, *tokens = found
    (later,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM runs WHERE seq = ? AND counted IS NOT NULL)", (seq,)
    ).fetchone()
    connection.execute("UPDATE runs SET counted = ? WHERE wire_id = ?", (1 - later, wire_id))
    cost = cost or 0.0
    sums = (1 - later, 1, cost, cost if notional else 0.0, *(value or 0 for value in tokens))
    _add(connection, (day, worker, goal_id, model), sums)
    if notional and cost:
        connection.execute("UPDATE tasks SET notional_usd = COALESCE(notional_usd, 0) + ? WHERE seq = ?", (cost, seq))


def count_goal_turn(
    connection: sqlite3.Connection,
    goal_id: str,
    model: str | None,
    day: str,
    at: float,
    cost: float,
    notional: bool,
    tokens: Sequence[int | None],
) -> None:
    """Take what a turn of a goal's own agent used into the sums; `tokens` are in the order of `TOKENS`, or empty."""
    if cost:
        connection.execute(
            "INSERT INTO goal_turns (at, goal_id, cost_usd, notional) VALUES (?, ?, ?, ?)",
            (at, goal_id, cost, int(notional)),
        )
    counted = [amount or 0 for amount in tokens] or [0] * len(TOKENS)
    sums = (0, 0, cost, cost if notional else 0.0, *counted)
    _add(connection, (day, ORCHESTRATOR, goal_id, model or ""), sums)


def _add(connection: sqlite3.Connection, key: tuple[str, ...], sums: tuple[Any, ...]) -> None:
    connection.execute(
        f"INSERT INTO usage (day, worker, goal_id, model, {_SUMS}) VALUES ({', '.join('?' * (len(key) + len(sums)))})"
        f" ON CONFLICT (day, worker, goal_id, model) DO UPDATE SET {_ADDED}",
        (*key, *sums),
    )


def prune_usage(connection: sqlite3.Connection, before_day: str) -> None:
    """Forget the sums from before a day."""
    connection.execute("DELETE FROM usage WHERE day < ?", (before_day,))


def read_usage(
    connection: sqlite3.Connection, by: UsageBy, first_day: str, last_day: str, limit: int
) -> tuple[list[UsageRow], UsageSums]:
    """Return the rows of these days (inclusive), the dearest first (days: the newest first), and what all came to."""
    days = (first_day, last_day)
    total = connection.execute(f"SELECT {_SUMMED} FROM usage WHERE day BETWEEN ? AND ?", days).fetchone()
    if by is UsageBy.TASK:
        return _by_task(connection, first_day, last_day, limit), _sums(total)
    column = {UsageBy.GOAL: "goal_id"}.get(by, by.value)
    order = "day DESC" if by is UsageBy.DAY else f"SUM(cost_usd) DESC, SUM(tries) DESC, {column}"
    found = connection.execute(
        f"SELECT {column}, {_SUMMED} FROM usage WHERE day BETWEEN ? AND ? GROUP BY {column} ORDER BY {order} LIMIT ?",
        (*days, limit),
    ).fetchall()
    labels = _goals(connection, [key for key, *_ in found]) if by is UsageBy.GOAL else {}
    return [_row(key, labels.get(key) or key, sums) for key, *sums in found], _sums(total)


def _by_task(connection: sqlite3.Connection, first_day: str, last_day: str, limit: int) -> list[UsageRow]:
    # A day that is before or behind all others bounds nothing: then the tasks' own sums are in order already.
    everything = connection.execute(
        "SELECT NOT EXISTS (SELECT 1 FROM runs WHERE budget_day < ? OR budget_day > ?)", (first_day, last_day)
    ).fetchone()[0]
    if everything:
        dearest = connection.execute(
            "SELECT seq FROM tasks WHERE cost_usd IS NOT NULL ORDER BY cost_usd DESC, seq DESC LIMIT ?", (limit,)
        )
    else:
        dearest = connection.execute(
            "SELECT seq FROM runs WHERE budget_day BETWEEN ? AND ? AND cost_usd IS NOT NULL"
            " GROUP BY seq ORDER BY SUM(cost_usd) DESC, seq DESC LIMIT ?",
            (first_day, last_day, limit),
        )
    rows = []
    for (seq,) in dearest.fetchall():
        sums = connection.execute(
            f"SELECT {_FROM_RUNS} FROM runs WHERE seq = ? AND counted IS NOT NULL AND budget_day BETWEEN ? AND ?",
            (seq, first_day, last_day),
        ).fetchone()
        task_id, title = connection.execute("SELECT task_id, title FROM tasks WHERE seq = ?", (seq,)).fetchone()
        rows.append(_row(task_id, title or task_id, (1, *sums)))
    return rows


def _goals(connection: sqlite3.Connection, goal_ids: list[str]) -> dict[str, str]:
    marks = ", ".join("?" * len(goal_ids))
    return dict(
        connection.execute(
            f"SELECT goal_id, substr(goal, 1, {_LONGEST_LABEL}) FROM goals WHERE goal_id IN ({marks})", goal_ids
        ).fetchall()
    )


def _sums(row: Any) -> UsageSums:
    return UsageSums(**_named(row))


def _row(key: str, label: str, row: Any) -> UsageRow:
    return UsageRow(key=key, label=label, **_named(row))


def _named(row: Any) -> dict[str, Any]:
    named = dict(zip(_SUMS.split(", "), row, strict=True))
    # Sums of many small floats: what is below a millionth of a dollar is noise.
    return {name: round(value, 6) if name.endswith("usd") else value for name, value in named.items()}
