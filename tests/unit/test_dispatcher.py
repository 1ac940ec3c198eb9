"""The dispatcher's slots and a queue that takes its time to answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, Task, utc_now
from agent_bus.queue import Claim
from tests.waiting import async_wait_until
from worker_service.agents.echo import EchoAgent
from worker_service.bell import Bell
from worker_service.broadcast import Broadcast
from worker_service.dispatcher import Dispatcher
from worker_service.metrics import Metrics
from worker_service.task_runner import DispatchSettings, TaskRunner


class SlowQueue:
    """Looks, and answers what it saw then only when it is told to: as a queue on another host does."""

    def __init__(self) -> None:
        self.waiting: list[Claim] = []
        self.completed: list[str] = []
        self.asking = 0
        self.answers = asyncio.Event()

    async def claim(self) -> Claim | None:
        seen = self.waiting.pop(0) if self.waiting else None
        self.asking += 1
        try:
            await self.answers.wait()
        finally:
            self.asking -= 1
        return seen

    async def complete(self, claim: Claim, result: Result) -> bool:
        self.completed.append(claim.task.task_id)
        return True

    def depth(self) -> int:
        return len(self.waiting)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not part of this test")


async def test_what_comes_while_every_slot_is_asking_is_taken_all_the_same(
    layout: WorkerLayout, tmp_path: Path
) -> None:
    queue, bell = SlowQueue(), Bell()
    settings = DispatchSettings(worker="marie", instance="i", slots=2, task_timeout_s=60, max_attempts=3)
    runner = TaskRunner(
        settings,
        queue=queue,
        agent=EchoAgent(),
        metrics=Metrics("marie"),
        layout=layout,
        gate=None,
        bell=bell,
        broadcast=Broadcast("marie"),
    )
    dispatcher = Dispatcher(settings, queue=queue, bell=bell, runner=runner)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dispatcher.run_forever)
        await async_wait_until(lambda: queue.asking == 2)
        task = Task(task_id="7", description="x")
        queue.waiting.append(Claim(task=task, attempt=1, queued_at=utc_now(), token="7"))
        bell.ring("queue")
        queue.answers.set()
        await async_wait_until(lambda: queue.completed == ["7"], 5)
        tasks.cancel_scope.cancel()
