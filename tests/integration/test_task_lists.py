"""Lists of tasks: searched, sorted, counted and paged, against plain Python over all tasks."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from agent_bus.messages import TaskStatus
from orchestrator_service.errors import OrderRefused
from orchestrator_service.orders import TaskOrder, TaskQuery, TaskSort
from orchestrator_service.records import TaskState, TaskSummary
from tests.integration.core_harness import ME, Scene, open_scene

TITLES = ["Slogans", "slogans for spring", "Ärger im Büro", "100% wool", "a_b", None, 'say "yes"', "ÄRGER"]
WORDS = ["Write it down.", "Grüße aus KÖLN", "a\\b\nnew line", 'a "quoted" word', "50% off!", "nothing", "under_score"]


async def fill(scene: Scene, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for name in ("marie", "anga"):
        await scene.beat(name, slots=1000)
    for number in range(count):
        order = TaskOrder(
            description=chance.choice(WORDS),
            task_id=f"task-{number}",
            title=chance.choice(TITLES),
            worker=chance.choice(["marie", "anga", None]),
            priority=chance.choice([25, 50, 75]),
            metadata={"note": "slogans are in the metadata only"},
        )
        await scene.desk.submit(order, ME)
        scene.clock.lead += chance.random()
    await scene.quiet()
    waiting = sorted(scene.transport.waiting)
    for wire_id in chance.sample(waiting, k=len(waiting) * 2 // 3):
        scene.clock.lead += chance.random()
        status = chance.choice([TaskStatus.COMPLETED, TaskStatus.FAILED])
        started = scene.at(-chance.randrange(5))
        await scene.finish(wire_id, status, cost_usd=chance.choice([None, 0.5, 1.0, 2.0]), started_at=started)


async def pages(scene: Scene, **fields: Any) -> list[TaskSummary]:
    found: list[TaskSummary] = []
    cursor = None
    while True:
        page = await scene.desk.tasks(TaskQuery(**fields, cursor=cursor))
        found += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return found


def value(task: TaskSummary, sort: TaskSort) -> Any:
    match sort:
        case TaskSort.SUBMITTED:
            return task.submitted_at
        case TaskSort.ENDED:
            return task.ended_at
        case TaskSort.DURATION:
            if task.ended_at is None or task.started_at is None:
                return None
            return task.ended_at.timestamp() - task.started_at.timestamp()
        case TaskSort.COST:
            return task.cost_usd
        case TaskSort.PRIORITY:
            return task.priority
        case TaskSort.WORKER:
            return task.worker
        case TaskSort.STATE:
            return list(TaskState).index(task.state)
        case TaskSort.TITLE:
            # SQLite folds English letters only, and so do lists.
            return None if task.title is None else "".join(c.lower() if c.isascii() else c for c in task.title)


async def test_every_sort_in_both_orders_page_by_page(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene, 80, 1)
        everything = await pages(scene, limit=500)
        assert len(everything) == 80
        for sort in TaskSort:
            for oldest_first in (False, True):
                found = await pages(scene, sort=sort, oldest_first=oldest_first, limit=7)
                assert {task.task_id for task in found} == {task.task_id for task in everything}, sort
                assert len(found) == 80
                values = [value(task, sort) for task in found]
                there = [each for each in values if each is not None]
                assert values == there + [None] * (len(values) - len(there)), sort
                for before, after in itertools.pairwise(there):
                    close = sort is TaskSort.DURATION and abs(before - after) < 1e-5
                    assert close or (before <= after if oldest_first else before >= after), sort


SOUGHT = ["slogan", "SLOGANS", "ärger", "ÄRGER", "grüße", "köln", "100%", "%", "a_b", "_", "\\b", '"quoted"', '"yes"']
SOUGHT += ["new line", "b\nnew", "task-1", "nothing at all", "!"]


@pytest.mark.parametrize("text", SOUGHT)
async def test_a_search_finds_what_has_the_text_and_nothing_else(tmp_path: Path, text: str) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene, 40, 2)
        everything = [await scene.desk.task(task.task_id) for task in await pages(scene, limit=500)]
        right = {
            task.task_id
            for task in everything
            if any(text.lower() in part.lower() for part in (task.task_id, task.title or "", task.description))
        }
        for sort in (TaskSort.SUBMITTED, TaskSort.COST):
            assert {task.task_id for task in await pages(scene, text=text, sort=sort, limit=3)} == right
        page = await scene.desk.tasks(TaskQuery(text=text, count=True, limit=1))
        assert page.total == len(right)


async def test_the_total_is_of_all_pages_and_only_when_asked_for(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene, 30, 3)
        everything = await pages(scene, limit=500)
        first = await scene.desk.tasks(TaskQuery(limit=4, count=True))
        assert first.total == 30
        second = await scene.desk.tasks(TaskQuery(limit=4, count=True, cursor=first.next_cursor))
        assert (second.total, (await scene.desk.tasks(TaskQuery(limit=4))).total) == (30, None)
        states = ("failed", "completed")
        some = await scene.desk.tasks(TaskQuery(states=states, worker="marie", sort=TaskSort.COST, count=True))
        right = [task for task in everything if task.state.value in states and task.worker == "marie"]
        assert (some.total, len(some.tasks)) == (len(right), len(right))


async def test_the_tasks_of_a_worker_are_those_it_got_and_those_that_wait_for_it(tmp_path: Path) -> None:
    async with open_scene(tmp_path, max_in_flight=3) as scene:
        await fill(scene, 60, 6)
        everything = await pages(scene, limit=500)
        right = {task.task_id for task in everything if "anga" in (task.worker, task.route.worker)}
        assert len(right) > len({task.task_id for task in everything if task.worker == "anga"}) > 0
        for sort in TaskSort:
            found = [task.task_id for task in await pages(scene, worker="anga", sort=sort, limit=4)]
            assert len(found) == len(right) and set(found) == right, sort
            for text in (None, "slogan", "task-1"):
                page = await scene.desk.tasks(TaskQuery(worker="anga", sort=sort, text=text, count=True, limit=1))
                assert page.total == len(await pages(scene, worker="anga", text=text, sort=sort, limit=9))
        waiting = {task.task_id for task in everything if task.task_id in right and task.state == "ready"}
        assert {task.task_id for task in await pages(scene, worker="anga", states=("ready",), limit=2)} == waiting


async def test_pages_stay_right_while_tasks_come(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene, 40, 4)
        for sort in (TaskSort.PRIORITY, TaskSort.SUBMITTED, TaskSort.TITLE, TaskSort.COST):
            before = {task.task_id for task in await pages(scene, limit=500)}
            seen: list[str] = []
            cursor = None
            while True:
                page = await scene.desk.tasks(TaskQuery(sort=sort, cursor=cursor, limit=9))
                seen += [task.task_id for task in page.tasks]
                cursor = page.next_cursor
                for priority in (25, 75):
                    await scene.desk.submit(TaskOrder(description="new", priority=priority, title="Slogans"), ME)
                if cursor is None:
                    break
            assert len(seen) == len(set(seen)), sort
            assert before <= set(seen), sort


@pytest.mark.parametrize("cursor", ["5", "x", "WyJjb3N0Il0", "bnVsbA", "W10", "é", "eyJhIjoxfQ"])
async def test_a_cursor_of_another_list_is_refused(tmp_path: Path, cursor: str) -> None:
    async with open_scene(tmp_path) as scene:
        with pytest.raises(OrderRefused, match="cursor"):
            await scene.desk.tasks(TaskQuery(sort=TaskSort.COST, cursor=cursor))


async def test_a_cursor_goes_with_its_sort_and_order(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene, 10, 5)
        page = await scene.desk.tasks(TaskQuery(sort=TaskSort.PRIORITY, limit=2))
        for wrong in ({"sort": TaskSort.COST}, {"sort": TaskSort.PRIORITY, "oldest_first": True}, {}):
            with pytest.raises(OrderRefused, match="cursor"):
                await scene.desk.tasks(TaskQuery(**wrong, cursor=page.next_cursor))  # type: ignore[arg-type]
