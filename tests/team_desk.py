"""A desk in memory with workers that answer at once, over a real ledger; for tests of what stands on a desk."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from agent_bus.messages import Result, TaskError, TaskStatus
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, FieldProblem, NotKnown, OrderRefused
from orchestrator_service.ledger.database import Database
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import (
    FINAL_STATES,
    Route,
    Submission,
    TaskRecord,
    TaskResult,
    TaskState,
    TaskSummary,
    WorkerRecord,
)


def worker_record(name: str, role: str, skills: Sequence[str] = ()) -> WorkerRecord:
    return WorkerRecord(
        name=name,
        role=role,
        skills=list(skills),
        state="up",
        status="idle",
        paused=False,
        heartbeat_age_seconds=1.0,
        slots=2,
        in_flight=0,
        max_in_flight=4,
        waiting=0,
        transport="file",
        spent_today_usd=0.0,
        reserved_usd=0.0,
        budget_usd=None,
        instances=[],
    )


def echo(description: str) -> str | None:
    return f"echo: {description}"


class TeamDesk:
    """Tasks are `sent` and, if `answer` gives a text for them, completed as soon as what they need is."""

    def __init__(self, database: Database | None = None, answer: Callable[[str], str | None] = echo) -> None:
        self.team = [worker_record("marie", "choreographer", ["dance"]), worker_record("anga", "coder", ["python"])]
        self.answer = answer
        self.cost_usd: float | None = None
        self.orders: dict[str, TaskOrder] = {}
        self.records: dict[str, TaskRecord] = {}
        self.results: dict[str, TaskResult] = {}
        self.cancelled: dict[str, str] = {}
        self._database = database
        self._changed = asyncio.Condition()

    async def workers(self) -> list[WorkerRecord]:
        return self.team

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        assert isinstance(order, TaskOrder)
        names = [worker.name for worker in self.team]
        if order.worker is not None and order.worker not in names:
            raise OrderRefused([FieldProblem("worker", order.worker, f"There is none; there are {', '.join(names)}.")])
        task_id = order.task_id or f"t{len(self.records) + 1}"
        depth = 0 if order.parent is None else (await self.task(order.parent)).depth + 1
        record = _record(task_id, order, asker, depth)
        self.orders[task_id], self.records[task_id] = order, record
        if self._database is not None:
            await self._database.write(lambda db: _insert(db, record, order.max_budget_usd))
        await self._answer_what_can_be()
        return Submission(graph_id=None, tasks=[self.records[task_id]])

    async def _answer_what_can_be(self) -> None:
        progress = True
        while progress:
            progress = False
            for task_id, order in self.orders.items():
                needed = [self.records.get(need) for need in order.dependencies]
                if self.records[task_id].state in FINAL_STATES or not all(
                    need is not None and need.state is TaskState.COMPLETED for need in needed
                ):
                    continue
                description = order.description
                for need in order.dependencies:
                    description = description.replace(f"{{{{results.{need}.output}}}}", self._output(need))
                if (text := self.answer(description)) is not None:
                    await self.end(task_id, TaskState.COMPLETED, text)
                    progress = True

    def _output(self, task_id: str) -> str:
        result = self.results[task_id].result
        return "" if result is None else result.output

    async def end(self, task_id: str, state: TaskState, text: str = "", error: TaskError | None = None) -> None:
        now = datetime.now(UTC)
        result = Result(
            task_id=task_id,
            worker="marie",
            instance="one",
            status=TaskStatus(state.value),
            output=text,
            error=error,
            completed_at=now,
            timestamp=now,
        )
        self.results[task_id] = TaskResult(task_id=task_id, state=state, result=result, error=error)
        self.records[task_id] = self.records[task_id].model_copy(update={"state": state, "ended_at": now})
        if self._database is not None:
            update = "UPDATE tasks SET state = ?, ended_at = ?, cost_usd = ? WHERE task_id = ?"
            values = (state.value, time.time(), self.cost_usd, task_id)
            await self._database.write(lambda db: db.execute(update, values).rowcount)
        async with self._changed:
            self._changed.notify_all()

    async def adopt(self, task_id: str, goal_id: str) -> None:
        """Know a task again that another desk has left in the ledger."""
        order = TaskOrder(description="left over")
        asker = Asker(name="somebody", goal_id=goal_id)
        self.orders[task_id], self.records[task_id] = order, _record(task_id, order, asker, 0)

    async def task(self, task_id: str) -> TaskRecord:
        if task_id not in self.records:
            raise NotKnown("task", task_id)
        return self.records[task_id]

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        for task_id in task_ids:
            await self.task(task_id)

        def over() -> bool:
            ended = [self.records[task_id].state in FINAL_STATES for task_id in task_ids]
            return any(ended) if any_of else all(ended)

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(over)
        except TimeoutError:
            pass
        return [self.records[task_id] for task_id in task_ids]

    async def result(self, task_id: str) -> TaskResult:
        await self.task(task_id)
        if task_id not in self.results:
            raise Conflict(f"Task {task_id} has not ended.")
        return self.results[task_id]

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        if (await self.task(task_id)).state in FINAL_STATES:
            raise Conflict(f"Task {task_id} has ended.")
        self.cancelled[task_id] = reason
        await self.end(task_id, TaskState.CANCELLED, error=TaskError(kind="cancelled", message=reason or "Cancelled."))
        return self.records[task_id]


def _record(task_id: str, order: TaskOrder, asker: Asker, depth: int) -> TaskRecord:
    now = datetime.now(UTC)
    return TaskRecord(
        task_id=task_id,
        title=order.title,
        state=TaskState.SENT,
        worker=order.worker,
        route=Route(worker=order.worker, role=order.role, skills=order.skills),
        priority=order.priority,
        dependencies=len(order.dependencies),
        unmet=0,
        tries=1,
        graph_id=None,
        goal_id=asker.goal_id,
        schedule=None,
        parent=order.parent,
        depth=depth,
        origin=asker.origin,
        submitted_by=asker.name,
        submitted_at=now,
        ready_at=now,
        next_at=None,
        sent_at=now,
        started_at=None,
        ended_at=None,
        deadline=order.deadline,
        cancel_requested_at=None,
        cost_usd=None,
        error=None,
        description=order.description,
        needs=order.dependencies,
        order=order.model_dump(mode="json"),
        runs=[],
    )


def _insert(db: sqlite3.Connection, task: TaskRecord, reserve_usd: float | None) -> None:
    row = {
        "task_id": task.task_id,
        "state": task.state.value,
        "lane": "any",
        "priority": task.priority,
        "title": task.title,
        "goal_id": task.goal_id,
        "parent": task.parent,
        "depth": task.depth,
        "origin": task.origin,
        "submitted_by": task.submitted_by,
        "on_failure": "fail_dependents",
        "submitted_at": task.submitted_at.timestamp(),
        "reserve_usd": reserve_usd,
    }
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO tasks ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
