"""How it went over time: counts, times and costs by step, from what the ledger holds of a window."""

from __future__ import annotations

import bisect
import math
import sqlite3
from datetime import UTC, datetime
from typing import Final

from orchestrator_service.accounts import Series

_SHARES: Final = (0.50, 0.95, 0.99)


def add_sample(connection: sqlite3.Connection, at: float, queued: int, running: int) -> bool:
    """Note how much there is to do, unless nothing has changed since the last time; tells whether it was noted."""
    last = connection.execute("SELECT queued, running FROM samples ORDER BY at DESC LIMIT 1").fetchone()
    if last == (queued, running):
        return False
    connection.execute("INSERT OR REPLACE INTO samples (at, queued, running) VALUES (?, ?, ?)", (at, queued, running))
    return True


def prune_samples(connection: sqlite3.Connection, before: float) -> None:
    """Forget samples from before a moment, but for the last of them: it holds until the next one."""
    connection.execute(
        "DELETE FROM samples WHERE at < (SELECT MAX(at) FROM samples WHERE at < ?)",
        (before,),
    )


def read_series(connection: sqlite3.Connection, since: float, until: float, step: float) -> Series:
    """Return the steps from `since` to `until`, in seconds since 1970; the last step may be cut off by `until`."""
    steps = max(1, math.ceil((until - since) / step - 1e-9))
    completed, failed = [0] * steps, [0] * steps
    times: list[list[float]] = [[] for _ in range(steps)]
    cost, notional = [0.0] * steps, [0.0] * steps
    for ended, submitted, state in connection.execute(
        "SELECT ended_at, submitted_at, state FROM tasks WHERE ended_at >= ? AND ended_at < ? AND state <> 'cancelled'",
        (since, until),
    ):
        at = min(int((ended - since) / step), steps - 1)
        (completed if state == "completed" else failed)[at] += 1
        times[at].append(ended - submitted)
    for at, usd, part in connection.execute(
        "SELECT CAST((at - ?) / ? AS INTEGER), SUM(usd), SUM(CASE WHEN notional THEN usd ELSE 0 END) FROM ("
        " SELECT ended_at AS at, cost_usd AS usd, notional FROM runs"
        " WHERE cost_usd IS NOT NULL AND ended_at >= ? AND ended_at < ? UNION ALL"
        " SELECT at, cost_usd, notional FROM goal_turns WHERE at >= ? AND at < ?) GROUP BY 1",
        (since, step, since, until, since, until),
    ):
        at = min(at, steps - 1)
        cost[at] += usd
        notional[at] += part
    queued, running = _depths(connection, [min(since + (number + 1) * step, until) for number in range(steps)])
    shares = [_shares(found) for found in times]
    return Series(
        step_seconds=step,
        times=[datetime.fromtimestamp(since + number * step, UTC) for number in range(steps)],
        completed=completed,
        failed=failed,
        p50_seconds=[share[0] for share in shares],
        p95_seconds=[share[1] for share in shares],
        p99_seconds=[share[2] for share in shares],
        error_rate=[
            round(bad / (good + bad), 6) if good + bad else None for good, bad in zip(completed, failed, strict=True)
        ],
        queue_depth=queued,
        running=running,
        cost_usd=[round(usd, 6) for usd in cost],
        notional_cost_usd=[round(usd, 6) for usd in notional],
    )


def _shares(times: list[float]) -> list[float | None]:
    if not times:
        return [None] * len(_SHARES)
    times.sort()
    # The nearest rank: a time that one of the tasks had.
    return [round(max(0.0, times[math.ceil(share * len(times)) - 1]), 3) for share in _SHARES]


def _depths(connection: sqlite3.Connection, ends: list[float]) -> tuple[list[int | None], list[int | None]]:
    """Return what the last sample before each moment says."""
    found = connection.execute(
        "SELECT at, queued, running FROM samples WHERE at < ?"
        " AND at >= COALESCE((SELECT MAX(at) FROM samples WHERE at < ?), 0) ORDER BY at",
        (ends[-1], ends[0]),
    ).fetchall()
    moments = [at for at, _, _ in found]
    places = [bisect.bisect_left(moments, end) - 1 for end in ends]
    return (
        [found[place][1] if place >= 0 else None for place in places],
        [found[place][2] if place >= 0 else None for place in places],
    )
