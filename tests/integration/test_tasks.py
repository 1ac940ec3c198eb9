from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agent_bus.errors import DeadLetterReason
from agent_bus.events import read_events
from agent_bus.messages import TaskStatus
from tests.integration.harness import ObedientAgent, Shop, child_worker, quick_settings
from tests.waiting import async_wait_until, wait_until
from worker_service.service import open_worker

MODES = [
    {"WORKER_MODE": "event-driven"},
    {"WORKER_MODE": "polling", "POLL_INTERVAL": "0.05", "MAX_CONCURRENT": "10"},
]


@pytest.fixture(params=MODES, ids=lambda mode: mode["WORKER_MODE"])
def mode(request: pytest.FixtureRequest) -> dict[str, str]:
    """Both ways of being woken."""
    return dict(request.param)


async def test_every_way_of_handing_a_task_in(shared: Path, shop: Shop, mode: dict[str, str]) -> None:
    body = json.dumps({"description": "hi"})
    # Long enough for the trigger that is before its task file, however slow the machine.
    async with open_worker(quick_settings(shared, SETTLE_TIME="3", **mode)):
        shop.submit("renamed")
        (shop.layout.triggers / "task-written.trigger").write_text(body)
        (shared / "elsewhere").write_text(body)
        os.link(shared / "elsewhere", shop.layout.triggers / "task-linked.trigger")
        (shop.layout.tasks / "bare.json").write_text(body)
        shop.task_file("first")
        (shop.layout.triggers / "task-first.trigger").touch()
        (shop.layout.triggers / "task-second.trigger").touch()
        for task_id in ("renamed", "written", "linked", "bare", "first"):
            assert (await shop.async_result(task_id)).status is TaskStatus.COMPLETED
        shop.task_file("second")
        assert (await shop.async_result("second")).output == "x"
        await async_wait_until(lambda: not list(shop.layout.triggers.glob("*.trigger")))
    assert shop.litter() == []
    assert len(shop.result_ids()) == 6


async def test_what_waited_while_no_worker_was_there(shared: Path, shop: Shop, mode: dict[str, str]) -> None:
    for number in range(300):
        shop.submit(str(number))
    async with open_worker(quick_settings(shared, **mode)):
        await async_wait_until(lambda: len(shop.result_ids()) == 300)
    assert shop.litter() == []


async def test_a_slow_writer_is_given_time(shared: Path, shop: Shop, mode: dict[str, str]) -> None:
    async with open_worker(quick_settings(shared, SETTLE_TIME="0.5", **mode)):
        with (shop.layout.triggers / "task-7.trigger").open("w") as file:
            for part in ('{"descr', 'iption": "slow', "ly", '"}'):
                file.write(part)
                file.flush()
                before = time.monotonic()
                await async_wait_until(lambda since=before: time.monotonic() - since > 0.25)  # type: ignore[misc]
        assert (await shop.async_result("7")).output == "slowly"
    assert shop.letters() == []


async def test_the_result_says_all(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared), ObedientAgent()) as worker:
        shop.submit("7", "hello", metadata={"a": 1})
        result = await shop.async_result("7")
        assert (result.worker, result.instance) == ("marie", worker.settings.instance)
        assert (result.output, result.stdout, result.exit_code, result.attempts) == ("hello", "hello", 0, 1)
        assert result.queued_at is not None
        assert result.started_at is not None
        assert result.queued_at <= result.started_at <= result.completed_at == result.timestamp
    assert [event.event for event in read_events(shop.layout.event_journal("7"))] == ["prompt"]


async def test_a_failing_agent_fails_its_task_alone(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared), ObedientAgent()):
        shop.submit("bad", "fail badly")
        shop.submit("good", "fine")
        bad = await shop.async_result("bad")
        assert bad.status is TaskStatus.FAILED
        assert bad.error is not None
        assert "badly" in bad.error.message
        assert bad.exit_code == 1
        assert (await shop.async_result("good")).status is TaskStatus.COMPLETED


async def test_output_that_is_no_text_is_stored_all_the_same(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared), ObedientAgent()):
        shop.submit("7", "surrogates")
        assert (await shop.async_result("7")).status is TaskStatus.COMPLETED


async def test_event_triggers_are_published_and_removed(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)) as worker:
        shop.drop("deploy.trigger", b"done")
        shop.drop("json.trigger", b'{"kind": "deploy"}')
        (shop.layout.triggers / "empty.trigger").touch()
        await async_wait_until(lambda: not list(shop.layout.triggers.glob("*.trigger")))
        worker.refresh_metrics()
        assert worker.metrics.registry.get_sample_value("codehornets_trigger_events_total", {"worker": "marie"}) == 3
    assert (shop.letters(), shop.litter()) == ([], [])


