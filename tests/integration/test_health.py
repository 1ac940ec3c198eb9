"""The health endpoints can really fail, and say why."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_bus.errors import DeadLetterReason
from agent_bus.gates import Gate, GateNotice
from agent_bus.heartbeats import read_heartbeat
from agent_bus.messages import Heartbeat, TaskStatus, WorkerStatus, utc_now
from tests.integration.harness import ChildWorker, ObedientAgent, Shop, child_worker, fetch, fetch_now, quick_settings
from tests.waiting import async_wait_until, wait_until
from worker_service.agents.base import RateLimited, Run
from worker_service.service import Worker, open_worker
from worker_service.wakeups.interval import Interval


def failed_parts(text: str) -> list[str]:
    return [line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("FAIL")]


async def test_a_well_worker_says_so(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        for path in ("/healthz", "/readyz"):
            status, text = await fetch(worker.http_port, path)
            assert (status, failed_parts(text)) == (200, [])
        assert "10 slots free" in text
        assert (await fetch(worker.http_port, "/nonsense"))[0] == 404
        await async_wait_until(lambda: worker.probe_age_s() is not None)


async def test_a_claim_that_hangs_turns_healthz_red(shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_worker(quick_settings(shared, MAX_CONCURRENT="3")) as worker:
        really = worker.files.queue.claim
        hang = True

        async def claim() -> object:
            nonlocal hang
            if hang:
                hang = False
                await asyncio.get_running_loop().create_future()
            return await really()

        monkeypatch.setattr(worker.queue, "claim", claim)
        worker.health.stuck_after_s = 0.2
        worker.bell.ring("test")

        def other_slots_go_on() -> bool:
            worker.bell.ring("test")
            return worker.dispatcher.stuck_seconds() > 0.2

        await async_wait_until(other_slots_go_on)
        status, text = await fetch(worker.http_port, "/healthz")
        assert (status, failed_parts(text)) == (503, ["dispatcher"])


async def test_a_dispatcher_that_does_not_listen_turns_healthz_red(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        worker.health.stuck_after_s = 0.2

        async def deaf() -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(worker.bell, "heard", deaf)
        worker.bell.ring("test")
        worker.bell.ring("test")

        def rung() -> bool:
            worker.bell.ring("test")
            return worker.dispatcher.stuck_seconds() > 0.2

        await async_wait_until(rung)
        status, text = await fetch(worker.http_port, "/healthz")
        assert (status, failed_parts(text)) == (503, ["dispatcher"])


async def test_a_busy_bell_is_no_stuck_dispatcher(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        for _ in range(5):
            worker.bell.ring("test")
            assert worker.dispatcher.stuck_seconds() < 0.1
            until = time.monotonic() + 0.15
            await async_wait_until(lambda end=until: time.monotonic() > end)  # type: ignore[misc]


async def test_a_watcher_that_ended_turns_healthz_red(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(interval: Interval) -> None:
        return None

    monkeypatch.setattr(Interval, "run_forever", end)
    async with open_worker(quick_settings(shared, WORKER_MODE="polling")) as worker:
        await async_wait_until(lambda: not worker.files.watcher.is_alive)
        status, text = await fetch(worker.http_port, "/healthz")
        assert (status, failed_parts(text)) == (503, ["watcher"])


async def test_a_probe_that_does_not_come_back_turns_healthz_red(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_service.probe._PATIENCE_S", 0.1)
    async with open_worker(quick_settings(shared, PROBE_INTERVAL="0.1", POLL_INTERVAL="0.05")) as worker:
        await async_wait_until(lambda: worker.probe_age_s() is not None)
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        worker.files.queue.intake.probe = None
        await async_wait_until(lambda: worker.files.watcher.polls and worker.files.prober.overdue_s > 0)
        status, text = await fetch(worker.http_port, "/healthz")
        assert (status, "probe" in failed_parts(text)) == (503, True)
        assert "overdue" in text


BLOCKING = """
import sys, time
import worker_service.service as service
from worker_service.agents.echo import EchoAgent
from worker_service.run import main

