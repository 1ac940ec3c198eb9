"""What happens when inotify cannot be trusted: nothing is lost, it is shown, and it is undone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from asyncinotify import Inotify

from agent_bus.messages import TaskStatus
from agent_bus.trigger_index import Source
from tests.integration.harness import ObedientAgent, Shop, child_worker, fetch, quick_settings
from tests.waiting import async_wait_until, wait_until
from worker_service.service import Worker, open_worker
from worker_service.wakeups import watcher as watcher_module
from worker_service.wakeups.inotify import open_watch
from worker_service.wakeups.watcher import Watcher

LIMITS = Path("/proc/sys/fs/inotify")


def fallbacks(worker: Worker, origin: str, to: str) -> float:
    labels = {"worker": "marie", "from": origin, "to": to}
    return worker.metrics.registry.get_sample_value("codehornets_fallbacks_total", labels) or 0.0


@pytest.fixture
def small_event_queue() -> Iterator[int]:
    """The kernel's event queue at its smallest."""
    limit = LIMITS / "max_queued_events"
    before = limit.read_text()
    try:
        limit.write_text("16")
    except OSError as error:
        pytest.skip(f"the event queue's size cannot be set here: {error.strerror}")
    yield 16
    limit.write_text(before)


@pytest.mark.alone
@pytest.mark.usefixtures("small_event_queue")
async def test_an_overflow_of_the_event_queue_loses_nothing(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        shop.submit("first")
        await shop.async_result("first")
        for number in range(500):
            shop.submit(str(number))
        await async_wait_until(lambda: len(shop.result_ids()) == 501)
        assert worker.files.watcher.fallback_reason is None


@pytest.mark.parametrize("way", ["removed", "moved away", "replaced", "parent moved away"])
async def test_a_watched_directory_that_goes_is_watched_anew(shared: Path, shop: Shop, way: str) -> None:
    triggers = shop.layout.triggers
    async with open_worker(quick_settings(shared, RESCAN_INTERVAL="0.3")) as worker:
        shop.submit("before")
        await shop.async_result("before")
        await async_wait_until(lambda: worker.probe_age_s() is not None)
        match way:
            case "removed":
                shutil.rmtree(triggers)
            case "moved away":
                triggers.rename(shared / "away")
            case "replaced":
                (shared / "new").mkdir()
                triggers.rename(shared / "away")
                (shared / "new").rename(triggers)
            case "parent moved away":
                triggers.parent.rename(shared / "away")
        await async_wait_until(triggers.is_dir)
        shop.submit("after")
        await shop.async_result("after")
        before = worker.bell.rings["inotify"]
        shop.submit("again")
        await shop.async_result("again")
        await async_wait_until(lambda: worker.bell.rings["inotify"] > before)
        assert worker.files.watcher.bells == ["inotify", "interval"]


async def test_a_directory_replaced_by_a_file_is_survived(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared, RESCAN_INTERVAL="0.2", POLL_INTERVAL="0.1")) as worker:
        shop.submit("before")
        await shop.async_result("before")
        shutil.rmtree(shop.layout.triggers)
        with suppress(FileExistsError, IsADirectoryError):
            shop.layout.triggers.touch(exist_ok=False)
        await async_wait_until(lambda: worker.bell.rings["interval"] > 4)
        if shop.layout.triggers.is_file():
            shop.layout.triggers.unlink()
        await async_wait_until(shop.layout.triggers.is_dir)
        shop.submit("after")
        await shop.async_result("after")


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try inotify again after a tenth of a second."""
    monkeypatch.setitem(Watcher.__init__.__kwdefaults__, "retry_s", 0.1)


@pytest.mark.alone
@pytest.mark.usefixtures("quick_retry")
async def test_without_instances_it_polls_and_returns_when_there_are_some(shared: Path, shop: Shop) -> None:
    hoard: list[Inotify] = []
    try:
        with suppress(OSError):
            while True:
                hoard.append(Inotify())
        async with open_worker(quick_settings(shared, POLL_INTERVAL="0.05")) as worker:
            await async_wait_until(lambda: worker.files.watcher.fallback_reason)
            assert worker.files.watcher.bells == ["interval"]
            shop.submit("7")
            await shop.async_result("7")
            status, text = await fetch(worker.http_port, "/readyz")
            assert status == 200
            assert "polling, since inotify cannot be used: all inotify instances are in use" in text
            assert fallbacks(worker, "inotify", "polling") == 1
            while hoard:
                hoard.pop().close()
            await async_wait_until(lambda: worker.files.watcher.fallback_reason is None)
            assert fallbacks(worker, "polling", "inotify") == 1
            assert "polling" not in (await fetch(worker.http_port, "/readyz"))[1]
            before = worker.bell.rings["inotify"]
            shop.submit("8")
            await shop.async_result("8")
            assert worker.bell.rings["inotify"] > before
    finally:
        for inotify in hoard:
            inotify.close()


class Deafness:
    """Keeps events from the watcher while it lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, probes_arrive: bool) -> None:
        self.lasts = True
        really = Watcher._on_file

        def on_file(watcher: Watcher, source: object, name: str) -> None:
            if not self.lasts or (probes_arrive and name.startswith(".probe-")):
                really(watcher, source, name)  # type: ignore[arg-type]

        monkeypatch.setattr(Watcher, "_on_file", on_file)