async def test_other_files_are_left_alone(shared: Path, shop: Shop, mode: dict[str, str]) -> None:
    names = ("readme.txt", ".hidden.trigger", "x.trigger.tmp", "x.json")
    for name in names:
        shop.drop(name, b'{"description": "x"}')
    (shop.layout.tasks / "notes.txt").write_text("x")
    async with open_worker(quick_settings(shared, **mode)):
        shop.submit("7")
        await shop.async_result("7")
    assert all((shop.layout.triggers / name).exists() for name in names)
    assert (shop.layout.tasks / "notes.txt").exists()
    assert shop.result_ids() == {"7"}


async def test_priority_then_age_decides(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, MAX_CONCURRENT="1"), agent) as worker:
        shop.submit("holder", "hold")
        await async_wait_until(lambda: agent.started == ["holder"])
        now = time.time()
        shop.submit("low", priority="low", mtime=now - 100)
        shop.submit("young", mtime=now - 10)
        shop.submit("old", mtime=now - 50)
        shop.submit("urgent", priority="urgent", mtime=now)
        shop.submit("hundred and one", priority=101, mtime=now)
        shop.submit("101", priority=101, mtime=now)
        shop.submit("last", priority=-5)
        await async_wait_until(lambda: worker.queue.depth() == 7)
        agent.let_go()
        await shop.async_result("last")
    wanted = ["holder", "101", "urgent", "old", "young", "low", "last"]
    assert [task_id for task_id in agent.started if not task_id.startswith("task-hundred")] == wanted


async def test_no_more_run_at_once_than_there_are_slots(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, MAX_CONCURRENT="3"), agent):
        for number in range(10):
            shop.submit(str(number), "hold")
        await async_wait_until(lambda: len(agent.started) == 3)
        agent.let_go()
        await async_wait_until(lambda: len(shop.result_ids()) == 10)
    assert agent.most_at_once == 3


