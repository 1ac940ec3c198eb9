from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from agent_bus import cancel_requests, file_queue
from agent_bus.dead_letters import DeadLetter
from agent_bus.errors import QueueUnavailable
from agent_bus.file_queue import FileQueue
from agent_bus.intake import IntakeSettings
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, TaskStatus, utc_now
from agent_bus.queue import Claim, TriggerEvent
from agent_bus.trigger_index import Source
from tests.integration.harness import ObedientAgent, Shop, quick_settings
from tests.mounts import SmallDisk
from tests.waiting import async_wait_until
from worker_service.service import open_worker


class Nobody:
    """Wants to know nothing."""

    def ready(self) -> None:
        return None

    def trigger_event(self, event: TriggerEvent) -> None:
        return None

    def buried(self, letter: DeadLetter) -> None:
        return None

    def cancel_requested(self, task_id: str) -> None:
        return None


@pytest.fixture
def open_queue(layout: WorkerLayout) -> Callable[[str], FileQueue]:
    """Makes replicas of one queue that look only where they are told to."""

    def make(instance: str) -> FileQueue:
        return FileQueue(
            layout,
            worker="marie",
            instance=instance,
            intake=IntakeSettings(),
            sync_results=False,
            observer=Nobody(),
        )

    return make


def see(shop: Shop, *queues: FileQueue) -> None:
    """Tell the replicas of every trigger."""
    for queue in queues:
        for path in sorted(shop.layout.triggers.iterdir()):
            queue.intake.notice(Source.TRIGGERS, path.name)


def answer(claim: Claim) -> Result:
    now = utc_now()
    return Result(
        task_id=claim.task.task_id,
        worker="marie",
        instance="i",
        status=TaskStatus.COMPLETED,
        completed_at=now,
        timestamp=now,
    )


