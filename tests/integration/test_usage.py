"""Cost and tokens: the sums that are kept equal a plain recount of the tries, whatever happened."""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_bus.messages import TaskStatus
from orchestrator_service.accounts import Usage, UsageBy, UsageQuery
from orchestrator_service.desk import Asker
from orchestrator_service.errors import OrderRefused
from orchestrator_service.ledger import schema
from orchestrator_service.ledger.goals import GoalRow, goal_record, insert_goal, store_agent_cost
from orchestrator_service.ledger.usage import read_usage
from orchestrator_service.orders import TaskOrder
from orchestrator_service.records import GoalState
from orchestrator_service.settings import BudgetSettings
from tests.integration.core_harness import ME, Scene, open_scene

MONEY = ("cost_usd", "notional_cost_usd")
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")
REPORTED = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def recount(connection: sqlite3.Connection, by: str) -> dict[str, dict[str, float]]:
    """Add up everything again, try by try."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    known: dict[str, bool] = defaultdict(bool)
    firsts: set[int] = set()
    columns = "t.seq, r.budget_day, r.worker, t.goal_id, t.task_id, r.model, r.cost_usd, r.notional"
    rows = connection.execute(
        f"SELECT {columns}, {', '.join(f'r.{name}' for name in TOKENS)} FROM runs AS r JOIN tasks AS t ON t.seq = r.seq"
        " WHERE r.ended_at IS NOT NULL AND r.status <> 'withdrawn' ORDER BY r.number"
    )
    for seq, day, worker, goal, task, model, cost, notional, *tokens in rows.fetchall():
        key = {"day": day, "worker": worker, "goal": goal or "", "task": task, "model": model or ""}[by]
        line = found[key]
        known[key] |= cost is not None
        line["tasks"] += seq not in firsts
        firsts.add(seq)
        line["tries"] += 1
        line["cost_usd"] += cost or 0.0
        line["notional_cost_usd"] += (cost or 0.0) if notional else 0.0
        for name, amount in zip(TOKENS, tokens, strict=True):
            line[name] += amount or 0
    if by == "task":
        return {key: line for key, line in found.items() if known[key]}
    else:
        goals = connection.execute(
            "SELECT goal_id, COALESCE(model, ''), agent_cost_usd, COALESCE(agent_notional_usd, 0),"
            " date(submitted_at, 'unixepoch') FROM goals WHERE agent_cost_usd IS NOT NULL"
        )
        for goal, model, cost, notional, day in goals.fetchall():
            line = found[{"day": day, "worker": "orchestrator", "goal": goal, "model": model}[by]]
            line["cost_usd"] += cost
            line["notional_cost_usd"] += notional
    return found


def compare(connection: sqlite3.Connection) -> None:
    for by in UsageBy:
        rows, total = read_usage(connection, by, "0001-01-01", "9999-12-31", 1000)
        right = recount(connection, by.value)
        assert {row.key for row in rows} == set(right), by
        for row in rows:
            for name in ("tasks", "tries", *TOKENS):
                assert getattr(row, name) == right[row.key][name], (by, row.key, name)
            for name in MONEY:
                assert getattr(row, name) == pytest.approx(right[row.key][name], abs=1e-5), (by, row.key, name)
        for name in (*MONEY, "tasks", "tries"):
            if by is not UsageBy.TASK:
                assert getattr(total, name) == pytest.approx(sum(getattr(row, name) for row in rows), abs=1e-4), name


def some_fields(chance: random.Random) -> dict[str, Any]:
    usage = {name: chance.randrange(10_000) for name in REPORTED if chance.random() < 0.8}
    return {
        "cost_usd": chance.choice([None, 0.0, round(chance.random(), 4)]),
        "cost_is_notional": chance.choice([True, False, None]),
        "model": chance.choice(["opus", "haiku", None]),
        "usage": chance.choice([usage, None, {"input_tokens": "many", "output_tokens": -1}]),
    }


async def add_goal(scene: Scene, goal_id: str) -> None:
    row = GoalRow(
        goal_id=goal_id,
        goal=f"Reach {goal_id}.",
        state=GoalState.RUNNING,
        submitted_by="me",
        submitted_at=scene.now(),
        session_id="s",
        max_tasks=10,
        max_depth=2,
        timeout=60,
        max_budget_usd=None,
        model="opus",
        metadata="{}",
    )
    await scene.core.database.write(lambda db: insert_goal(db, row))


async def play(scene: Scene, chance: random.Random, steps: int) -> None:
    """Let things happen at random: ends, tries, replays, withdrawals, given-up runs, turns of goals."""
    names = ["marie", "anga"]
    for name in names:
        await scene.beat(name)
    for goal in ("g1", "g2"):
        await add_goal(scene, goal)
    costs = {"g1": 0.0, "g2": 0.0}
    for number in range(steps):
        order = TaskOrder(
            description="x",
            task_id=f"t{number}",
            worker=chance.choice(names),
            retry={"max_retries": chance.randrange(3), "initial_seconds": 0.1},  # type: ignore[arg-type]
        )
        asker = chance.choice([ME, Asker(name="me", origin="goal", goal_id="g1"), Asker(name="me", goal_id="g2")])
        await scene.desk.submit(order, asker)
        await scene.quiet()
        for wire_id in chance.sample(sorted(scene.transport.waiting), k=min(2, len(scene.transport.waiting))):
            status = chance.choice([TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.FAILED, TaskStatus.TIMED_OUT])
            await scene.finish(wire_id, status, **some_fields(chance))
        if chance.random() < 0.3 and scene.transport.results:
            await scene.wait(1)
            wire_id = chance.choice(sorted(scene.transport.results))
            await scene.finish(wire_id, worker="marie", **some_fields(chance))
        if chance.random() < 0.2 and scene.transport.waiting:
            await scene.desk.cancel(f"t{number}", ME) if f"t{number}" in scene.transport.waiting else None
            await scene.quiet()
        if chance.random() < 0.3:
            goal = chance.choice(sorted(costs))
            costs[goal] += round(chance.random(), 3)
            cost, day, notional = costs[goal], scene.service.book.day_of(scene.now()), chance.random() < 0.5
            await scene.core.database.write(
                lambda db, goal=goal, cost=cost, day=day, notional=notional: store_agent_cost(  # type: ignore[misc]
                    db, goal, cost, day=day, at=scene.now(), notional=notional
                )
            )


@pytest.mark.parametrize("seed", range(6))
async def test_the_sums_equal_a_recount(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with open_scene(tmp_path, BudgetSettings(task_usd=2.0, day_usd=1000.0)) as scene:
        await play(scene, chance, 30)
        await scene.core.database.read(compare)
        await scene.check_book()
        held = await scene.core.database.read(lambda db: db.execute("SELECT SUM(tries) FROM usage").fetchone())
        assert held[0] > 10


async def test_the_recount_can_fail(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await play(scene, random.Random(1), 5)
        await scene.core.database.write(lambda db: db.execute("UPDATE usage SET cost_usd = cost_usd + 0.01").rowcount)
        with pytest.raises(AssertionError):
            await scene.core.database.read(compare)


async def test_every_try_costs_and_a_task_counts_once(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await scene.submit(task_id="t", retry={"max_retries": 1, "initial_seconds": 0.1}, worker="marie")
        told = {"usage": {"input_tokens": 5, "cache_read_input_tokens": 7}, "cost_is_notional": True, "model": "opus"}
        await scene.finish("t", TaskStatus.FAILED, cost_usd=0.2, **told)
        await scene.wait(1)
        await scene.finish("t+2", cost_usd=0.3, **told)
        found = await scene.desk.usage(UsageQuery(by=UsageBy.MODEL))
        (row,) = found.rows
        assert (row.key, row.tasks, row.tries, row.cost_usd, row.notional_cost_usd) == ("opus", 1, 2, 0.5, 0.5)
        assert (row.input_tokens, row.cache_read_tokens, row.output_tokens) == (10, 14, 0)
        task = await scene.desk.task("t")
        assert (task.cost_usd, task.notional_cost_usd) == (0.5, 0.5)
        assert [run.cost_is_notional for run in task.runs] == [True, True]


async def test_billed_and_notional_dollars_are_told_apart(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        for name, notional in (("marie", True), ("anga", False), ("fabien", None)):
            await scene.beat(name)
            await scene.submit(task_id=name, worker=name)
            await scene.finish(name, cost_usd=1.0, cost_is_notional=notional)
        found = await scene.desk.usage(UsageQuery(by=UsageBy.WORKER))
        assert {row.key: row.notional_cost_usd for row in found.rows} == {"marie": 1.0, "anga": 0.0, "fabien": 0.0}
        assert (found.total.cost_usd, found.total.notional_cost_usd) == (3.0, 1.0)


async def test_notional_dollars_use_up_a_budget_as_well(tmp_path: Path) -> None:
    async with open_scene(tmp_path, BudgetSettings(task_usd=1.0, worker_day_usd=1.5, day_usd=10.0)) as scene:
        await scene.beat("marie", agent="claude")
        await scene.submit(task_id="a", worker="marie")
        await scene.finish("a", cost_usd=0.75, cost_is_notional=True)
        await scene.submit(task_id="b", worker="marie")
        assert (await scene.reason("b"))[0] == "budget"
        found = (await scene.desk.usage(UsageQuery())).budget
        assert (found.limit_usd, found.spent_usd, found.reserved_usd, found.left_usd) == (10.0, 0.75, 0.0, 9.25)
        (line,) = found.workers
        assert (line.worker, line.limit_usd, line.spent_usd, line.left_usd) == ("marie", 1.5, 0.75, 0.75)


async def test_what_is_reserved_is_not_left(tmp_path: Path) -> None:
    async with open_scene(tmp_path, BudgetSettings(task_usd=1.0, day_usd=10.0)) as scene:
        await scene.beat("marie", agent="claude")
        await scene.submit(task_id="a", worker="marie")
        found = (await scene.desk.usage(UsageQuery())).budget
        assert (found.spent_usd, found.reserved_usd, found.left_usd) == (0.0, 1.0, 9.0)
        assert found.workers[0].left_usd is None


async def ask(scene: Scene, **fields: Any) -> Usage:
    return await scene.desk.usage(UsageQuery(**fields))


async def test_days_are_chosen_by_moments_and_the_rest_left_out(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        for day in range(3):
            await scene.submit(task_id=f"t{day}", worker="marie")
            await scene.finish(f"t{day}", cost_usd=float(day + 1))
            await scene.wait(86_400)
            await scene.beat("marie")
        days = [datetime.fromisoformat(row.key).replace(tzinfo=UTC) for row in (await ask(scene)).rows]
        assert days == sorted(days, reverse=True)
        middle = days[1]
        assert (await ask(scene, since=middle, until=middle + timedelta(days=1))).total.cost_usd == 2.0
        assert (await ask(scene, since=middle, until=middle + timedelta(days=1), by=UsageBy.TASK)).rows[0].key == "t1"
        assert (await ask(scene, since=middle + timedelta(hours=5))).total.cost_usd == 5.0
        assert (await ask(scene, until=middle)).total.cost_usd == 1.0
        assert (await ask(scene, until=middle + timedelta(hours=1))).total.cost_usd == 3.0
        assert [row.key for row in (await ask(scene, by=UsageBy.TASK, limit=2)).rows] == ["t2", "t1"]
        with pytest.raises(OrderRefused, match="later than since"):
            await ask(scene, since=middle, until=middle)


async def test_sums_outlive_their_tasks_but_not_for_ever(tmp_path: Path) -> None:
    async with open_scene(tmp_path, ledger_keep_days=3.0) as scene:
        await scene.beat("marie")
        for name in ("a", "b"):
            await scene.submit(task_id=name, worker="marie")
            await scene.finish(name, cost_usd=1.0)
        scene.clock.lead += 100 * 86_400
        from orchestrator_service.scheduling.pruning import prune, prune_history

        await scene.core.change(lambda step: prune(step, step.now - 3 * 86_400))
        await scene.core.change(prune_history)
        assert await scene.states() == {"b": "completed"}
        assert (await ask(scene)).total.tasks == 2
        scene.clock.lead += 800 * 86_400
        await scene.core.change(prune_history)
        assert (await ask(scene)).total.tasks == 0


async def test_a_goal_tells_what_of_its_cost_is_notional(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await add_goal(scene, "g")
        await scene.desk.submit(
            TaskOrder(description="x", task_id="t", worker="marie"), Asker(name="me", origin="goal", goal_id="g")
        )
        await scene.quiet()
        await scene.finish("t", cost_usd=1.0, cost_is_notional=True)
        for cost in (0.25, 0.25, 0.5):
            await scene.core.database.write(
                lambda db, cost=cost: store_agent_cost(db, "g", cost, day="2026-01-01", at=1.0, notional=True)  # type: ignore[misc]
            )
        found = await scene.core.database.read(lambda db: goal_record(db, "g"))
        assert (found.cost_usd, found.notional_cost_usd, found.agent_notional_cost_usd) == (1.5, 1.5, 0.5)
        usage = await ask(scene, by=UsageBy.GOAL)
        assert [(row.key, row.label, row.cost_usd, row.tasks) for row in usage.rows] == [("g", "Reach g.", 1.5, 1)]
        assert {row.key for row in (await ask(scene, by=UsageBy.WORKER)).rows} == {"marie", "orchestrator"}


def test_an_older_ledger_is_counted_when_it_is_brought_up(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    first = schema.migrations()[0][1]
    connection.executescript(f"{first}\nPRAGMA user_version = 1;")
    for seq in range(1, 6):
        connection.execute(
            "INSERT INTO tasks (seq, task_id, state, lane, priority, origin, submitted_by, on_failure, submitted_at,"
            " goal_id, cost_usd, ended_at) VALUES (?, ?, 'completed', '', 50, 'api', 'me', 'continue', 1, ?, ?, 2)",
            (seq, f"t{seq}", "g" if seq % 2 else None, 0.5 * seq if seq % 3 else None),
        )
        for number in range(1, 1 + seq % 3):
            wire_id = f"t{seq}" if number == 1 else f"t{seq}+{number}"
            status = "withdrawn" if seq == 5 and number == 1 else "completed"
            connection.execute(
                "INSERT INTO runs (wire_id, seq, number, worker, transport, sent_at, ended_at, status, cost_usd,"
                " budget_day) VALUES (?, ?, ?, 'marie', 'file', 1, 2, ?, ?, '2026-01-01')",
                (wire_id, seq, number, status, None if status == "withdrawn" else 0.5),
            )
            if status != "withdrawn":
                body = b'{"usage": {"input_tokens": 3, "cache_read_input_tokens": 4}}' if seq != 4 else b"broken"
                connection.execute("INSERT INTO results (wire_id, body) VALUES (?, ?)", (wire_id, body))
    connection.execute(
        "INSERT INTO goals (goal_id, goal, state, submitted_by, submitted_at, max_tasks, max_depth, timeout, metadata,"
        " agent_cost_usd) VALUES ('g', 'Reach g.', 'completed', 'me', 1, 1, 1, 1, '{}', 0.125)"
    )
    schema.migrate(connection)
    compare(connection)
    _, total = read_usage(connection, UsageBy.DAY, "0001-01-01", "9999-12-31", 10)
    assert (total.tasks, total.tries, total.cost_usd) == (4, 5, 2.625)
    assert (total.input_tokens, total.cache_read_tokens) == (12, 16)
    connection.close()
