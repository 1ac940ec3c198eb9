"""What the tasks of a goal ask for is held to the goal's limits, whichever door they come by."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import anyio
import pytest

from orchestrator_service.desk import Asker
from orchestrator_service.errors import OrderRefused
from orchestrator_service.goals.limits import LimitReached
from orchestrator_service.goals.service import open_goals
from orchestrator_service.ledger.goals import GoalRow, insert_goal
from orchestrator_service.orders import TaskOrder
from orchestrator_service.records import GoalState
from orchestrator_service.service import Service, open_service
from orchestrator_service.settings import read_settings

ME = Asker(name="ann")


async def a_goal(service: Service, *, max_tasks: int) -> str:
    row = GoalRow(
        goal_id="g1",
        goal="a course",
        state=GoalState.RUNNING,
        submitted_by="ann",
        submitted_at=time.time(),
        session_id=str(uuid.uuid4()),
        max_tasks=max_tasks,
        max_depth=2,
        timeout=600.0,
        max_budget_usd=None,
        model=None,
        metadata="{}",
    )
    await service.database.write(lambda connection: insert_goal(connection, row))
    return row.goal_id


async def test_a_task_that_a_goals_task_asks_for_counts_for_the_goal(tmp_path: Path) -> None:
    settings = read_settings({"SHARED_DIR": str(tmp_path), "WORKERS": "marie", "HTTP_PORT": "0"})
    async with open_service(settings) as service, anyio.create_task_group():
        goal_id = await a_goal(service, max_tasks=2)
        async with open_goals(service.desk, service.database, settings.goals, {}, lambda name, data: None) as goals:
            service.desk.goal_desk = goals
            first = await service.desk.submit(
                TaskOrder(task_id="one", description="x"), Asker(name="ann", origin="goal", goal_id=goal_id)
            )
            assert first.tasks[0].goal_id == goal_id
            second = await service.desk.submit(TaskOrder(task_id="two", description="y", parent="one"), ME)
            assert (second.tasks[0].goal_id, second.tasks[0].depth) == (goal_id, 1)
            with pytest.raises(LimitReached):
                await service.desk.submit(TaskOrder(description="z", parent="two"), ME)
            other = await service.desk.submit(TaskOrder(description="of no goal"), ME)
            assert other.tasks[0].goal_id is None
            with pytest.raises(OrderRefused, match="parent: there is no such task"):
                await service.desk.submit(TaskOrder(description="z", parent="nobody"), ME)