async def test_a_younger_task_of_a_session_does_not_overtake_at_a_second_replica(
    shop: Shop, open_queue: Callable[[str], FileQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_queue, "_BUSY_SESSION_RETRY_S", 0.05)
    first, second = open_queue("a"), open_queue("b")
    for number in range(3):
        shop.submit(str(number), session="s", mtime=1_000_000 + number)
    see(shop, first, second)
    running = await first.claim()
    assert running is not None
    assert running.task.task_id == "0"
    assert await second.claim() is None
    await first.complete(running, answer(running))
    second.intake.notice(Source.TRIGGERS, shop.submit("3", session="s", mtime=1_000_003).name)
    got: list[str] = []
    with anyio.move_on_after(5):
        while len(got) < 3:
            claim = await second.claim()
            if claim is None:
                await anyio.sleep(0.005)
                continue
            got.append(claim.task.task_id)
            await second.complete(claim, answer(claim))
    assert got == ["1", "2", "3"]
    first.close()
    second.close()


async def test_a_claim_belongs_to_one_replica(shop: Shop, open_queue: Callable[[str], FileQueue]) -> None:
    first, second = open_queue("a"), open_queue("b")
    shop.submit("7")
    see(shop, first, second)
    claims = [await first.claim(), await second.claim()]
    assert [claim is not None for claim in claims] == [True, False]
    first.close()
    assert second.reclaim() == 0, "it was given back, not left behind"
    assert [path.name.split("~")[0] for path in shop.layout.released.iterdir()] == ["1"]
    second.close()


async def test_the_first_result_stays(shop: Shop, open_queue: Callable[[str], FileQueue]) -> None:
    queue = open_queue("a")
    shop.submit("7")
    see(shop, queue)
    claim = await queue.claim()
    assert claim is not None
    shop.layout.result("7").write_bytes(b"first")
    assert await queue.complete(claim, answer(claim)) is False
    assert shop.layout.result("7").read_bytes() == b"first"
    assert shop.claims() == []
    queue.close()


async def test_a_claim_whose_result_is_there_already_is_acknowledged(
    shop: Shop, open_queue: Callable[[str], FileQueue]
) -> None:
    """The owner died between writing the result and letting go."""
    dead = shop.layout.inflight / "dead-1-x"
    dead.mkdir(parents=True)
    shop.submit("7").rename(dead / "1~uid~task-7.trigger")
    (dead / "uid.note").write_text("{}")
    (dead / ".uid.result").write_text("half a resu")
    shop.layout.result("7").write_bytes(b"whole")
    queue = open_queue("a")
    assert queue.reclaim() == 1
    assert await queue.claim() is None
    queue.close()
    assert shop.litter() == []
    assert shop.letters() == []


async def test_reclaiming_goes_on_past_what_it_cannot_move(shop: Shop, open_queue: Callable[[str], FileQueue]) -> None:
    dead = shop.layout.inflight / "dead-1-x"
    (dead / "no file").mkdir(parents=True)
    (dead / "2~uid~task-7.trigger").write_text('{"description": "x"}')
    queue = open_queue("a")
    assert queue.reclaim() == 1
    claim = await queue.claim()
    assert claim is not None
    assert claim.attempt == 3
    queue.close()


def test_a_directory_that_cannot_be_used_is_told_with_its_mend(
    shared: Path, open_queue: Callable[[str], FileQueue]
) -> None:
    (shared / "tasks").write_text("in the way")
    with pytest.raises(QueueUnavailable, match=r"tasks/marie.*mend the owner or mode"):
        open_queue("a")


@pytest.mark.parametrize("elsewhere", ["triggers", "results"])
async def test_directories_on_different_mounts(
    layout: WorkerLayout, small_disk: Callable[[Path, int], SmallDisk], elsewhere: str
) -> None:
    small_disk(getattr(layout, elsewhere), 1_048_576)
    shop = Shop(layout)
    agent = ObedientAgent()
    async with open_worker(quick_settings(layout.tasks.parents[1], SYNC_RESULTS="1"), agent):
        for number in range(50):
            shop.submit(str(number), mtime=1_000_000)
        shop.drop("bad.trigger", b'{"description": 1}')
        shop.layout.triggers.joinpath("folder.trigger").mkdir()
        shop.drop("event.trigger", b"x")
        await async_wait_until(lambda: len(shop.result_ids()) == 50 and len(shop.letters()) == 2)
        result = shop.result("7")
        assert result is not None
        assert result.queued_at is not None
        assert result.queued_at.timestamp() == 1_000_000
    assert [path for path in shop.litter() if "dead-letter" not in path] == []


async def test_a_half_moved_file_of_a_dead_mover_is_brought_back(
    layout: WorkerLayout, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    small_disk(layout.triggers, 1_048_576)
    shop = Shop(layout)
    shop.submit("7").rename(layout.triggers / ".moving-dead-1-x~task-7.trigger")
    async with open_worker(quick_settings(layout.tasks.parents[1])):
        await shop.async_result("7")
    assert shop.litter() == []


@pytest.mark.parametrize("arrived", ["claim", "dead letter", "half"])
async def test_a_move_that_was_cut_short_answers_its_task_once(
    layout: WorkerLayout, small_disk: Callable[[Path, int], SmallDisk], arrived: str
) -> None:
    """The mover was killed between the copy and the removal of what it had copied."""
    small_disk(layout.triggers, 1_048_576)
    shop = Shop(layout)
    marked = shop.submit("7", mtime=1_000_000).rename(layout.triggers / ".moving-dead-1-x~task-7.trigger")
    dead = layout.inflight / "dead-1-x"
    dead.mkdir(parents=True)
    layout.dead_letters.mkdir()
    places = {
        "claim": dead / "1~uid~task-7.trigger",
        "dead letter": layout.dead_letters / "task-7.trigger",
        "half": dead / ".1~uid~task-7.trigger.tmp",
    }
    shutil.copyfile(marked, places[arrived])
    os.utime(places[arrived], (1_000_000, 1_000_000))
    agent = ObedientAgent()
    async with open_worker(quick_settings(layout.tasks.parents[1]), agent):
        assert not marked.exists()
        shop.submit("last", priority="low")
        await shop.async_result("last")
    assert agent.started == (["last"] if arrived == "dead letter" else ["7", "last"])
    assert shop.letters() == []


async def test_cancel_markers_of_others_tasks_are_not_kept_for_ever(
    shop: Shop, open_queue: Callable[[str], FileQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel_requests, "_MOST_KEPT", 3)
    queue = open_queue("a")
    shop.submit("running")
    see(shop, queue)
    assert await queue.claim() is not None
    queue.cancel("running")
    for number in range(10):
        queue.cancel(str(number))
    assert len(queue._cancels._ids) == 3
    for task_id in ("9", "5"):
        shop.submit(task_id)
    see(shop, queue)
    claims = [await queue.claim(), await queue.claim()]
    assert {claim.task.task_id: claim.cancelled for claim in claims if claim is not None} == {"9": True, "5": False}
    queue.close()