async def test_a_session_goes_in_order_one_at_a_time(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    now = time.time()
    for number in range(12):
        shop.submit(f"s{number:02}", "sleep 0.01", session="s", priority=number, mtime=now - 100 + number)
    shop.submit("other")
    async with open_worker(quick_settings(shared), agent):
        await async_wait_until(lambda: len(shop.result_ids()) == 13)
    of_session = [task_id for task_id in agent.started if task_id != "other"]
    assert of_session == sorted(of_session)
    assert agent.most_at_once <= 2


async def test_a_long_session_is_known_whole_before_it_begins(
    shared: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan finds files in no order, and lets others have the loop in between."""
    monkeypatch.setattr("agent_bus.intake._SLICE_S", 0.0)
    agent = ObedientAgent()
    now = time.time()
    for number in range(200):
        shop.submit(f"s{number:03}", session="s", mtime=now - 1000 + number)
    async with open_worker(quick_settings(shared), agent):
        await async_wait_until(lambda: len(shop.result_ids()) == 200)
    assert agent.started == sorted(agent.started)


async def test_a_session_goes_in_order_with_two_replicas(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    now = time.time()
    for number in range(12):
        shop.submit(f"s{number:02}", "sleep 0.02", session="s", mtime=now - 100 + number)
    async with open_worker(quick_settings(shared), agent), open_worker(quick_settings(shared), agent):
        await async_wait_until(lambda: len(shop.result_ids()) >= 3)
        for number in range(12, 40):
            shop.submit(f"s{number:02}", "sleep 0.01", session="s", mtime=now - 100 + number)
        await async_wait_until(lambda: len(shop.result_ids()) == 40, 20)
    assert agent.started == sorted(agent.started)
    assert agent.most_at_once == 1


async def test_replicas_share_the_work_and_write_each_result_once(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with (
        open_worker(quick_settings(shared), agent),
        open_worker(quick_settings(shared), agent),
        open_worker(quick_settings(shared), agent),
    ):
        for number in range(400):
            shop.submit(str(number), "sleep 0.001")
        await async_wait_until(lambda: len(shop.result_ids()) == 400, 20)
    assert sorted(agent.started, key=int) == [str(number) for number in range(400)]
    instances = {result.instance for number in range(400) if (result := shop.result(str(number)))}
    assert len(instances) == 3
    assert (shop.litter(), shop.letters()) == ([], [])


def test_replicas_in_processes_of_their_own(shared: Path, shop: Shop) -> None:
    with child_worker(shared) as first, child_worker(shared) as second:
        wait_until(lambda: first.process.poll() is None and len(list(shop.layout.inflight.glob("[!.]*"))) == 2, 20)
        for number in range(600):
            shop.submit(str(number))
        wait_until(lambda: len(shop.result_ids()) == 600, 30)
        first.process.terminate()
        second.process.terminate()
        assert (first.wait(), second.wait()) == (0, 0)
    assert (shop.litter(), shop.letters()) == ([], [])


async def test_bad_files_are_set_aside_once_by_replicas(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)), open_worker(quick_settings(shared)):
        for number in range(50):
            shop.drop(f"task-{number}.trigger", b'{"description": 5}')
        await async_wait_until(lambda: len(shop.result_ids()) == 50)
        await async_wait_until(lambda: len(shop.letters()) == 50)
    assert len(os.listdir(shop.layout.dead_letters)) == 100


async def test_a_running_and_a_queued_task_are_cancelled(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, MAX_CONCURRENT="1"), agent) as worker:
        shop.submit("running", "hold")
        await async_wait_until(lambda: agent.started == ["running"])
        shop.submit("queued", "hold", priority="low")
        await async_wait_until(lambda: worker.queue.depth() == 1)
        (shop.layout.tasks / "queued.cancel").touch()
        (shop.layout.tasks / "running.cancel").touch()
        for task_id in ("running", "queued"):
            result = await shop.async_result(task_id)
            assert (result.status, result.exit_code) == (TaskStatus.CANCELLED, 130)
        assert agent.started == ["running"]
        await async_wait_until(lambda: not list(shop.layout.tasks.glob("*.cancel")))
        (shop.layout.tasks / "running.cancel").touch()
        await async_wait_until(lambda: not list(shop.layout.tasks.glob("*.cancel")), what="late marker removed")


async def test_a_task_whose_time_is_over(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared, TASK_TIMEOUT="0.1"), ObedientAgent()):
        shop.submit("default", "hold")
        shop.submit("own", "hold", timeout=0.05)
        shop.submit("stubborn", "stubborn")
        for task_id in ("default", "own", "stubborn"):
            result = await shop.async_result(task_id)
            assert (result.status, result.exit_code) == (TaskStatus.TIMED_OUT, 124), task_id


async def test_a_task_that_never_ends_is_buried_after_its_attempts(shared: Path, shop: Shop) -> None:
    shop.layout.released.mkdir(parents=True)
    for attempts, task_id in ((2, "given up"), (1, "last chance")):
        name = task_id.replace(" ", "-")
        body = {"description": "hold", "max_attempts": 2}
        shop.drop("staged", body).rename(shop.layout.released / f"{attempts}~uid{attempts}~task-{name}.trigger")
    agent = ObedientAgent()
    agent.let_go()
    async with open_worker(quick_settings(shared), agent):
        result = await shop.async_result("given-up")
        assert result.status is TaskStatus.FAILED
        assert result.error is not None
        assert result.error.kind == "attempts_exhausted"
        letter = await shop.async_letter("task-given-up.trigger")
        assert (letter.reason, letter.attempts) == (DeadLetterReason.ATTEMPTS_EXHAUSTED, 2)
        assert (await shop.async_result("last-chance")).attempts == 2
    assert agent.started == ["last-chance"]


async def test_an_interrupted_task_that_must_not_run_twice_fails(shared: Path, shop: Shop) -> None:
    shop.layout.released.mkdir(parents=True)
    body = {"description": "x", "on_interrupt": "fail"}
    shop.drop("staged", body).rename(shop.layout.released / "1~uid~task-7.trigger")
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared), agent):
        result = await shop.async_result("7")
    assert result.error is not None
    assert (result.status, result.error.kind, agent.started) == (TaskStatus.FAILED, "interrupted", [])


async def test_a_task_that_must_not_run_twice_fails_when_its_worker_is_stopped(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, SHUTDOWN_GRACE="0"), agent):
        shop.submit("7", "hold", on_interrupt="fail")
        await async_wait_until(lambda: agent.started == ["7"])
    result = shop.result("7")
    assert result is not None
    assert result.error is not None
    assert (result.status, result.error.kind) == (TaskStatus.FAILED, "interrupted")


async def test_an_agent_that_meets_system_trouble_spends_its_attempts_slowly(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared), ObedientAgent()) as worker:
        shop.submit("7", "disk", max_attempts=1)
        result = await shop.async_result("7")
        assert result.error is not None
        assert (result.error.kind, result.attempts) == ("attempts_exhausted", 2)
        assert worker.dispatcher.trouble() is None


async def test_a_conversation_is_resumed_by_the_next_worker(shared: Path, shop: Shop) -> None:
    first, second = ObedientAgent(), ObedientAgent()
    async with open_worker(quick_settings(shared, SHUTDOWN_GRACE="0"), first):
        shop.submit("7", "remember talk-1")
        shop.submit("8", "remember talk-2", on_interrupt="restart")
        await async_wait_until(lambda: len(list(shop.layout.inflight.rglob("*.note"))) == 2)
    second.let_go()
    async with open_worker(quick_settings(shared), second):
        assert (await shop.async_result("7")).attempts == 1
        await shop.async_result("8")
    resumed = {run.task.task_id: (run.session_id, run.interrupted) for run in second.runs}
    assert resumed == {"7": ("talk-1", True), "8": (None, False)}
    assert shop.litter() == []
