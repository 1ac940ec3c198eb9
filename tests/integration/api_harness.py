"""A desk in memory, and the real server before it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from agent_bus.questions import Decision
from orchestrator_service.accounts import GateRecord, Series, SeriesQuery, Usage, UsageQuery
from orchestrator_service.api import examples, money_examples
from orchestrator_service.api.app import ApiServer, make_app
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, FieldProblem, NotKnown, OrderRefused
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.orders import GoalOrder, GraphOrder, ScheduleOrder, TaskOrder, TaskQuery
from orchestrator_service.records import (
    FINAL_STATES,
    Budget,
    EventRecord,
    GoalRecord,
    Invariant,
    QuestionRecord,
    Route,
    ScheduleRecord,
    StreamEvent,
    Submission,
    TaskPage,
    TaskRecord,
    TaskResult,
    TaskState,
    TaskSummary,
    Told,
    WorkerRecord,
)
from orchestrator_service.settings import ApiSettings
from service_kit.findings import Finding
from service_kit.http_server import listen
from tests.integration.harness import REPOSITORY


class MemoryDesk:
    """Just enough of a desk: what is handed in is kept, nobody carries it out."""

    def __init__(self) -> None:
        self.orders: list[TaskOrder | GraphOrder] = []
        self.askers: list[Asker] = []
        self.keys: list[Idempotency | None] = []
        self.records: dict[str, TaskSummary] = {}
        self.kept: dict[str, Submission] = {}
        self.queries: list[TaskQuery] = []
        self.money: list[UsageQuery | SeriesQuery] = []
        self.reasons: list[str] = []
        self.positions: list[tuple[str | None, bool]] = []
        self.failure: Exception | None = None
        self.changed = asyncio.Event()
        self.stream: asyncio.Queue[StreamEvent | None] = asyncio.Queue(8)
        self.open_streams = 0
        self.goal_record = GoalRecord.model_validate(examples.GOAL)
        self.question_record = QuestionRecord.model_validate(examples.QUESTION)
        self.question_queries: list[tuple[str, str | None, str | None, int]] = []
        self.made_schedules: dict[str, ScheduleRecord] = {}

    def _asked(self, asker: Asker | None = None) -> None:
        if asker is not None:
            self.askers.append(asker)
        if self.failure is not None:
            raise self.failure

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        self._asked(asker)
        self.keys.append(idempotency)
        if idempotency is not None and idempotency.key in self.kept:
            return self.kept[idempotency.key].model_copy(update={"repeated": True})
        tasks = [order] if isinstance(order, TaskOrder) else order.tasks
        graph_id = order.graph_id or "graph-1" if isinstance(order, GraphOrder) else None
        if any(task.worker == "nobody" for task in tasks):
            raise OrderRefused([FieldProblem("worker", "nobody", "There is no worker nobody; there are marie.")])
        self.orders.append(order)
        made = [self.make(task, asker, graph_id) for task in tasks]
        submission = Submission(graph_id=graph_id, tasks=made)
        if idempotency is not None:
            self.kept[idempotency.key] = submission
        return submission

    def make(self, task: TaskOrder, asker: Asker, graph_id: str | None = None) -> TaskSummary:
        task_id = task.task_id or f"task-{len(self.records) + 1}"
        self.records[task_id] = TaskSummary.model_construct(
            **{
                **TaskSummary.model_validate(examples.TASK_SUMMARY).__dict__,
                "task_id": task_id,
                "title": task.title,
                "route": Route(worker=task.worker, role=task.role, skills=task.skills),
                "priority": task.priority,
                "graph_id": graph_id,
                "submitted_by": asker.name,
                "submitted_at": datetime.now(UTC),
            }
        )
        return self.records[task_id]

    def _found(self, task_id: str) -> TaskSummary:
        self._asked()
        if task_id not in self.records:
            raise NotKnown("task", task_id)
        return self.records[task_id]

    def end(self, task_id: str, state: TaskState = TaskState.COMPLETED) -> None:
        self.records[task_id] = self.records[task_id].model_copy(update={"state": state})
        self.changed.set()

    async def task(self, task_id: str) -> TaskRecord:
        found = self._found(task_id)
        return TaskRecord.model_validate({**examples.TASK_RECORD, **found.model_dump(mode="json")})

    async def tasks(self, query: TaskQuery) -> TaskPage:
        self._asked()
        self.queries.append(query)
        return TaskPage(tasks=list(self.records.values())[: query.limit], next_cursor=None)

    async def result(self, task_id: str) -> TaskResult:
        found = self._found(task_id)
        if found.state not in FINAL_STATES:
            raise Conflict(f"Task {task_id} has not ended; it is {found.state}.")
        return TaskResult.model_validate({**examples.TASK_RESULT, "task_id": task_id, "state": found.state})

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        for task_id in task_ids:
            self._found(task_id)
        enough = any if any_of else all
        try:
            async with asyncio.timeout(timeout_s):
                while not enough(self.records[task_id].state in FINAL_STATES for task_id in task_ids):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
        return [self.records[task_id] for task_id in task_ids]

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        self._asked(asker)
        found = self._found(task_id)
        if found.state in FINAL_STATES:
            raise Conflict(f"Task {task_id} has ended.")
        self.reasons.append(reason)
        self.end(task_id, TaskState.CANCELLED)
        return self.records[task_id]

    async def retry(self, task_id: str, asker: Asker) -> TaskSummary:
        self._asked(asker)
        found = self._found(task_id)
        if found.state not in FINAL_STATES:
            raise Conflict(f"Task {task_id} has not ended.")
        self.end(task_id, TaskState.READY)
        return self.records[task_id]

    async def _streamed(self, after: str | None) -> AsyncIterator[StreamEvent]:
        if after is not None and not after.isdecimal():
            raise OrderRefused([FieldProblem("after", after, "It is no position.")])
        self.open_streams += 1
        try:
            while (event := await self.stream.get()) is not None:
                yield event
        finally:
            self.open_streams -= 1

    async def task_events(self, task_id: str, after: str | None, *, follow: bool) -> AsyncIterator[StreamEvent]:
        self._found(task_id)
        self.positions.append((after, follow))
        async for event in self._streamed(after):
            yield event

    async def events(self, after: str | None, *, agent: bool = False) -> AsyncIterator[StreamEvent]:
        self._asked()
        self.positions.append((after, agent))
        async for event in self._streamed(after):
            yield event

    async def latest_events(self, limit: int) -> list[EventRecord]:
        self._asked()
        return [EventRecord.model_validate(one) for one in examples.LATEST_EVENTS][:limit]

    def position(self) -> str:
        return "0"

    async def workers(self) -> list[WorkerRecord]:
        self._asked()
        return [WorkerRecord.model_validate(examples.WORKER)]

    async def worker(self, name: str) -> WorkerRecord:
        self._asked()
        if name != "marie":
            raise NotKnown("worker", name)
        return WorkerRecord.model_validate(examples.WORKER)

    async def pause(self, name: str, asker: Asker) -> Told:
        self._asked(asker)
        return Told(worker=await self.worker(name), told=True)

    async def resume(self, name: str, asker: Asker) -> Told:
        self._asked(asker)
        return Told(worker=await self.worker(name), told=True)

    async def questions(
        self, *, state: str = "open", worker: str | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[QuestionRecord]:
        self._asked()
        self.question_queries.append((state, worker, task_id, limit))
        return [self.question_record][:limit]

    async def question(self, question_id: str) -> QuestionRecord:
        self._asked()
        if question_id != self.question_record.question_id:
            raise NotKnown("question", question_id)
        return self.question_record

    async def answer_question(
        self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
    ) -> QuestionRecord:
        self._asked(asker)
        found = await self.question(question_id)
        if found.decision is not None:
            raise Conflict(f"Question {question_id} was answered already.")
        state = "allowed" if decision is Decision.ALLOW else "denied"
        changes = {"state": state, "decision": decision, "answered_by": asker.name, "reason": reason}
        self.question_record = QuestionRecord.model_validate({**examples.APPROVED_QUESTION, **changes})
        return self.question_record

    async def create_schedule(self, order: ScheduleOrder, asker: Asker) -> ScheduleRecord:
        self._asked(asker)
        if order.name in self.made_schedules:
            raise Conflict(f"There is a schedule {order.name} already.")
        made = ScheduleRecord.model_validate({**examples.SCHEDULE, "name": order.name, "created_by": asker.name})
        self.made_schedules[order.name] = made
        return made

    async def schedules(self) -> list[ScheduleRecord]:
        self._asked()
        return list(self.made_schedules.values())

    async def schedule(self, name: str) -> ScheduleRecord:
        self._asked()
        if name not in self.made_schedules:
            raise NotKnown("schedule", name)
        return self.made_schedules[name]

    async def set_schedule_paused(self, name: str, paused: bool, asker: Asker) -> ScheduleRecord:
        self._asked(asker)
        self.made_schedules[name] = (await self.schedule(name)).model_copy(update={"paused": paused})
        return self.made_schedules[name]

    async def delete_schedule(self, name: str, asker: Asker) -> None:
        self._asked(asker)
        await self.schedule(name)
        del self.made_schedules[name]

    async def create_goal(self, order: GoalOrder, asker: Asker) -> GoalRecord:
        self._asked(asker)
        return self.goal_record.model_copy(update={"goal": order.goal, "submitted_by": asker.name})

    async def goals(self, limit: int = 50) -> list[GoalRecord]:
        self._asked()
        return [self.goal_record][:limit]

    async def goal(self, goal_id: str) -> GoalRecord:
        self._asked()
        if goal_id != self.goal_record.goal_id:
            raise NotKnown("goal", goal_id)
        return self.goal_record

    async def cancel_goal(self, goal_id: str, asker: Asker) -> GoalRecord:
        self._asked(asker)
        return await self.goal(goal_id)

    async def budget(self) -> Budget:
        self._asked()
        return Budget.model_validate(examples.BUDGET)

    async def invariants(self) -> list[Invariant]:
        self._asked()
        return [Invariant.model_validate(one) for one in examples.INVARIANTS]

    async def counts(self) -> dict[str, int]:
        self._asked()
        return dict(examples.COUNTS)

    async def usage(self, query: UsageQuery) -> Usage:
        self._asked()
        self.money.append(query)
        return Usage.model_validate(money_examples.USAGE)

    async def series(self, query: SeriesQuery) -> Series:
        self._asked()
        self.money.append(query)
        return Series.model_validate(money_examples.SERIES)

    async def gates(self) -> list[GateRecord]:
        self._asked()
        return [GateRecord.model_validate(money_examples.GATE)]

    async def open_gate(self, gate_id: str, asker: Asker) -> GateRecord:
        self._asked(asker)
        if gate_id != money_examples.GATE["gate_id"]:
            raise NotKnown("closed gate", gate_id)
        return GateRecord.model_validate(money_examples.GATE)


async def explore(served: Served, directory: Path, *, without: str, seed: int) -> tuple[int, str]:
    """Let schemathesis try what the OpenAPI document allows and what it does not; return its exit code and report."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = await anyio.run_process(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"),
            *(f"--checks={checks}", "--phases=fuzzing", "--max-examples=6", f"--seed={seed}", "--no-color"),
            *(f"--exclude-path-regex={without}", "--request-timeout=10", "--generation-database=none"),
        ],
        check=False,
        stderr=subprocess.STDOUT,
        cwd=directory,
        # What it finds out of Unicode, for seconds, holds for the next one too.
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(REPOSITORY / ".hypothesis")},
    )
    return done.returncode, done.stdout.decode(errors="replace")[-6000:]