async def test_events_that_never_arrive_are_found_out_by_the_probe(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_service.probe._PATIENCE_S", 0.1)
    deafness = Deafness(monkeypatch, probes_arrive=False)
    async with open_worker(quick_settings(shared, POLL_INTERVAL="0.05", PROBE_INTERVAL="0.2")) as worker:
        reason = await async_wait_until(lambda: worker.files.watcher.fallback_reason)
        assert "do not arrive" in reason
        shop.submit("7")
        await shop.async_result("7")
        deafness.lasts = False
        await async_wait_until(lambda: worker.files.watcher.fallback_reason is None, what="an idle worker returns")
        assert fallbacks(worker, "inotify", "polling") == fallbacks(worker, "polling", "inotify") == 1


async def test_events_of_others_that_never_arrive_are_found_out_by_a_scan(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: what this machine writes is told, what others write is not."""
    monkeypatch.setattr(watcher_module, "_UNNAMED_AGE_S", 0.1)
    monkeypatch.setattr(watcher_module, "_EVENTS_MAY_LAG_S", 0.1)
    deafness = Deafness(monkeypatch, probes_arrive=True)
    settings = quick_settings(shared, POLL_INTERVAL="0.05", RESCAN_INTERVAL="0.4", PROBE_INTERVAL="0.2")
    async with open_worker(settings) as worker:
        for number in range(100):
            shop.submit(f"x{number}")
            await shop.async_result(f"x{number}")
            if worker.files.watcher.fallback_reason is not None:
                break
        assert "without inotify events" in str(worker.files.watcher.fallback_reason)
        before = worker.probe_age_s()
        assert before is not None
        await async_wait_until(lambda: (worker.probe_age_s() or 0.0) < 0.05)
        assert worker.files.watcher.fallback_reason is not None, "its own probe proves nothing"
        deafness.lasts = False
        for number in range(5):
            shop.submit(str(number))
            await shop.async_result(str(number))
        await async_wait_until(lambda: worker.files.watcher.fallback_reason is None)


def test_a_worker_that_was_held_up_does_not_blame_the_file_system(shared: Path, shop: Shop) -> None:
    with child_worker(shared, RESCAN_INTERVAL="1", PROBE_INTERVAL="0.5") as worker:
        port = worker.port()
        shop.submit("first")
        wait_until(lambda: shop.result("first"))
        worker.send(signal.SIGSTOP)
        for number in range(20):
            shop.submit(str(number))
        held_up_until = time.monotonic() + 3.5
        wait_until(lambda: time.monotonic() > held_up_until)
        worker.send(signal.SIGCONT)
        wait_until(lambda: len(shop.result_ids()) == 21)
        worker.send(signal.SIGTERM)
        worker.wait()
        assert port
        assert "polling every" not in worker.output()


async def test_polling_mode_asks_for_no_inotify_instance(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("inotify was opened")

    monkeypatch.setattr(watcher_module, "open_watch", refuse)
    async with open_worker(quick_settings(shared, WORKER_MODE="polling", POLL_INTERVAL="0.05")) as worker:
        shop.submit("7")
        assert (await shop.async_result("7")).status is TaskStatus.COMPLETED
        assert worker.files.watcher.bells == ["interval"]


async def test_the_loop_stays_free_while_a_backlog_is_looked_at(shared: Path, shop: Shop) -> None:
    for number in range(3000):
        shop.submit(str(number), "hold")
    agent = ObedientAgent()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with (
        open_worker(quick_settings(shared, SHUTDOWN_GRACE="0"), agent) as worker,
        anyio.create_task_group() as tasks,
    ):
        await async_wait_until(lambda: worker.queue.depth() > 0)
        read_before = worker.queue.depth() + len(agent.started)
        tasks.start_soon(count_turns)
        await async_wait_until(lambda: worker.queue.depth() + len(agent.started) == 3000)
        tasks.cancel_scope.cancel()
    # Others had the loop after each slice of the reading, and a slice is far less than this.
    assert turns >= (3000 - read_before) / 500
    assert read_before < 3000
    assert os.listdir(shop.layout.released)


async def test_a_burst_of_events_is_reported_to_the_last_one(tmp_path: Path) -> None:
    """The library reads ahead: events that wait in it no longer wake anybody."""
    names: list[str] = []
    watched = tmp_path / "triggers"
    with open_watch(
        {Source.TRIGGERS: watched}, on_file=lambda _, name: names.append(name), on_gap=lambda _: None
    ) as watch:
        # All before the loop has a turn, so that they come in one go.
        for number in range(500):
            (tmp_path / "staged").touch()
            (tmp_path / "staged").rename(watched / f"{number}.trigger")
        reader = asyncio.ensure_future(watch.run_forever())
        await async_wait_until(lambda: len(names) == 500, what="500 names")
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
