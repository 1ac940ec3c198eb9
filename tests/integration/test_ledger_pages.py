"""Lists of tasks: each filter alone and together, page by page, gives what one who looks at all of them would pick."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.errors import OrderRefused
from orchestrator_service.orders import GraphOrder, TaskOrder, TaskQuery
from orchestrator_service.records import TaskState, TaskSummary
from tests.integration.core_harness import Asker, Scene, open_scene

STATES = ("completed", "failed", "sent", "blocked")


async def fill(scene: Scene) -> None:
    """Hand tasks of all kinds in."""
    await scene.beat("marie", slots=100)
    await scene.beat("anga", slots=100)
    for number in range(24):
        asker = Asker(name=["ann", "bob", "cid"][number % 3], goal_id="goal" if number % 4 == 0 else None)
        order = TaskOrder(description="x", task_id=f"t{number}", worker=["marie", "anga"][number % 2])
        dependent = TaskOrder(description="x", task_id=f"d{number}", dependencies=[f"t{number}"])
        if number % 5 == 0:
            await scene.desk.submit(GraphOrder(graph_id=f"g{number % 10}-{number}", tasks=[order, dependent]), asker)
        else:
            await scene.desk.submit(order, asker)
        await scene.quiet()
        if number % 3 == 1:
            await scene.finish(f"t{number}")
        elif number % 3 == 2:
            await scene.fail(f"t{number}")


async def pages(scene: Scene, limit: int, **filters: Any) -> list[TaskSummary]:
    found: list[TaskSummary] = []
    cursor: str | None = None
    while True:
        page = await scene.desk.tasks(TaskQuery(limit=limit, cursor=cursor, **filters))
        assert len(page.tasks) <= limit
        found += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.tasks) == limit


async def test_every_filter_and_every_page(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene)
        everything = await pages(scene, 500)
        assert len(everything) == 29
        middle = everything[14].submitted_at
        choices: dict[str, list[Any]] = {
            "states": [(), ("failed",), ("sent", "completed"), STATES, ("sent", "sent")],
            "worker": [None, "anga", "nobody"],
            "submitted_by": [None, "bob"],
            "goal_id": [None, "goal"],
            "graph_id": [None, "g5-5"],
            "since": [None, middle],
            "until": [None, middle, middle - timedelta(days=1)],
            "oldest_first": [False, True],
        }
        for values in itertools.product(*choices.values()):
            filters = dict(zip(choices, values, strict=True))
            expected = [
                task.task_id
                for task in everything
                if (not filters["states"] or task.state in filters["states"])
                and all(
                    filters[name] is None or getattr(task, name) == filters[name]
                    for name in ("worker", "submitted_by", "goal_id", "graph_id")
                )
                and (filters["since"] is None or task.submitted_at >= filters["since"])
                and (filters["until"] is None or task.submitted_at < filters["until"])
            ]
            if filters["oldest_first"]:
                expected.reverse()
            found = await pages(scene, 4, **filters)
            assert [task.task_id for task in found] == expected, filters


async def test_pages_go_on_where_they_were_while_tasks_come(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await fill(scene)
        before = [task.task_id for task in await pages(scene, 500)]
        first = await scene.desk.tasks(TaskQuery(limit=10))
        await scene.submit(task_id="new")
        rest = await scene.desk.tasks(TaskQuery(limit=100, cursor=first.next_cursor))
        assert [task.task_id for task in [*first.tasks, *rest.tasks]] == before


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"states": ("odd",)}, "state"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "-1"}, "cursor"),
        ({"cursor": "9" * 30}, "cursor"),
    ],
)
async def test_wrong_filters_are_refused(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    async with open_scene(tmp_path) as scene:
        with pytest.raises(OrderRefused) as refused:
            await scene.desk.tasks(TaskQuery(**fields))
        assert refused.value.problems[0].field == field
        assert set(TaskState) >= set(STATES)