class Served:
    """A server that listens, and what is behind it."""

    def __init__(self, app: FastAPI, desk: Any, metrics: OrchestratorMetrics, server: ApiServer, port: int) -> None:
        self.app, self.desk, self.metrics, self.server, self.port = app, desk, metrics, server, port
        self.url = f"http://127.0.0.1:{port}"

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # Nothing here speaks TLS, and to read the list of authorities takes longer than most tests.
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=False)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"codehornets_orchestrator_{name}", labels)


@asynccontextmanager
async def serving(
    desk: Any = None,
    settings: ApiSettings | None = None,
    *,
    mcp: ASGIApp | None = None,
    heartbeat_s: float = 15.0,
    findings: Sequence[Finding] = (Finding("loop", True, "it answers"),),
) -> AsyncIterator[Served]:
    """Serve a desk on a free port of loopback, until the block ends."""
    desk = MemoryDesk() if desk is None else desk
    metrics = OrchestratorMetrics()
    app = make_app(
        desk,
        settings=settings or ApiSettings(),
        metrics=metrics,
        liveness=lambda: list(findings),
        readiness=lambda: list(findings),
        refresh=lambda: None,
        mcp=mcp,
        heartbeat_s=heartbeat_s,
    )
    server = ApiServer(app)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield Served(app, desk, metrics, server, port)
        finally:
            server.stop()
            await running
