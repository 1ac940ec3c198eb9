"""Figures of a large ledger: what looking at it takes through the API, and starting on it."""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, TaskStatus, encode_result
from benchmarks.orchestrator_rig import Line, open_ledger, open_orchestrator
from benchmarks.rig import MEMORY, Rig, open_rig, p95_of, resident_mb, say
from orchestrator_service.ledger.schema import migrate

WORKERS = tuple(f"w{number:02}" for number in range(10))
GOALS = 500
_CHUNK = 50_000
_SPACING_S = 1.0
"""Between two tasks: a million fill eleven days and a half."""
_OPEN_SHARE = 100
"""One task of so many, the newest ones, is where tasks are that have not ended."""
_GRAPH_SPAN = 200
"""The tasks of a graph are among so many neighbours."""
_WARM_UP = 3

_TASKS = """
INSERT INTO tasks (seq, task_id, state, lane, worker, priority, title, graph_id, goal_id, origin, submitted_by,
    on_failure, needs, unmet, tries, wire_id, submitted_at, ready_at, next_at, sent_at, started_at, ended_at, cost_usd,
    error_kind, error_message)
WITH RECURSIVE
    numbers (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM numbers WHERE i < :last),
    -- Multiplied by large odd numbers, so that neighbours have nothing in common.
    mixed AS (SELECT i, (i * 2654435761 % 4294967296) >> 5 AS a, (i * 2246822519 % 4294967296) >> 5 AS b FROM numbers),
    stated AS (
        SELECT i, a, b, printf('w%02d', b % 10) AS worker, :began + i * :spacing AS at, printf('t-%07d', i) AS task_id,
            CASE WHEN i <= :ended
                THEN CASE WHEN a % 1000 < 950 THEN 'completed' WHEN a % 1000 < 980 THEN 'failed'
                    WHEN a % 1000 < 990 THEN 'timed_out' ELSE 'cancelled' END
                ELSE CASE WHEN a % 100 < 40 THEN 'ready' WHEN a % 100 < 60 THEN 'blocked'
                    WHEN a % 100 < 80 THEN 'scheduled' WHEN a % 100 < 81 THEN 'sent' ELSE 'completed' END
            END AS state
        FROM mixed)
SELECT i, task_id, state, printf('["%s", null, []]', worker),
    CASE WHEN state NOT IN ('ready', 'blocked', 'scheduled') THEN worker END,
    CASE b / 10 % 10 WHEN 0 THEN 75 WHEN 1 THEN 25 ELSE 50 END, 'Part ' || i,
    CASE WHEN a % 10 = 1 THEN printf('graph-%05d', i / :span) END,
    CASE WHEN a % 5 = 0 THEN printf('goal-%03d', b / 100 % :goals) END,
    CASE WHEN a % 5 = 0 THEN 'goal' ELSE 'api' END,
    CASE WHEN a / 1000 % 20 < 12 THEN 'ci' WHEN a / 1000 % 20 < 19 THEN 'ann' ELSE 'bob' END,
    'fail_dependents', state = 'blocked', state = 'blocked',
    state NOT IN ('ready', 'blocked', 'scheduled'),
    CASE WHEN state NOT IN ('ready', 'blocked', 'scheduled') THEN task_id END,
    at, CASE WHEN state NOT IN ('blocked', 'scheduled') THEN at END,
    CASE WHEN state = 'scheduled' THEN :began + 1e9 END,
    CASE WHEN state NOT IN ('ready', 'blocked', 'scheduled') THEN at + 0.1 END,
    CASE WHEN state NOT IN ('ready', 'blocked', 'scheduled', 'sent') THEN at + 0.2 END,
    CASE WHEN state NOT IN ('ready', 'blocked', 'scheduled', 'sent') THEN at + 30.0 END,
    CASE WHEN state NOT IN ('ready', 'blocked', 'scheduled', 'sent') THEN 0.01 * (b % 100) END,
    CASE WHEN state IN ('failed', 'timed_out', 'cancelled') THEN state END,
    CASE WHEN state IN ('failed', 'timed_out', 'cancelled') THEN 'It came to no good end.' END
FROM stated
"""
_REST = (
    """INSERT INTO orders (seq, body) SELECT seq, json_object('description', 'Look at part ' || seq ||
    ' of the whole, say what you found, and name the files that it concerns, one a line.', 'title', title,
    'worker', json_extract(lane, '$[0]')) FROM tasks WHERE seq BETWEEN :first AND :last""",
    """INSERT INTO runs (wire_id, seq, number, worker, transport, sent_at, started_at, ended_at, status, session_id,
    attempts, cost_usd, budget_day) SELECT wire_id, seq, 1, worker, 'file', sent_at, started_at, ended_at,
    CASE WHEN ended_at IS NOT NULL THEN state END, 'session-' || seq, 1, cost_usd, date(submitted_at, 'unixepoch')
    FROM tasks WHERE seq BETWEEN :first AND :last AND wire_id IS NOT NULL""",
    """INSERT INTO results (wire_id, body) SELECT wire_id, CAST(replace(:result, 'TASK-ID', wire_id) AS BLOB)
    FROM tasks WHERE seq BETWEEN :first AND :last AND ended_at IS NOT NULL""",
    """INSERT INTO events (at, event, task_id, goal_id, data) SELECT submitted_at, 'task_submitted', task_id, goal_id,
    json_object('by', submitted_by, 'origin', origin) FROM tasks WHERE seq BETWEEN :first AND :last""",
    """INSERT INTO events (at, event, task_id, worker, goal_id, data) SELECT sent_at, 'task_sent', task_id, worker,
    goal_id, json_object('wire_id', wire_id, 'try', 1, 'transport', 'file') FROM tasks
    WHERE seq BETWEEN :first AND :last AND sent_at IS NOT NULL""",
    """INSERT INTO events (at, event, task_id, worker, goal_id, data) SELECT ended_at, 'task_ended', task_id, worker,
    goal_id, json_object('state', state) FROM tasks WHERE seq BETWEEN :first AND :last AND ended_at IS NOT NULL""",
)
_NEEDS = """
INSERT INTO dependencies (seq, needs) SELECT t.seq,
    (SELECT MAX(r.seq) FROM tasks AS r WHERE r.state = 'ready' AND r.seq < t.seq) AS needed
    FROM tasks AS t WHERE t.state = 'blocked' AND needed IS NOT NULL
"""
_GOALS = """
INSERT INTO goals (goal_id, goal, state, submitted_by, submitted_at, ended_at, output, max_tasks, max_depth, timeout,
    metadata)
WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :goals)
SELECT printf('goal-%03d', i), 'Reach number ' || i, 'completed', 'ann', :began + i, :began + i + 600, 'Reached.', 1000,
    3, 3600.0, '{}' FROM numbers
"""


