from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.messages import TaskStatus, WorkerStatus
from tests.integration.harness import ChildWorker, ObedientAgent, Shop, child_worker, fetch, quick_settings
from tests.mounts import SmallDisk
from tests.waiting import async_wait_until, wait_until
from worker_service.service import open_worker


async def test_a_running_task_ends_within_the_grace_and_no_new_one_begins(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, MAX_CONCURRENT="1"), agent) as worker:
        shop.submit("running", "hold")
        await async_wait_until(lambda: agent.started == ["running"])
        shop.submit("waiting", "hold")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.drain, 10.0)
            await async_wait_until(lambda: worker.pulse.status is WorkerStatus.DRAINING)
            status, text = await fetch(worker.http_port, "/readyz")
            assert (status, "draining" in text) == (503, True)
            assert (await fetch(worker.http_port, "/healthz"))[0] == 200
            agent.let_go()
    assert shop.result_ids() == {"running"}
    assert (shop.layout.triggers / "task-waiting.trigger").exists()


async def test_beyond_the_grace_it_is_released_and_no_attempt_is_spent(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    for _ in range(4):
        async with open_worker(quick_settings(shared, SHUTDOWN_GRACE="0.05", MAX_ATTEMPTS="1"), agent):
            started = len(agent.started)
            if not started:
                shop.submit("7", "hold")
            await async_wait_until(lambda before=started: len(agent.started) > before)  # type: ignore[misc]
    agent.let_go()
    async with open_worker(quick_settings(shared, MAX_ATTEMPTS="1"), agent):
        result = await shop.async_result("7")
    assert (result.status, result.attempts, len(agent.started)) == (TaskStatus.COMPLETED, 1, 5)
    assert shop.litter() == []


async def test_an_agent_that_does_not_end_is_waited_for_once(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_service.dispatcher._AGENT_END_S", 0.3)

    enough = anyio.Event()

    class Deaf(ObedientAgent):
        async def _obey(self, run: object, verb: str, rest: str = "") -> None:
            with anyio.CancelScope(shield=True):
                await enough.wait()

    agent = Deaf()
    async with open_worker(quick_settings(shared, SHUTDOWN_GRACE="1"), agent) as worker:
        shop.submit("7")
        await async_wait_until(lambda: agent.started == ["7"])
        try:
            await worker.drain(0.0)
            with anyio.fail_after(20):
                await worker.drain(120.0)
        finally:
            enough.set()


async def test_a_second_drain_may_shorten_the_first(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared), agent) as worker:
        shop.submit("7", "hold")
        await async_wait_until(lambda: agent.started == ["7"])
        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.drain, 60.0)
                await anyio.wait_all_tasks_blocked()
                await worker.drain(0.0)


async def test_a_replica_that_leaves_does_not_tell_of_its_end_over_another_ones_heartbeat(
    shared: Path, shop: Shop
) -> None:
    path = shop.layout.heartbeat("marie")
    async with open_worker(quick_settings(shared)) as staying:
        async with open_worker(quick_settings(shared)):
            staying.pulse.beat()
        beat = read_heartbeat(path)
        assert beat is not None
        assert (beat.instance, beat.status) == (staying.settings.instance, WorkerStatus.IDLE)
    beat = read_heartbeat(path)
    assert beat is not None
    assert beat.status is WorkerStatus.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_leaves_cleanly(shared: Path, shop: Shop, number: signal.Signals) -> None:
    with child_worker(shared) as worker:
        worker.port()
        worker.send(number)
        assert worker.wait() == 0
        beat = worker.heartbeat()
        assert beat is not None
        assert beat.status is WorkerStatus.STOPPED
    assert not list(shop.layout.inflight.iterdir())
    assert shop.litter() == []


SLOW_WORKER = """
import os, sys, anyio
from agent_bus.messages import TaskStatus
import worker_service.service as service
from tests.integration.harness import ObedientAgent
from worker_service.run import main
service.make_agent = lambda settings: ObedientAgent()
sys.argv = ["worker_service", "marie"]
sys.exit(main())
"""


class ObedientChild(ChildWorker):
    """A child whose agent does what the task says."""

    program = ("-c", SLOW_WORKER)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_task_end(shared: Path, shop: Shop, number: signal.Signals) -> None:
    with child_worker(shared, ObedientChild) as worker:
        worker.port()
        shop.submit("7", "sleep 1")
        wait_until(shop.claims)
        worker.send(number)
        assert worker.wait() == 0
    result = shop.result("7")
    assert result is not None
    assert result.status is TaskStatus.COMPLETED


