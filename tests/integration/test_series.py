"""How it went over time: each list against a plain count of what was done."""

from __future__ import annotations

import math
import random
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus
from orchestrator_service.accounts import SeriesQuery
from orchestrator_service.errors import OrderRefused
from orchestrator_service.ledger.database import open_database
from orchestrator_service.ledger.series import add_sample, prune_samples, read_series
from tests.integration.core_harness import open_scene

START = 1_700_000_000.0


def add(db: sqlite3.Connection, seq: int, state: str, submitted: float, ended: float, cost: float | None) -> None:
    db.execute(
        "INSERT INTO tasks (seq, task_id, state, lane, priority, origin, submitted_by, on_failure, submitted_at,"
        " ended_at) VALUES (?, ?, ?, '', 50, 'api', 'me', 'continue', ?, ?)",
        (seq, f"t{seq}", state, submitted, ended),
    )
    db.execute(
        "INSERT INTO runs (wire_id, seq, number, worker, transport, sent_at, ended_at, status, cost_usd, notional,"
        " budget_day) VALUES (?, ?, 1, 'marie', 'file', ?, ?, ?, ?, ?, 'd')",
        (f"t{seq}", seq, submitted, ended, state, cost, seq % 2),
    )


@pytest.mark.parametrize("seed", range(5))
async def test_every_step_equals_a_plain_count(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    since, until, step = START + 100, START + 1000, chance.choice([1.0, 7.0, 60.0, 1000.0])
    states = ["completed", "failed", "timed_out", "cancelled"]
    made = []
    for seq in range(1, 200):
        ended = START + chance.randrange(0, 1200)
        cost = chance.choice([None, 0.125, 0.5])
        made.append((seq, chance.choice(states), ended - chance.randrange(500), ended, cost))
    async with open_database(tmp_path / "ledger.sqlite3") as database:
        await database.write(lambda db: [add(db, *row) for row in made])
        found = await database.read(lambda db: read_series(db, since, until, step))
    steps = math.ceil((until - since) / step)
    assert len(found.times) == steps
    for name in ("completed", "failed", "p50_seconds", "error_rate", "queue_depth", "running", "cost_usd"):
        assert len(getattr(found, name)) == steps, name
    for place in range(steps):
        begin = since + place * step
        inside = [row for row in made if begin <= row[3] < min(begin + step, until)]
        good = [row for row in inside if row[1] == "completed"]
        bad = [row for row in inside if row[1] in ("failed", "timed_out")]
        assert (found.completed[place], found.failed[place]) == (len(good), len(bad))
        times = sorted(row[3] - row[2] for row in [*good, *bad])
        for name, share in (("p50_seconds", 0.5), ("p95_seconds", 0.95), ("p99_seconds", 0.99)):
            right = times[math.ceil(share * len(times)) - 1] if times else None
            assert getattr(found, name)[place] == right
        rate = found.error_rate[place]
        assert rate == (pytest.approx(len(bad) / len(times), abs=1e-6) if times else None)
        assert found.cost_usd[place] == pytest.approx(sum(row[4] or 0 for row in inside))
        assert found.notional_cost_usd[place] == pytest.approx(sum(row[4] or 0 for row in inside if row[0] % 2))


async def test_depths_hold_until_they_change(tmp_path: Path) -> None:
    async with open_database(tmp_path / "ledger.sqlite3") as database:
        noted = [(0, 1, 0), (60, 1, 0), (120, 3, 2), (180, 3, 2), (240, 0, 0)]
        kept = await database.write(lambda db: [add_sample(db, START + at, queued, runs) for at, queued, runs in noted])
        assert kept == [True, False, True, False, True]
        found = await database.read(lambda db: read_series(db, START - 120, START + 360, 60))
        assert found.queue_depth == [None, None, 1, 1, 3, 3, 0, 0]
        assert found.running == [None, None, 0, 0, 2, 2, 0, 0]
        # What was before the window still holds in it.
        assert (await database.read(lambda db: read_series(db, START + 190, START + 230, 20))).queue_depth == [3, 3]
        await database.write(lambda db: prune_samples(db, START + 200))
        assert (await database.read(lambda db: read_series(db, START + 190, START + 250, 30))).queue_depth == [3, 0]
        assert (await database.read(lambda db: db.execute("SELECT COUNT(*) FROM samples").fetchone())) == (2,)


async def test_a_series_ends_with_how_it_is_now(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        for name in ("a", "b", "c"):
            await scene.submit(task_id=name, worker="marie")
        await scene.take("a")
        await scene.service.note_sample()
        await scene.finish("b", TaskStatus.FAILED)
        found = await scene.desk.series(SeriesQuery())
        assert (found.step_seconds, 100 <= len(found.times) <= 201) == (600.0, True)
        assert (sum(found.failed), sum(found.completed)) == (1, 0)
        assert (found.queue_depth[-1], found.running[-1]) == (1, 1)
        samples = await scene.core.database.read(
            lambda db: db.execute("SELECT queued, running FROM samples").fetchall()
        )
        assert samples == [(2, 1)]


async def test_too_many_steps_and_no_time_are_refused(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    async with open_scene(tmp_path) as scene:
        for query, words in (
            (SeriesQuery(since=now - timedelta(days=1), until=now, step_s=10.0), "8640 steps; allowed are 2000"),
            (SeriesQuery(since=now, until=now - timedelta(days=1)), "later than since"),
        ):
            with pytest.raises(OrderRefused, match=words):
                await scene.desk.series(query)
        found = await scene.desk.series(SeriesQuery(since=now - timedelta(days=3000), until=now))
        assert len(found.times) <= 200