def fill(path: Path, tasks: int) -> None:
    """Write a ledger with so many tasks, each with its order, and where it has them its run, result and events."""
    say(f"a ledger of {tasks:,} tasks")
    at = datetime.now(UTC)
    result = Result(
        task_id="TASK-ID",
        worker="w00",
        instance="w00-1",
        status=TaskStatus.COMPLETED,
        output="Two files concern it. " * 10,
        session_id="0b0e2a52-5a5b-4c57-9f0e-1f6b3f3a8d11",
        usage={"input_tokens": 1200, "output_tokens": 340},
        cost_usd=0.01,
        completed_at=at,
        timestamp=at,
    )
    given = {
        "began": at.timestamp() - tasks * _SPACING_S - 60,
        "spacing": _SPACING_S,
        "ended": tasks - tasks // _OPEN_SHARE,
        "goals": GOALS,
        "span": _GRAPH_SPAN,
        "result": encode_result(result).decode(),
    }
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nobody misses it if the machine goes down.
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000"):
            connection.execute(f"PRAGMA {setting}")
        migrate(connection)
        # An index is made faster of what is there than kept up with what comes.
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
        made_by = dict(indexes.fetchall())
        for name in made_by:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(_GOALS, given)
        for first in range(1, tasks + 1, _CHUNK):
            bounds = {**given, "first": first, "last": min(tasks, first + _CHUNK - 1)}
            connection.execute("BEGIN")
            for statement in (_TASKS, *_REST):
                connection.execute(statement, bounds)
            connection.execute("COMMIT")
        for statement in made_by.values():
            connection.execute(statement)
        connection.execute(_NEEDS)


def _put_sent_in_place(rig: Rig, path: Path) -> None:
    """Put the triggers there that the ledger says are with workers; else it would send them again at its start."""
    with closing(sqlite3.connect(path)) as connection:
        for task_id, worker in connection.execute("SELECT task_id, worker FROM tasks WHERE state = 'sent'"):
            triggers = WorkerLayout.under(rig.shared, worker).triggers
            triggers.mkdir(parents=True, exist_ok=True)
            (triggers / f"task-{task_id}.trigger").write_text(json.dumps({"task_id": task_id, "description": "x"}))


