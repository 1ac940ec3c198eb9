"""A dead letter that is replayed beside an orchestrator: the ledger takes the new try up and tells the last outcome."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus, encode_result
from orchestrator_service.reconciliation import results_since
from orchestrator_service.records import TaskState
from orchestrator_service.transports.base import HeardResult
from tests.integration.core_harness import ME, Scene, open_scene

SET_ASIDE = "attempts_exhausted"


async def failed(scene: Scene, task_id: str = "t", **fields: object) -> None:
    await scene.beat("marie")
    await scene.submit(task_id=task_id, worker="marie")
    await scene.fail(task_id, kind=SET_ASIDE, cost_usd=0.25, **fields)
    scene.clock.lead += 1


async def test_the_last_outcome_is_told_after_a_replay(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        before = await scene.desk.result("t")
        assert (before.state, before.error.kind if before.error else "") == (TaskState.FAILED, SET_ASIDE)
        await scene.finish("t", worker="marie", cost_usd=0.5)
        after = await scene.desk.result("t")
        assert (after.state, after.error) == (TaskState.COMPLETED, None)
        assert after.result is not None
        assert after.result.output == "output of t"
        task = await scene.desk.task("t")
        assert [(run.number, run.status, run.cost_usd) for run in task.runs] == [
            (1, "failed", 0.25),
            (2, "completed", 0.5),
        ]
        assert (task.tries, task.cost_usd, task.error) == (2, 0.75, None)
        assert (await scene.events("t"))[-3:] == ["task_replayed", "task_retrying", "task_ended"]
        await scene.check_book()


async def test_a_replay_that_comes_by_redis_is_taken_up_as_well(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        result = scene.made("t", worker="marie")
        for position in ("5-0", "5-1"):
            heard = HeardResult(result=result, transport="redis", position=position)
            scene.service.clerk.hear_result(heard)
            await scene.quiet()
        task = await scene.desk.task("t")
        assert (task.state, task.tries, len(task.runs)) == (TaskState.COMPLETED, 2, 2)


async def test_the_same_result_twice_is_no_replay(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        known = scene.transport.results["t"]
        for _ in range(2):
            scene.service.clerk.hear_result(HeardResult(result=known, transport="file"))
            await scene.quiet()
        task = await scene.desk.task("t")
        assert (task.state, len(task.runs), task.cost_usd) == (TaskState.FAILED, 1, 0.25)


async def test_a_completed_task_is_not_disturbed(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await scene.submit(task_id="t", worker="marie")
        await scene.finish("t")
        scene.clock.lead += 1
        await scene.fail("t", worker="marie")
        assert await scene.state("t") == "completed"


async def test_a_replay_that_fails_tells_its_own_reason(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        await scene.finish("t", TaskStatus.TIMED_OUT, worker="marie", kind="timeout")
        task = await scene.desk.task("t")
        assert task.error is not None
        assert (task.state, task.error.kind, task.tries) == (TaskState.TIMED_OUT, "timeout", 2)
        await scene.check_book()


async def test_what_failed_with_it_comes_back_and_goes_on(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await scene.graph(
            a={"worker": "marie"}, b={"worker": "marie", "dependencies": ["a"]}, c={"dependencies": ["b"]}
        )
        await scene.fail("g.a", kind=SET_ASIDE)
        assert set((await scene.states()).values()) == {"failed"}
        scene.clock.lead += 1
        await scene.finish("g.a", worker="marie")
        assert await scene.states() == {"g.a": "completed", "g.b": "sent", "g.c": "blocked"}
        await scene.finish("g.b")
        await scene.finish("g.c")
        assert set((await scene.states()).values()) == {"completed"}
        await scene.check_book()


@pytest.mark.parametrize("by_retry", [True, False])
async def test_what_waits_for_others_too_is_not_sent_too_early(tmp_path: Path, by_retry: bool) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await scene.graph(
            a={"worker": "marie", "on_failure": "continue"},
            b={"worker": "marie"},
            c={"worker": "marie", "dependencies": ["a", "b"]},
        )
        await scene.fail("g.a", kind=SET_ASIDE)
        scene.clock.lead += 1
        if by_retry:
            await scene.desk.retry("g.a", ME)
            await scene.quiet()
            await scene.finish("g.a+2")
        else:
            await scene.finish("g.a", worker="marie")
        assert await scene.states() == {"g.a": "completed", "g.b": "sent", "g.c": "blocked"}
        await scene.finish("g.b")
        assert await scene.state("g.c") == "sent"


async def test_a_later_try_of_the_orchestrators_own_counts_more(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        await scene.desk.retry("t", ME)
        await scene.quiet()
        scene.clock.lead += 1
        await scene.finish("t", worker="marie", cost_usd=0.5)
        task = await scene.desk.task("t")
        assert (task.state, task.cost_usd) == (TaskState.SENT, 0.75)
        await scene.finish("t+2", cost_usd=1.0)
        task = await scene.desk.task("t")
        assert (task.state, task.cost_usd, len(task.runs)) == (TaskState.COMPLETED, 1.75, 3)
        await scene.check_book()


async def test_a_retry_after_a_replay_has_a_name_of_its_own(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        await scene.fail("t", worker="marie")
        await scene.desk.retry("t", ME)
        await scene.quiet()
        assert scene.transport.sent[-1].wire_id == "t+3"


async def test_a_replay_in_the_orchestrators_absence_is_found_in_the_files(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await failed(scene)
        results = tmp_path / "results" / "marie"
        results.mkdir(parents=True)
        known = scene.transport.results["t"]
        path = results / "t.json"
        path.write_bytes(encode_result(known))
        ended = scene.now() - 1
        os.utime(path, (ended - 5, ended - 5))
    async with open_scene(tmp_path, lead=2) as scene:
        scene.transport.results["t"] = known
        await scene.service.reconciler.catch_up()
        await scene.quiet()
        assert await scene.state("t") == "failed"
        scene.transport.results["t"] = scene.made("t", worker="marie")
        os.utime(path, (scene.now(), scene.now()))
        assert results_since(tmp_path / "results", 0.0) == [("marie", "t")]
        await scene.service.reconciler.catch_up()
        await scene.quiet()
        assert await scene.state("t") == "completed"