class Blocker(EchoAgent):
    async def run(self, run):
        time.sleep(float(run.task.description))

service.make_agent = lambda settings: Blocker()
sys.argv = ["worker_service", "marie"]
sys.exit(main())
"""


def gives_no_answer(port: int) -> bool:
    try:
        fetch_now(port, "/healthz", 1.0)
    except TimeoutError:
        return True
    return False


def test_a_stopped_process_gives_no_answer(shared: Path, shop: Shop) -> None:
    with child_worker(shared) as worker:
        port = worker.port()
        assert fetch_now(port, "/healthz")[0] == 200
        worker.send(signal.SIGSTOP)
        assert gives_no_answer(port)
        worker.send(signal.SIGCONT)
        wait_until(lambda: not gives_no_answer(port))


def test_a_blocked_loop_gives_no_answer(shared: Path, shop: Shop) -> None:
    class Blocked(ChildWorker):
        program = ("-c", BLOCKING)

    with child_worker(shared, Blocked) as worker:
        port = worker.port()
        shop.submit("7", "5")
        wait_until(shop.claims)
        assert gives_no_answer(port)


class Limited(ObedientAgent):
    """Meets a limit with its first run."""

    async def run(self, run: Run) -> None:
        if not self.started:
            self.started.append(run.task.task_id)
            raise RateLimited("five_hour", utc_now() + timedelta(seconds=1), "the limit is met")
        await super().run(run)


async def test_a_limit_parks_every_worker_that_shares_the_gate(shared: Path, shop: Shop) -> None:
    agents = Limited(), ObedientAgent()
    async with (
        open_worker(quick_settings(shared), agents[0]) as first,
        open_worker(quick_settings(shared), agents[1]) as second,
    ):
        for worker in (first, second):
            worker.runner.gate = Gate(shop.layout.gates, "key")
        shop.submit("7")
        await async_wait_until(lambda: shop.layout.gates.is_dir() or agents[1].started)
        if not agents[1].started:
            for worker in (first, second):
                assert worker.pulse.status is WorkerStatus.PAUSED
                status, text = await fetch(worker.http_port, "/readyz")
                assert (status, "the limit is met" in text) == (503, True)
                assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        result = await shop.async_result("7")
        assert result.attempts == 1


async def test_a_gate_that_another_worker_closed_opens_by_itself(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        gate = worker.runner.gate = Gate(shop.layout.gates, "key")
        until = utc_now() + timedelta(seconds=0.5)
        gate.close_until(GateNotice(kind="five_hour", until=until, message="m", worker="anga"))
        shop.submit("7")
        result = await shop.async_result("7", 5)
        assert result.started_at is not None
        assert result.started_at >= until


async def test_metrics_can_be_read_and_count(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared), ObedientAgent()) as worker:
        for task_id in ("1", "2"):
            shop.submit(task_id)
            await shop.async_result(task_id)
        shop.submit("3", "fail")
        await shop.async_result("3")
        shop.drop("bad.trigger", b"{")
        await shop.async_letter("bad.trigger")
        shop.submit("4", "hold")
        await async_wait_until(lambda: worker.dispatcher.current_tasks == ["4"])
        await async_wait_until(lambda: worker.probe_age_s() is not None)
        status, text = await fetch(worker.http_port, "/metrics")
        assert status == 200
        await worker.drain(0.0)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["codehornets_tasks_total", "completed", "marie"] == 2
    assert samples["codehornets_tasks_total", "failed", "marie"] == 1
    assert samples["codehornets_dead_letters_total", "malformed", "marie"] == 1
    assert samples["codehornets_tasks_in_flight", "marie"] == 1
    assert samples["codehornets_task_duration_seconds_count", "marie"] == 3
    assert samples["codehornets_task_queue_seconds_count", "marie"] == 4
    assert samples["codehornets_wakeups_total", "inotify", "marie"] > 0
    assert samples["codehornets_heartbeat_timestamp_seconds", "marie"] > time.time() - 60
    assert samples["codehornets_probe_age_seconds", "marie"] >= 0
    assert "process_cpu_seconds" in families
    for name, family in families.items():
        assert family.documentation, name
        if name.startswith("codehornets_"):
            assert all(sample.labels.get("worker") == "marie" for sample in family.samples)


async def samples_of(worker: Worker) -> dict[tuple[str, ...], float]:
    """Return what /metrics says, by name and the values of the labels beside the worker's."""
    _, text = await fetch(worker.http_port, "/metrics")
    return {
        (sample.name, *sorted(value for label, value in sample.labels.items() if label != "worker")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_what_has_not_happened_yet_is_counted_as_zero(shared: Path) -> None:
    async with open_worker(quick_settings(shared, WORKER_MODE="hooks")) as worker:
        samples = await samples_of(worker)
    assert {reason: samples["codehornets_dead_letters_total", reason] for reason in DeadLetterReason} == dict.fromkeys(
        DeadLetterReason, 0
    )
    assert samples["codehornets_tasks_total", "failed"] == 0
    assert samples["codehornets_pipe_drops_total", "slow_reader"] == 0
    assert not [sample for sample in samples if sample[0] == "codehornets_redis_connected"], "there is no Redis"


async def test_metrics_tell_what_readyz_says_and_for_how_long_a_limit_holds(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        well = await samples_of(worker)
        gate = worker.runner.gate = Gate(shop.layout.gates, "key")
        until = utc_now() + timedelta(hours=1)
        gate.close_until(GateNotice(kind="five_hour", until=until, message="m", worker="anga"))
        parked = await samples_of(worker)
    assert (well["codehornets_ready",], well["codehornets_parked_seconds",]) == (1, 0)
    assert well["codehornets_part_well", "queue"] == 1
    assert (parked["codehornets_ready",], parked["codehornets_part_well", "queue"]) == (0, 0)
    assert parked["codehornets_part_well", "loop"] == 1
    assert 3000 < parked["codehornets_parked_seconds",] <= 3600


async def test_the_cpu_time_of_agents_is_told(shared: Path, shop: Shop, tmp_path: Path) -> None:
    burning = f"{sys.executable} -S -c 'import time\nwhile time.process_time() < 0.3: pass'"
    settings = quick_settings(shared, AGENT="command", AGENT_COMMAND=burning, WORKSPACE=str(tmp_path))
    async with open_worker(settings) as worker:
        before = await samples_of(worker)
        shop.submit("1")
        assert (await shop.async_result("1")).status is TaskStatus.COMPLETED
        after = await samples_of(worker)
    assert after["codehornets_agent_cpu_seconds_total",] - before["codehornets_agent_cpu_seconds_total",] >= 0.3
    assert 0 < after["codehornets_cpus",] <= len(os.sched_getaffinity(0))


async def test_the_heartbeat_tells_what_the_worker_does(shared: Path, shop: Shop) -> None:
    path = shop.layout.heartbeat("marie")

    def beat() -> Heartbeat:
        found = read_heartbeat(path)
        assert found is not None
        return found

    agent = ObedientAgent()
    settings = quick_settings(shared, HEARTBEAT_INTERVAL="0.1", MAX_CONCURRENT="1")
    async with open_worker(settings, agent) as worker:
        first = beat()
        assert (first.status, first.worker, first.mode) == (WorkerStatus.IDLE, "marie", "event-driven")
        assert (first.http_port, first.slots, first.agent) == (worker.http_port, 1, "obedient")
        assert (first.instance, first.interval_seconds) == (settings.instance, 0.1)
        shop.submit("7", "hold")
        shop.submit("8", "hold")
        await async_wait_until(lambda: beat().status is WorkerStatus.BUSY and beat().queue_size == 1)
        assert len(beat().current_tasks) == 1
        await async_wait_until(lambda: beat().probe_age_seconds is not None)
        before = beat().timestamp
        await async_wait_until(lambda: beat().timestamp > before)
        agent.let_go()
        await async_wait_until(lambda: beat().status is WorkerStatus.IDLE)
    assert beat().status is WorkerStatus.STOPPED
