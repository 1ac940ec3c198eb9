"""A parked fleet with the real Claude Code CLI: its wait is ended by hand, and whose dollars they are."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent_bus.gates import closed_gates
from agent_bus.messages import TaskStatus
from tests.acceptance.conftest import Client
from tests.integration.harness import REPOSITORY
from tests.standin.messages_api import MessagesApi, rate_limited, reply
from tests.waiting import async_wait_until as until
from worker_service.service import Worker, open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

Settings = Callable[..., WorkerSettings]

SUBSCRIPTION = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "dummy-login-for-tests"}
COMMAND = [sys.executable, "-c", "from orchestrator_service.cli import main; main()"]


async def codehornets(folder: Path, *arguments: str) -> str:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8"}
    done = await anyio.run_process(
        [*COMMAND, *arguments], cwd=folder, env=environ, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


def sessions(client: Client, task_id: str) -> list[object]:
    return [event["data"]["session_id"] for event in client.events(task_id) if event["event"] == "prompt"]


async def test_a_parked_fleet_goes_on_in_its_session_when_the_gate_is_opened(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    in_an_hour = int(time.time()) + 3600
    limits = [rate_limited(resets_at=in_an_hour), rate_limited(resets_at=in_an_hour)]
    api.when("limited", *limits, reply("after the wait"), shared=True)
    api.when("quick", reply("was held back too"))
    other = Client(client.shared, "anga")
    one_slot = {"MAX_CONCURRENT": "1"}
    async with (
        open_worker(settings_of(**SUBSCRIPTION, **one_slot)) as marie,
        open_worker(settings_of(WORKER_NAME="anga", **SUBSCRIPTION, **one_slot)) as anga,
    ):
        client.submit("t1", "limited work")
        await parked(marie, anga)
        other.submit("t2", "quick work")
        (gate_id,) = closed_gates(client.shared / "gates")
        await until(lambda: anga.queue.depth() == 1, 30, "the task is seen")
        await anyio.to_thread.run_sync(anga.pulse.beat)
        shown = await codehornets(tmp_path, "gates", "--shared-dir", str(client.shared))
        assert gate_id in shown and "anga, marie" in shown
        assert not other.result_path("t2").exists()

        # The limit still holds: it closes again, and no attempt is spent.
        before = closed_gates(client.shared / "gates")[gate_id].closed_at
        told = await codehornets(tmp_path, "gates", "open", gate_id, "--shared-dir", str(client.shared))
        assert f"The gate {gate_id} is open" in told
        await until(lambda: closed_again(client, gate_id, before), 60, "the gate is closed again")
        await parked(marie)
        assert not client.result_path("t1").exists()

        await codehornets(tmp_path, "gates", "open", gate_id, "--shared-dir", str(client.shared))
        await until(client.has_result("t1"), 60)
        await until(other.has_result("t2"), 60)
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "after the wait", 1)
    assert sessions(client, "t1") == [result.session_id] * 3
    assert (other.result("t2").output, other.result("t2").attempts) == ("was held back too", 1)
    assert (result.cost_is_notional, result.cost_usd is not None) == (True, True)


def closed_again(client: Client, gate_id: str, before: object) -> bool:
    notice = closed_gates(client.shared / "gates").get(gate_id)
    return notice is not None and notice.closed_at != before


async def parked(*workers: Worker) -> None:
    for worker in workers:
        await until(lambda worker=worker: worker.dispatcher.parked() is not None, 60, "the closed gate")
        await until(lambda worker=worker: not worker.runner.running, 60, "nothing runs")


@pytest.mark.parametrize(("credential", "notional"), [(SUBSCRIPTION, True), ({}, False)], ids=["login", "key"])
async def test_a_result_says_whether_anybody_is_billed_for_it(
    api: MessagesApi, settings_of: Settings, client: Client, credential: dict[str, str], notional: bool
) -> None:
    api.when("hello", reply("hi"))
    async with open_worker(settings_of(**credential)) as worker:
        client.submit("t1", "hello")
        await until(client.has_result("t1"), 60)
        assert worker.pulse.heartbeat().cost_is_notional is notional
        await until(lambda: worker.metrics.registry.get_sample_value(*COST) not in (None, 0.0))
        told = worker.metrics.registry.get_sample_value(*NOTIONAL)
        assert (told != 0.0) is notional
    result = client.result("t1")
    assert (result.cost_is_notional, result.cost_usd is not None, bool(result.model)) == (notional, True, True)


COST = ("codehornets_agent_cost_usd_total", {"worker": "marie"})
NOTIONAL = ("codehornets_agent_notional_cost_usd_total", {"worker": "marie"})