@dataclass(frozen=True)
class LedgerFigures:
    """What a large ledger costs."""

    p95_ms: dict[str, float]
    """Of each question, by what is asked."""
    start_s: float
    """From the start of the process to /readyz 200, the median."""
    resident_mb: float
    ledger_mb: float

    @property
    def worst(self) -> tuple[str, float]:
        """The slowest question."""
        return max(self.p95_ms.items(), key=lambda item: item[1])


def _questions(tasks: int, chance: random.Random) -> dict[str, Callable[[], str]]:
    newest = time.time()

    def listed(**filters: Callable[[], Any] | str) -> Callable[[], str]:
        return lambda: "/tasks?" + urlencode({k: v if isinstance(v, str) else v() for k, v in filters.items()})

    def a_worker() -> str:
        return chance.choice(WORKERS)

    def a_goal() -> str:
        return f"goal-{chance.randrange(GOALS):03}"

    def a_graph() -> str:
        return f"graph-{chance.randint(1, tasks // _GRAPH_SPAN):05}"

    def a_moment() -> str:
        return datetime.fromtimestamp(newest - chance.uniform(0, tasks * _SPACING_S), UTC).isoformat()

    def a_cursor() -> str:
        return str(chance.randint(1000, tasks))

    def a_task() -> str:
        return f"t-{chance.randint(1, tasks):07}"

    def ended_task() -> str:
        return f"t-{chance.randint(1, tasks - tasks // _OPEN_SHARE):07}"

    return {
        "list": listed(),
        "list, 500 on a page": listed(limit="500"),
        "list, some page": listed(cursor=a_cursor),
        "state completed": listed(state="completed", cursor=a_cursor),
        "state timed_out": listed(state="timed_out"),
        "state ready": listed(state="ready"),
        "all open states": listed(state="blocked,scheduled,ready,sent,running"),
        "worker": listed(worker=a_worker),
        "worker and state completed": listed(worker=a_worker, state="completed"),
        "worker and state cancelled": listed(worker=a_worker, state="cancelled"),
        "goal": listed(goal=a_goal),
        "goal and state completed": listed(goal=a_goal, state="completed"),
        "goal and state failed": listed(goal=a_goal, state="failed"),
        "goal and worker": listed(goal=a_goal, worker=a_worker),
        "goal and submitter": listed(goal=a_goal, submitted_by="ann"),
        "graph": listed(graph=a_graph),
        "graph and submitter": listed(graph=a_graph, submitted_by="ann"),
        "worker and submitter": listed(worker=a_worker, submitted_by="bob"),
        "submitter": listed(submitted_by="bob"),
        "submitter and state failed": listed(submitted_by="bob", state="failed"),
        "since, oldest first": listed(since=a_moment, order="asc"),
        "since and state": listed(since=a_moment, state="cancelled"),
        "until": listed(until=a_moment),
        "get": lambda: f"/tasks/{a_task()}",
        "result": lambda: f"/tasks/{ended_task()}/result",
    }


def measure_ledger(tasks: int, samples: int, starts: int) -> LedgerFigures:
    """Fill a ledger, start orchestrators on it, and ask the last one many questions, one at a time."""
    with open_rig(MEMORY, 1) as rig, open_ledger() as path:
        fill(path, tasks)
        _put_sent_in_place(rig, path)
        ledger_mb = path.stat().st_size / 1e6
        say(f"{starts} starts on a ledger of {ledger_mb:,.0f} MB")
        times = []
        for _ in range(starts):
            with open_orchestrator(rig, path, WORKERS) as orchestrator:
                times.append(orchestrator.ready_s)
        with open_orchestrator(rig, path, WORKERS) as orchestrator, Line(orchestrator.port) as line:
            say(f"{samples} of each question")
            p95_ms = dict(_ask(line, _questions(tasks, random.Random(1)), samples))
            memory_mb = resident_mb(orchestrator.pid)
    return LedgerFigures(p95_ms, statistics.median(times), memory_mb, ledger_mb)


def _ask(line: Line, questions: dict[str, Callable[[], str]], samples: int) -> Iterator[tuple[str, float]]:
    for name, path in questions.items():
        taken_ms = []
        for _ in range(_WARM_UP + samples):
            asked = path()
            began_ns = time.monotonic_ns()
            line.get(asked)
            taken_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        p95 = p95_of(taken_ms[_WARM_UP:])
        say(f"  {name}: p50 {statistics.median(taken_ms[_WARM_UP:]):.1f} ms, p95 {p95:.1f} ms")
        yield name, p95