def test_a_second_signal_ends_the_grace(shared: Path, shop: Shop) -> None:
    with child_worker(shared, ObedientChild, SHUTDOWN_GRACE="60") as worker:
        worker.port()
        shop.submit("7", "sleep 60")
        wait_until(shop.claims)
        worker.send(signal.SIGTERM)
        wait_until(lambda: (beat := worker.heartbeat()) and beat.status is WorkerStatus.DRAINING)
        worker.send(signal.SIGTERM)
        assert worker.wait(10) == 0
    assert [path.name.split("~")[0] for path in shop.layout.released.iterdir()] == ["0"]


def test_a_killed_workers_task_is_taken_over_at_the_next_start(shared: Path, shop: Shop) -> None:
    with child_worker(shared, ObedientChild) as worker:
        worker.port()
        shop.submit("7", "sleep 2")
        wait_until(shop.claims)
        worker.kill()
    with child_worker(shared) as worker:
        result = wait_until(lambda: shop.result("7"), 20)
        assert (result.status, result.attempts) == (TaskStatus.COMPLETED, 2)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert shop.litter() == []


async def test_a_living_replica_takes_over_from_a_killed_one(shared: Path, shop: Shop) -> None:
    with child_worker(shared, ObedientChild) as doomed:
        doomed.port()
        shop.submit("7", "sleep 60")
        await async_wait_until(shop.claims)
        agent = ObedientAgent()
        agent.let_go()
        async with open_worker(quick_settings(shared, RESCAN_INTERVAL="0.3", AGENT="echo")):
            shop.submit("8")
            await shop.async_result("8")
            assert shop.result("7") is None
            doomed.kill()
            assert (await shop.async_result("7")).attempts == 2


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"WORKER_NAME": "../x"}, "WORKER_NAME is '../x'"),
        ({"TASK_TIMEOUT": "soon"}, "TASK_TIMEOUT is 'soon'"),
        ({"HTTP_HOST": "no such host"}, "HTTP_HOST 'no such host'"),
        ({"SHARED_DIR": "/proc/nothing"}, "/proc/nothing"),
        ({"SHARED_DIR": "/dev/null"}, "/dev/null"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    base = {"PATH": os.environ["PATH"], "SHARED_DIR": str(tmp_path), "AGENT": "echo", "HTTP_PORT": "0"}
    name = environ.pop("WORKER_NAME", "marie")
    done = subprocess.run(
        [sys.executable, "-m", "worker_service", name],
        env={**base, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_port_in_use_is_one_sentence_and_exit_code_2(shared: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        child_worker(shared, HTTP_PORT=str(taken.getsockname()[1])) as worker,
    ):
        assert worker.wait() == 2
        said = worker.output()
    assert "HTTP_PORT" in said
    assert "Address already in use" in said
    assert len(said.strip().splitlines()) == 1, said


@pytest.mark.parametrize("arguments", [["a", "b"], ["--nonsense"]])
def test_wrong_arguments_are_told(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "worker_service", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith("usage:")) == (2, True)


async def test_a_result_waits_for_room_on_a_full_disk(
    shared: Path, shop: Shop, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    disk = small_disk(shop.layout.results, 262_144)
    disk.fill()
    async with open_worker(quick_settings(shared, SYNC_RESULTS="1")) as worker:
        shop.submit("7", "x" * 20_000)

        def told() -> bool:
            return "No space left" in (worker.dispatcher.trouble() or "")

        await async_wait_until(told)
        status, text = await fetch(worker.http_port, "/readyz")
        assert status == 503
        assert "task 7" in text
        assert "No space left" in text
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        assert len(shop.claims()) == 1
        shop.submit("8")
        disk.make_room()
        assert (await shop.async_result("7")).output == "x" * 20_000
        await shop.async_result("8")
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200
    assert shop.litter() == []


async def test_a_disk_that_is_full_for_everything(shared: Path, small_disk: Callable[[Path, int], SmallDisk]) -> None:
    disk = small_disk(shared, 1_048_576)
    shop = Shop(quick_settings(shared).layout)
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, RESCAN_INTERVAL="0.2"), agent) as worker:
        shop.submit("held", "hold")
        shop.submit("given-up", "remember talk", max_attempts=1)
        shop.submit("bad", "hold", timeout=-1)
        await shop.async_result("bad")
        await async_wait_until(lambda: len(agent.started) == 2)
        shop.drop("task-empty.trigger", b"")
        shop.drop("event.trigger", b"x")
        disk.fill()
        agent.let_go()
        with suppress(OSError):
            (shop.layout.triggers / "task-late.trigger").touch()
        await async_wait_until(lambda: "No space left" in (worker.dispatcher.trouble() or ""))
        worker.pulse.beat()
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        disk.make_room()
        assert (await shop.async_result("held")).output == "hold"
        assert (await shop.async_result("given-up")).attempts == 1
        await shop.async_result("empty")
        shop.submit("after")
        await shop.async_result("after")
        assert worker.dispatcher.trouble() is None


async def test_a_shared_directory_deleted_under_a_running_worker(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    settings = quick_settings(shared, RESCAN_INTERVAL="0.3", PROBE_INTERVAL="0.3")
    async with open_worker(settings, agent) as worker:
        shop.submit("7", "hold")
        shop.submit("8", "remember x")
        await async_wait_until(lambda: len(agent.started) == 2)
        shutil.rmtree(shared)
        await async_wait_until(shop.layout.triggers.is_dir)
        shop.submit("after")
        await shop.async_result("after")
        agent.let_go("7")
        assert (await shop.async_result("7")).status is TaskStatus.COMPLETED
        shop.submit("more")
        await shop.async_result("more")
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        await worker.drain(0.0)


async def test_the_task_of_a_session_that_a_kill_met_goes_before_the_younger_ones(shared: Path, shop: Shop) -> None:
    with child_worker(shared, ObedientChild) as doomed:
        doomed.port()
        shop.submit("0", "hold", session="s", mtime=time.time() - 10)
        await async_wait_until(shop.claims)
        agent = ObedientAgent()
        agent.let_go()
        # No rescan comes to help: the session's lock tells of the dead.
        async with open_worker(quick_settings(shared, RESCAN_INTERVAL="100"), agent) as worker:
            shop.submit("1", "hold", session="s")
            await async_wait_until(lambda: worker.queue.depth() == 1)
            doomed.kill()
            assert (await shop.async_result("1")).attempts == 1
            assert (await shop.async_result("0")).attempts == 2
            assert agent.started == ["0", "1"]


@pytest.mark.parametrize("full", ["results", "everything"])
async def test_a_worker_stopped_on_a_full_disk_spends_no_attempt(
    shared: Path, small_disk: Callable[[Path, int], SmallDisk], full: str
) -> None:
    settings = quick_settings(shared, SHUTDOWN_GRACE="0.3", MAX_ATTEMPTS="1")
    disk = small_disk(settings.layout.results if full == "results" else shared, 1_048_576)
    shop = Shop(settings.layout)
    first, second = ObedientAgent(), ObedientAgent()
    second.let_go()
    async with open_worker(settings, first) as worker:
        shop.submit("7", "hold")
        await async_wait_until(lambda: first.started == ["7"])
        disk.fill()
        first.let_go()
        await async_wait_until(lambda: "No space left" in (worker.dispatcher.trouble() or ""))
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert [path.name.split("~")[0] for path in shop.layout.released.glob("*~*")] == ["0"]
    disk.make_room()
    async with open_worker(quick_settings(shared, MAX_ATTEMPTS="1"), second):
        result = await shop.async_result("7")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "hold", 1)
    # The result went back with its task where there was room for it.
    assert second.started == ([] if full == "results" else ["7"])
    assert (result.instance == settings.instance) == (full == "results")
    assert shop.litter() == []


async def test_what_killed_writers_left_is_removed_at_the_next_start(shared: Path, shop: Shop) -> None:
    layout = shop.layout
    folders = (layout.heartbeats, layout.dead_letters, layout.gates, layout.sessions, layout.released, layout.results)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (".old.tmp", ".young.tmp", "old.tmp.json"):
            (folder / name).touch()
            if "old" in name:
                os.utime(folder / name, (time.time() - 4000,) * 2)
    async with open_worker(quick_settings(shared)):
        for folder in folders:
            names = set(os.listdir(folder))
            assert ".old.tmp" not in names
            assert {".young.tmp", "old.tmp.json"} <= names
