"""Figures of use and money at a glance: sums, series, and sorted and searched lists, asked of the API.

`python -m benchmarks.glance` measures them alone, at 10,000 and 100,000 tasks.
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.ledger_size import WORKERS, fill
from benchmarks.orchestrator_rig import Line, open_ledger, open_orchestrator
from benchmarks.rig import MEMORY, open_rig, p95_of, say

SIZES = (10_000, 100_000)
SAMPLES = 30
REACH_MS = {"usage": 50.0, "series": 100.0, "list": 150.0}
"""How long the slowest question of each kind may take, at the smaller size; usage also at the larger."""
_WARM_UP = 3

_COUNT = (
    "UPDATE runs SET counted = 1, input_tokens = 1200, output_tokens = 340, model = 'm' || (seq % 3)"
    " WHERE ended_at IS NOT NULL",
    "INSERT INTO usage SELECT r.budget_day, r.worker, COALESCE(t.goal_id, ''), r.model, COUNT(*), COUNT(*),"
    " SUM(COALESCE(r.cost_usd, 0)), 0, SUM(r.input_tokens), SUM(r.output_tokens), 0, 0 FROM runs AS r"
    " JOIN tasks AS t ON t.seq = r.seq WHERE r.counted IS NOT NULL GROUP BY 1, 2, 3, 4",
    # Nothing is left for a worker to do: what is measured is looking.
    "UPDATE tasks SET state = 'cancelled', ended_at = submitted_at WHERE ended_at IS NULL",
    "UPDATE runs SET ended_at = sent_at, status = 'withdrawn' WHERE ended_at IS NULL",
    "INSERT INTO samples SELECT CAST(submitted_at AS INTEGER) / 60 * 60, COUNT(*), seq % 7 FROM tasks GROUP BY 1",
)


def _questions(tasks: int) -> dict[str, dict[str, Callable[[], str]]]:
    now = datetime.now(UTC)
    chance = random.Random(1)

    def asked(path: str, **query: str) -> Callable[[], str]:
        return lambda: f"{path}?{urlencode(query)}"

    some_day = {"since": (now - timedelta(hours=6)).isoformat(), "until": now.isoformat()}
    sorts = ("submitted", "ended", "duration", "cost", "priority", "worker", "state", "title")
    return {
        "usage": {
            **{f"usage by {by}": asked("/usage", by=by) for by in ("day", "worker", "goal", "task", "model")},
            "usage by task, some days": asked("/usage", by="task", **some_day),
            "usage by worker, some days": asked("/usage", by="worker", **some_day),
        },
        "series": {
            "series, 24 h": asked("/series"),
            "series, 24 h, a step a minute": asked(
                "/series", step="60", since=(now - timedelta(days=1)).isoformat(), until=now.isoformat()
            ),
        },
        "list": {
            **{f"sort {sort}": asked("/tasks", sort=sort, count="true") for sort in sorts},
            "sort cost, oldest first, a worker": asked("/tasks", sort="cost", order="asc", worker=WORKERS[0]),
            "search, many": asked("/tasks", q="part", count="true"),
            "search, one": lambda: f"/tasks?q=t-{chance.randint(1, tasks):07}&count=true",
            "search, none": asked("/tasks", q="no such words"),
            "search, not English": asked("/tasks", q="ärger", count="true"),
            "search and sort": asked("/tasks", q="part 77", sort="cost", count="true"),
            "state, counted": asked("/tasks", state="failed", count="true"),
        },
    }


def measure_glance(tasks: int, samples: int) -> dict[str, dict[str, float]]:
    """Fill a ledger and ask an orchestrator each question so often; p95 in ms, by kind and question."""
    with open_rig(MEMORY, 1) as rig, open_ledger() as path:
        fill(path, tasks)
        _count(path)
        with open_orchestrator(rig, path, WORKERS) as orchestrator, Line(orchestrator.port) as line:
            return {kind: dict(_ask(line, some, samples)) for kind, some in _questions(tasks).items()}


def _count(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in _COUNT:
            connection.execute(statement)
        connection.commit()


def _ask(line: Line, questions: dict[str, Callable[[], str]], samples: int) -> Iterator[tuple[str, float]]:
    for name, path in questions.items():
        taken_ms = []
        for _ in range(_WARM_UP + samples):
            question = path()
            began_ns = time.monotonic_ns()
            line.get(question)
            taken_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        p95 = p95_of(taken_ms[_WARM_UP:])
        say(f"  {name}: p50 {statistics.median(taken_ms[_WARM_UP:]):.1f} ms, p95 {p95:.1f} ms")
        yield name, p95


def main() -> None:
    """Measure and print one line for each kind and size."""
    for tasks in SIZES:
        for kind, figures in measure_glance(tasks, SAMPLES).items():
            name, worst = max(figures.items(), key=lambda item: item[1])
            print(f"{tasks:,} tasks, {kind}: slowest p95 {worst:.1f} ms ({name})")


if __name__ == "__main__":
    main()
