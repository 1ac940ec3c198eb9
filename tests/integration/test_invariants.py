"""The rules that files, streams and ledger keep: each is broken on purpose, and told with what breaks it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent_bus.heartbeats import write_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import WorkerStatus
from orchestrator_service.orders import TaskOrder
from orchestrator_service.reconciliation import AGREE, LIVING_OWNER, NAMES, ONE_PLACE, RESULTS_KNOWN
from orchestrator_service.records import Invariant
from orchestrator_service.service import Service, open_service
from orchestrator_service.settings import OrchestratorSettings
from tests.integration.core_harness import ME, Clock
from tests.integration.transport_harness import made_beat, notify, put, put_result
from tests.waiting import async_wait_until


class Watched:
    """An orchestrator on real files whose worker is the test."""

    def __init__(self, service: Service, layout: WorkerLayout) -> None:
        self.service = service
        self.layout = layout

    @property
    def trigger(self) -> Path:
        """Where the task that every test hands in lies."""
        return self.layout.triggers / "task-t.trigger"

    def beat(self, **fields: object) -> None:
        """Write marie's heartbeat."""
        self.layout.heartbeats.mkdir(parents=True, exist_ok=True)
        write_heartbeat(self.layout.heartbeat("marie"), made_beat(**{"agent": "echo", **fields}))

    def claim(self, instance: str) -> None:
        """Take the task as an instance does."""
        folder = self.layout.inflight / instance
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"1~{instance.replace('-', '')}~{self.trigger.name}").write_bytes(self.trigger.read_bytes())

    async def heard(self, event: str) -> None:
        """Wait until something has happened."""
        async with asyncio.timeout(10):
            async for found in self.service.desk.events("0"):
                if found.event == event:
                    return

    async def in_ledger(self, task_id: str) -> None:
        """Wait until a task that was not handed in here is known."""
        async with asyncio.timeout(10):
            async for found in self.service.desk.events("0"):
                if found.event == "task_ended" and json.loads(found.data)["task_id"] == task_id:
                    return

    async def state(self) -> str:
        return (await self.service.desk.task("t")).state.value

    async def broken(self) -> dict[str, list[str]]:
        """Check; returns what does not hold, with its examples."""
        found = await self.service.reconciler.check()
        assert [rule.name for rule in found] == list(NAMES)
        assert await self.service.desk.invariants() == found
        assert all(isinstance(rule, Invariant) and rule.checked_at is not None for rule in found)
        assert all(rule.violations == len(rule.examples) for rule in found)
        return {rule.name: rule.examples for rule in found if not rule.holds}


@asynccontextmanager
async def watching(shared: Path, layout: WorkerLayout, clock: Clock | None = None) -> AsyncIterator[Watched]:
    settings = OrchestratorSettings(shared=shared, ledger=shared / "ledger.sqlite3", workers=("marie",))
    async with open_service(settings) as service:
        if clock is not None:
            service.fleet._clock = clock.monotonic
        watched = Watched(service, layout)
        watched.beat()
        await async_wait_until(lambda: service.fleet.view.members["marie"].up, what="marie up")
        await service.desk.submit(TaskOrder(description="x", task_id="t"), ME)
        await async_wait_until(watched.trigger.exists, what="the trigger")
        yield watched


async def test_all_hold_while_all_is_well(shared: Path, layout: WorkerLayout) -> None:
    async with watching(shared, layout) as watched:
        assert await watched.broken() == {}
        watched.claim("marie-1")
        watched.trigger.unlink()
        watched.beat(status=WorkerStatus.BUSY, current_tasks=["t"])
        await async_wait_until(lambda: "t" in watched.service.core.begun)
        assert await watched.broken() == {}
        put_result(watched.layout, "t")
        shutil.rmtree(watched.layout.inflight / "marie-1")
        notify(watched.layout, "t")
        watched.beat()
        await async_wait_until(lambda: not watched.service.core.open, what="the result in the ledger")
        assert await watched.broken() == {}
        assert await watched.state() == "completed"


async def test_a_task_of_which_there_is_no_trace(shared: Path, layout: WorkerLayout) -> None:
    async with watching(shared, layout) as watched:
        watched.trigger.unlink()
        told = {AGREE: ["Of task t, which was sent, there is no trace."]}
        assert await watched.broken() == told
        assert not watched.trigger.exists()
        # The second time it is certain, and it is handed over again under its name.
        assert await watched.broken() == told
        await async_wait_until(watched.trigger.exists, what="the trigger anew")
        assert await watched.broken() == {}
        assert (await watched.service.desk.task("t")).tries == 1


async def test_a_task_that_two_hold(shared: Path, layout: WorkerLayout) -> None:
    async with watching(shared, layout) as watched:
        watched.claim("marie-1")
        watched.claim("marie-2")
        watched.trigger.unlink()
        assert await watched.broken() == {ONE_PLACE: ["t is held by marie/marie-1, marie/marie-2."]}


async def test_a_running_task_whose_worker_is_down(shared: Path, layout: WorkerLayout) -> None:
    clock = Clock()
    async with watching(shared, layout, clock) as watched:
        watched.claim("marie-1")
        watched.trigger.unlink()
        watched.beat(status=WorkerStatus.BUSY, current_tasks=["t"])
        await async_wait_until(lambda: watched.service.fleet.beats["marie", "marie-1"].heartbeat.current_tasks)
        clock.lead = 61
        watched.service.core.look_at_fleet()
        assert await watched.broken() == {LIVING_OWNER: ["Task t runs at marie, which is down."]}
        assert await watched.state() == "running"
        watched.beat(status=WorkerStatus.BUSY, current_tasks=["t"])
        await async_wait_until(lambda: watched.service.fleet.view.members["marie"].up)
        assert await watched.broken() == {}


async def test_a_result_of_a_task_that_nobody_knows_and_nobody_understands(shared: Path, layout: WorkerLayout) -> None:
    async with watching(shared, layout) as watched:
        put(watched.layout.result("ghost"), b"{")
        told = "results/marie/ghost.json cannot be understood, and its task is not known."
        for _ in range(2):
            assert await watched.broken() == {RESULTS_KNOWN: [told]}
        # Mended, it is taken in with its task.
        put_result(watched.layout, "ghost")
        assert await watched.broken() == {}
        await watched.in_ledger("ghost")
        assert (await watched.service.desk.task("ghost")).origin == "file"
        assert await watched.broken() == {}


async def test_a_corrupt_result_of_a_known_task_is_told_with_the_task(shared: Path, layout: WorkerLayout) -> None:
    async with watching(shared, layout) as watched:
        watched.claim("marie-1")
        watched.trigger.unlink()
        put(layout.result("t"), b"{")
        notify(layout, "t")
        await watched.heard("result_unreadable")
        assert await watched.broken() == {}
        task = await watched.service.desk.task("t")
        assert task.error is not None
        assert (task.state, task.error.kind) == ("sent", "result_unreadable")
        assert "results/marie/t.json is no result that this version understands" in task.error.message
        put_result(layout, "t")
        notify(layout, "t")
        await async_wait_until(lambda: not watched.service.core.open, what="the mended result")
        assert await watched.state() == "completed"
