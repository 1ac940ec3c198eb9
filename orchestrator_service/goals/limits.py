"""A desk for one goal: what is handed in through it is held to the goal's limits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict
from orchestrator_service.ledger.database import Database
from orchestrator_service.ledger.goals import GoalRow, GoalTask, goal_row, tasks_of_goal
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import Submission, TaskRecord, TaskResult, TaskSummary, WorkerRecord
from orchestrator_service.team_tools.tools import TeamDesk

AGENTS_SHARE: Final = 0.25
"""Of a goal's budget; the rest is for its tasks. What the agent spends is known only when its turn is over."""
_USUAL_SHARE: Final = 0.1
"""Of the tasks' part of the budget: what a task may cost that names no budget of its own."""


class LimitReached(Conflict):
    """The goal may not have this; the text says which limit it is, for the agent that asked."""


class GoalDesk:
    """The desk as the tasks of one goal are handed in at it; a `team_tools.TeamDesk`."""

    def __init__(
        self, desk: TeamDesk, database: Database, row: GoalRow, *, task_budget_usd: float | None, closed: bool = False
    ) -> None:
        self._desk = desk
        self._database = database
        self._row = row
        self._most_a_task_usd = task_budget_usd
        self._handing_in = asyncio.Lock()
        self._closed = closed

    async def close(self) -> None:
        """Accept nothing more; what is being handed in is handed in when this returns."""
        self._closed = True
        async with self._handing_in:
            pass

    async def workers(self) -> list[WorkerRecord]:
        """Return all workers."""
        return await self._desk.workers()

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """Hand in tasks of the goal.

        Raises:
            LimitReached: the goal has no room, no depth or no money for it, or has ended.
            OrderRefused: as at the desk itself.
        """
        # One after the other: each must see what the one before has used up.
        async with self._handing_in:
            if self._closed:
                raise LimitReached("The goal has ended: it takes no more tasks.")
            tasks, agent_usd = await self._database.read(self._used)
            await self._check_depth(order)
            limited = self._limited(order, tasks, agent_usd)
            return await self._desk.submit(limited, replace(asker, goal_id=self._row.goal_id), idempotency)

    async def task(self, task_id: str) -> TaskRecord:
        """Return a task."""
        return await self._desk.task(task_id)

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        """Wait for tasks."""
        return await self._desk.wait(task_ids, timeout_s, any_of=any_of)

    async def result(self, task_id: str) -> TaskResult:
        """Return what came of a task."""
        return await self._desk.result(task_id)

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        """End a task of the goal. Raises LimitReached for a task of somebody else."""
        task = await self._desk.task(task_id)
        if task.goal_id != self._row.goal_id:
            raise LimitReached(f"Task {task_id} is not one of this goal's: only those can be cancelled here.")
        return await self._desk.cancel(task_id, replace(asker, goal_id=self._row.goal_id), reason)

    def _used(self, db: sqlite3.Connection) -> tuple[list[GoalTask], float]:
        return tasks_of_goal(db, self._row.goal_id), goal_row(db, self._row.goal_id).agent_cost_usd or 0.0

    async def _check_depth(self, order: TaskOrder | GraphOrder) -> None:
        orders = order.tasks if isinstance(order, GraphOrder) else [order]
        for parent in dict.fromkeys(one.parent for one in orders if one.parent is not None):
            depth = (await self._desk.task(parent)).depth + 1
            if depth >= self._row.max_depth:
                raise LimitReached(
                    f"The goal's tasks may ask for further tasks down to depth {self._row.max_depth}, and {parent} is "
                    "at the last one: do this without a task of its own."
                )

    def _limited(
        self, order: TaskOrder | GraphOrder, tasks: list[GoalTask], agent_usd: float
    ) -> TaskOrder | GraphOrder:
        orders = order.tasks if isinstance(order, GraphOrder) else [order]
        if len(tasks) + len(orders) > self._row.max_tasks:
            raise LimitReached(
                f"The goal may have {self._row.max_tasks} tasks and has {len(tasks)}: work with what they bring."
            )
        left = self._left_usd(tasks, agent_usd)
        limited: list[TaskOrder] = []
        for one in orders:
            budget = one.max_budget_usd
            if left is not None:
                budget = self._budget_of(one, left)
                left -= budget
            limited.append(one.model_copy(update={"max_budget_usd": budget, "deadline": self._deadline(one)}))
        return order.model_copy(update={"tasks": limited}) if isinstance(order, GraphOrder) else limited[0]

    def _left_usd(self, tasks: list[GoalTask], agent_usd: float) -> float | None:
        budget = self._row.max_budget_usd
        if budget is None:
            return None
        return budget - max(agent_usd, budget * AGENTS_SHARE) - sum(task.committed_usd for task in tasks)

    def _budget_of(self, order: TaskOrder, left: float) -> float:
        # Less than a hundredth of a cent buys nothing, and sums of fractions never come out even.
        if left < 0.0001:
            raise LimitReached(
                f"The goal's budget of {self._row.max_budget_usd:g} USD is used up or set aside for the tasks that it "
                "has: work with what they bring."
            )
        assert self._row.max_budget_usd is not None
        usual = self._row.max_budget_usd * (1 - AGENTS_SHARE) * _USUAL_SHARE
        if self._most_a_task_usd is not None:
            usual = min(usual, self._most_a_task_usd)
        return min(left, usual if order.max_budget_usd is None else order.max_budget_usd)

    def _deadline(self, order: TaskOrder) -> datetime:
        end = datetime.fromtimestamp(self._row.end_at, UTC)
        return end if order.deadline is None else min(order.deadline, end)
