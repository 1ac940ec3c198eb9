"""What the orchestrator is told of results: by every worker, in every mode, also after a crash in between."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agent_bus.messages import Result, TaskStatus, utc_now
from agent_bus.result_notices import KEPT_S, ResultNotices
from tests.integration.harness import ObedientAgent, Shop, quick_settings
from tests.waiting import async_wait_until
from worker_service.service import open_worker


async def test_a_result_and_a_failure_are_told_to_the_orchestrator(shared: Path, shop: Shop) -> None:
    triggers = shop.layout.orchestrator_triggers
    async with open_worker(quick_settings(shared), ObedientAgent()):
        shop.submit("good")
        shop.submit("bad", "fail badly")
        shop.submit("never", "x", timeout=-1)
        for task_id in ("good", "bad", "never"):
            await shop.async_result(task_id)
        await async_wait_until(lambda: len(list(triggers.glob("result-*.trigger"))) == 3)
    good = json.loads((triggers / "result-good.trigger").read_bytes())
    assert good == {
        "task_id": "good",
        "worker": "marie",
        "status": "completed",
        "path": str(shop.layout.result("good")),
    }
    error = json.loads((triggers / "marie-error.trigger").read_bytes())
    assert error["status"] == "failed"
    assert error["error"]
    assert {path.name for path in triggers.iterdir()} == {
        "result-good.trigger",
        "result-bad.trigger",
        "result-never.trigger",
        "marie-error.trigger",
    }


@pytest.mark.parametrize("mode", ["polling", "event-driven", "hooks"])
async def test_every_mode_tells(shared: Path, shop: Shop, mode: str) -> None:
    async with open_worker(quick_settings(shared, WORKER_MODE=mode, POLL_INTERVAL="0.02"), ObedientAgent()):
        shop.submit("7")
        await shop.async_result("7")
        await async_wait_until((shop.layout.orchestrator_triggers / "result-7.trigger").exists)


async def test_a_notice_that_a_crash_has_cost_is_made_up_for(shared: Path, shop: Shop) -> None:
    now = utc_now()
    stored = Result(
        task_id="7", worker="marie", instance="dead", status=TaskStatus.TIMED_OUT, completed_at=now, timestamp=now
    )
    shop.layout.result("7").write_bytes(stored.model_dump_json().encode())
    # What a worker leaves that was killed between the result and the notice.
    dead = shop.layout.inflight / "dead"
    dead.mkdir(parents=True)
    (dead / "1~0123456789abcdef~task-7.trigger").write_bytes(b'{"description": "x"}')
    async with open_worker(quick_settings(shared), ObedientAgent()) as worker:
        await async_wait_until((shop.layout.orchestrator_triggers / "result-7.trigger").exists)
        await async_wait_until(lambda: worker.queue.depth() == 0)
    notice = json.loads((shop.layout.orchestrator_triggers / "result-7.trigger").read_bytes())
    assert notice["status"] == "timed_out"
    assert (shop.layout.orchestrator_triggers / "marie-error.trigger").exists()


async def test_a_directory_that_cannot_be_written_costs_notices_and_no_results(shared: Path, shop: Shop) -> None:
    shop.layout.orchestrator_triggers.parent.mkdir(parents=True, exist_ok=True)
    shop.layout.orchestrator_triggers.write_text("in the way")
    async with open_worker(quick_settings(shared), ObedientAgent()):
        shop.submit("7")
        assert (await shop.async_result("7")).status is TaskStatus.COMPLETED


def test_notices_that_nobody_took_are_pruned_and_nothing_else(tmp_path: Path) -> None:
    notices = ResultNotices(tmp_path, worker="marie", instance="i")
    for task_id in ("old", "new"):
        notices.tell(task_id, TaskStatus.FAILED, "/r", "why")
    (tmp_path / "mine.trigger").write_text("")
    long_ago = time.time() - KEPT_S - 1
    for name in ("result-old.trigger", "mine.trigger", "marie-error.trigger"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert notices.prune() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"result-new.trigger", "mine.trigger", "marie-error.trigger"}
