"""The orchestrator with workers on another machine: Redis is all that the two share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.desk import Asker
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import TaskState
from orchestrator_service.service import Service, open_service
from orchestrator_service.settings import read_settings
from tests.integration.harness import ChildWorker, child_worker
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until

ME = Asker(name="ann")
SCRIPT = r"""
read -r prompt
case "$prompt" in
  slow*) echo started; exec sleep 60 ;;
  *) echo "one"; echo "two: $prompt" ;;
esac
"""


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, durable=True) as server:
        yield server


@pytest.fixture
def far_worker(tmp_path: Path, redis_server: RedisServer) -> Iterator[ChildWorker]:
    """A worker with directories of its own: nothing of it is in the orchestrator's."""
    script = tmp_path / "agent.sh"
    script.write_text(SCRIPT)
    (tmp_path / "far").mkdir()
    with child_worker(
        tmp_path / "far",
        WORKER_NAME="marie",
        AGENT="command",
        AGENT_COMMAND=f"sh {script}",
        WORKER_MODE="hybrid",
        REDIS_URL=redis_server.url,
        HEARTBEAT_INTERVAL="0.5",
        MAX_CONCURRENT="2",
    ) as worker:
        yield worker


@asynccontextmanager
async def orchestrator(tmp_path: Path, server: RedisServer, **environ: str) -> AsyncIterator[Service]:
    """An orchestrator whose ledger and shared directory stay where they are."""
    shared = tmp_path / "near"
    shared.mkdir(exist_ok=True)
    settings = read_settings(
        {
            "SHARED_DIR": str(shared),
            "WORKERS": "marie",
            "REDIS_URL": server.url,
            "HEARTBEAT_INTERVAL": "0.5",
            "HTTP_PORT": "0",
            **environ,
        }
    )
    async with open_service(settings) as service:
        yield service


async def is_up(service: Service) -> None:
    await async_wait_until(lambda: service.fleet.view.members["marie"].takes, what="the worker is seen", timeout=20)


async def test_a_graph_runs_at_a_worker_that_shares_nothing_but_redis(
    tmp_path: Path, redis_server: RedisServer, far_worker: ChildWorker
) -> None:
    async with orchestrator(tmp_path, redis_server) as service:
        await is_up(service)
        worker = await service.desk.worker("marie")
        assert (worker.state, worker.transport) == ("up", "redis")
        order = GraphOrder(
            tasks=[
                TaskOrder(key="a", description="first"),
                TaskOrder(key="b", description="{{results.a.output}}", dependencies=["a"]),
            ]
        )
        submission = await service.desk.submit(order, ME)
        tasks = await service.desk.wait([task.task_id for task in submission.tasks], 20)
        assert [task.state for task in tasks] == [TaskState.COMPLETED, TaskState.COMPLETED]
        result = await service.desk.result(tasks[1].task_id)
        assert result.result is not None
        assert result.result.output == "one\ntwo: one\n"
        assert all(invariant.holds for invariant in await service.reconciler.check())


async def test_what_an_agent_far_away_says_is_told_live_and_kept(
    tmp_path: Path, redis_server: RedisServer, far_worker: ChildWorker
) -> None:
    async with orchestrator(tmp_path, redis_server) as service:
        await is_up(service)
        submission = await service.desk.submit(TaskOrder(description="slow one"), ME)
        task_id = submission.tasks[0].task_id
        said: list[dict[str, Any]] = []

        async def listen() -> None:
            async for event in service.desk.task_events(task_id, None, follow=True):
                said.append(json.loads(event.data))

        listening = asyncio.create_task(listen())
        try:
            await async_wait_until(
                lambda: any(event["event"] == "output" for event in said), what="its output is told while it runs"
            )
            assert (await service.desk.task(task_id)).state is TaskState.RUNNING
            await service.desk.cancel(task_id, ME, "enough")
            (task,) = await service.desk.wait([task_id], 20)
            assert task.state is TaskState.CANCELLED
            assert task.error is not None
            assert task.error.message == "ann cancelled it: enough"
            await asyncio.wait_for(listening, 10)
        finally:
            listening.cancel()
        names = [event["event"] for event in said]
        assert names[-1] == "task_ended"
        again = [
            json.loads(event.data)["event"] async for event in service.desk.task_events(task_id, None, follow=False)
        ]
        assert sorted(again) == sorted(names), "whoever comes later is told the same"


async def test_results_that_came_while_it_was_away_are_found(
    tmp_path: Path, redis_server: RedisServer, far_worker: ChildWorker
) -> None:
    async with orchestrator(tmp_path, redis_server) as service:
        await is_up(service)
        submission = await service.desk.submit(
            GraphOrder(tasks=[TaskOrder(description=f"task {number}") for number in range(20)]), ME
        )
    ids = [task.task_id for task in submission.tasks]
    client = redis_server.client()
    async with orchestrator(tmp_path, redis_server) as service:
        tasks = await service.desk.wait(ids, 20)
        assert {task.state for task in tasks} == {TaskState.COMPLETED}
        assert {task.tries for task in tasks} == {1}
    client.close()


async def test_tasks_wait_while_redis_is_away_and_say_so(
    tmp_path: Path, redis_server: RedisServer, far_worker: ChildWorker
) -> None:
    async with orchestrator(tmp_path, redis_server) as service:
        await is_up(service)
        redis_server.kill()
        submission = await service.desk.submit(TaskOrder(description="later"), ME)
        task_id = submission.tasks[0].task_id

        # It is tried now and then: between two tries the task says what it waits for.
        for _ in range(2000):
            task = await service.desk.task(task_id)
            if task.waits_for is not None and "marie cannot be reached now" in task.waits_for.message:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the task does not say that its worker cannot be reached")
        assert task.state is TaskState.READY
        assert any("cannot be used" in finding.text for finding in service.readiness()), "and /readyz tells it"
        redis_server.restart()
        (ended,) = await service.desk.wait([task_id], 30)
        assert ended.state is TaskState.COMPLETED
        assert ended.tries == 1
