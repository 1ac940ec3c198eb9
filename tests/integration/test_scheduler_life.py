"""A task's life: tried again, sent in its turn, ended in time, cancelled, and what comes back from its worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus
from orchestrator_service.errors import Conflict, NotKnown, OrderRefused
from orchestrator_service.orders import RetryPolicy
from orchestrator_service.scheduling.pruning import prune
from orchestrator_service.transports.base import HeardResult
from tests.integration.core_harness import ME, Scene, open_scene, team
from tests.waiting import async_wait_until

POLICY = RetryPolicy(max_retries=2, initial_seconds=10, factor=3, longest_seconds=25, jitter=0)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, max_in_flight=2, silent_after_s=1e7) as opened:
        await opened.beat("marie")
        yield opened
        await opened.check_book()


# -- what its worker is told


async def test_what_the_worker_itself_goes_by_is_handed_on(scene: Scene) -> None:
    await scene.submit(task_id="t", stuck_after=0, on_interrupt="fail", max_attempts=2)
    body = scene.body("t")
    assert (body["stuck_after"], body["on_interrupt"], body["max_attempts"]) == (0, "fail", 2)


# -- retries


async def test_a_failure_is_tried_again_later_and_longer(scene: Scene) -> None:
    await scene.submit(task_id="t", retry=POLICY)
    await scene.fail("t")
    task = await scene.desk.task("t")
    assert task.next_at is not None
    assert task.state == "scheduled"
    assert 9 < task.next_at.timestamp() - scene.now() <= 10
    kind, message = await scene.reason("t")
    assert kind == "retry"
    assert message.endswith("Z; the last time: t went wrong.")
    await scene.wait(9)
    assert await scene.state("t") == "scheduled"
    await scene.wait(2)
    assert [dispatch.wire_id for dispatch in scene.transport.sent] == ["t", "t+2"]
    await scene.finish("t+2", TaskStatus.TIMED_OUT)
    task = await scene.desk.task("t")
    assert task.next_at is not None
    assert 24 < task.next_at.timestamp() - scene.now() <= 25
    await scene.wait(26)
    await scene.fail("t+3")
    task = await scene.desk.task("t")
    assert (task.state, task.tries, task.error and task.error.message) == ("failed", 3, "t+3 went wrong.")
    assert [run.status for run in task.runs] == ["failed", "timed_out", "failed"]
    assert (await scene.events("t")).count("task_ended") == 1


@pytest.mark.parametrize("kind", ["invalid_task", "max_budget", "authentication_failed", "prompt_too_large"])
async def test_what_no_try_would_mend_is_not_tried_again(scene: Scene, kind: str) -> None:
    await scene.submit(task_id="t", retry=POLICY)
    await scene.fail("t", kind=kind)
    assert await scene.state("t") == "failed"


async def test_a_retry_by_hand_begins_to_count_anew(scene: Scene) -> None:
    await scene.submit(task_id="t", retry=RetryPolicy(max_retries=1, initial_seconds=1, jitter=0), deadline=scene.at(5))
    await scene.fail("t")
    await scene.wait(2)
    await scene.fail("t+2")
    await scene.wait(10)
    task = await scene.desk.retry("t", ME)
    await scene.quiet()
    assert (task.state, task.deadline, task.error, task.ended_at) == ("sent", None, None, None)
    await scene.fail("t+3")
    assert await scene.state("t") == "scheduled"
    with pytest.raises(Conflict, match="Task t is scheduled; only one that failed"):
        await scene.desk.retry("t", ME)
    await scene.wait(2)
    await scene.finish("t+4")
    with pytest.raises(Conflict, match="Task t is completed"):
        await scene.desk.retry("t", ME)
    with pytest.raises(NotKnown):
        await scene.desk.retry("ghost", ME)


# -- turns and places


async def test_the_highest_priority_goes_first_then_the_oldest(scene: Scene) -> None:
    for task_id, priority in (("a", 50), ("b", 50), ("c", 10), ("d", 50), ("e", 90)):
        await scene.submit(task_id=task_id, priority=priority)
    assert await scene.reason("d") == ("slot", "No place is free: marie has 2 of 2 tasks in flight.")
    for task_id in ("a", "b", "e", "d", "c"):
        await scene.finish(task_id)
    assert [dispatch.wire_id for dispatch in scene.transport.sent] == ["a", "b", "e", "d", "c"]


async def test_lanes_take_turns_by_priority(tmp_path: Path) -> None:
    members = team(marie=("Coder", ["Python", "sql"]), anga=("coder", ["python"]), fabien=("poet", []))
    async with open_scene(tmp_path, team=members, max_in_flight=2) as scene:
        for name in ("marie", "anga", "fabien"):
            await scene.beat(name)
        await scene.submit(task_id="named", worker="fabien")
        await scene.submit(task_id="role", role="CODER ")
        await scene.submit(task_id="skills", skills=["SQL", "python"])
        await scene.submit(task_id="both", role="coder", skills=["python"])
        where = {dispatch.wire_id: dispatch.worker for dispatch in scene.transport.sent}
        # The shortest queue, and by name where they are alike.
        assert where == {"named": "fabien", "role": "anga", "skills": "marie", "both": "anga"}
        with pytest.raises(OrderRefused, match="no worker has this role and these skills; the roles are: coder, poet"):
            await scene.submit(role="poet", skills=["sql"])
        await scene.check_book()


async def test_the_shortest_queue_counts_places_and_what_others_handed_in(tmp_path: Path) -> None:
    async with open_scene(tmp_path, max_in_flight=100) as scene:
        await scene.beat("big", slots=4)
        await scene.beat("small", queue_size=2)
        for number in range(10):
            await scene.submit(task_id=f"t{number}")
        counts = dict.fromkeys(("big", "small"), 0)
        for dispatch in scene.transport.sent:
            counts[dispatch.worker] += 1
        assert counts == {"big": 9, "small": 1}


async def test_tasks_of_one_session_stay_with_one_worker(tmp_path: Path) -> None:
    async with open_scene(tmp_path, max_in_flight=2) as scene:
        await scene.beat("anga")
        await scene.beat("marie")
        await scene.submit(task_id="one", session="s")
        assert scene.transport.sent[-1].worker == "anga"
        await scene.submit(task_id="other")
        await scene.submit(task_id="two", session="s")
        assert scene.transport.sent[-1].worker == "anga"
        await scene.submit(task_id="three", session="s")
        # anga is full: marie would be free, but does not know the conversation.
        assert await scene.reason("three") == ("slot", "No place is free: anga has 2 of 2 tasks in flight.")
        await scene.finish("one")
        assert scene.transport.sent[-1] == next(d for d in scene.transport.sent if d.wire_id == "three")
        assert scene.transport.sent[-1].worker == "anga"
        await scene.check_book()


async def test_a_named_worker_counts_more_than_a_session(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("anga")
        await scene.beat("marie")
        await scene.submit(task_id="one", session="s", worker="anga")
        with pytest.raises(OrderRefused, match=r"session: .*'s' is at anga; leave worker out, or name that one"):
            await scene.submit(task_id="two", session="s", worker="marie")


# -- times


async def test_not_before_and_deadline(scene: Scene) -> None:
    await scene.submit(task_id="later", not_before=scene.at(100), deadline=scene.at(200))
    assert (await scene.reason("later"))[0] == "not_before"
    await scene.submit(task_id="never", not_before=scene.at(1000))
    await scene.submit(task_id="blocked", dependencies=["never"], deadline=scene.at(150))
    await scene.wait(101)
    assert await scene.states() == {"later": "sent", "never": "scheduled", "blocked": "blocked"}
    assert 90 < scene.body("later")["timeout"] <= 99
    await scene.wait(50)
    assert await scene.state("blocked") == "timed_out"
    await scene.take("later")
    await scene.wait(50)
    task = await scene.desk.task("later")
    assert (task.state, scene.transport.cancels) == ("running", ["later"])
    await scene.finish("later", TaskStatus.CANCELLED)
    task = await scene.desk.task("later")
    assert task.error is not None
    assert (task.state, task.error.kind) == ("timed_out", "deadline")
    await scene.desk.cancel("never", ME)
    assert await scene.state("never") == "cancelled"


async def test_moments_that_make_no_sense_are_refused(scene: Scene) -> None:
    with pytest.raises(OrderRefused, match="deadline: it has passed already"):
        await scene.submit(deadline=scene.at(-1))
    with pytest.raises(OrderRefused, match="deadline: it is before not_before"):
        await scene.submit(deadline=scene.at(10), not_before=scene.at(20))


async def test_a_deadline_takes_a_task_back_that_waits_at_its_worker(scene: Scene) -> None:
    await scene.submit(task_id="t", deadline=scene.at(10), retry=POLICY)
    await scene.wait(11)
    task = await scene.desk.task("t")
    assert (task.state, [run.status for run in task.runs]) == ("timed_out", ["withdrawn"])
    assert scene.transport.waiting == {}


# -- cancel


async def test_cancel_in_each_state(scene: Scene) -> None:
    await scene.submit(task_id="running", retry=POLICY)
    await scene.take("running")
    await scene.submit(task_id="sent")
    await scene.submit(task_id="ready")
    await scene.submit(task_id="blocked", dependencies=["running"])
    await scene.submit(task_id="after", dependencies=["blocked"])
    await scene.submit(task_id="scheduled", not_before=scene.at(60))
    for task_id in ("sent", "ready", "blocked", "scheduled"):
        await scene.desk.cancel(task_id, ME, "no need")
        await scene.quiet()
        task = await scene.desk.task(task_id)
        assert (task.state, task.error and task.error.message) == ("cancelled", "local cancelled it: no need")
    assert await scene.state("after") == "failed"
    told = await scene.desk.cancel("running", ME)
    await scene.quiet()
    assert told.cancel_requested_at is not None
    assert (told.state, scene.transport.cancels) == ("running", ["running"])
    await scene.desk.cancel("running", ME)
    await scene.fail("running")
    # A failure of one whose end was asked for is not tried again.
    assert await scene.state("running") == "cancelled"
    with pytest.raises(Conflict, match="Task running has ended already"):
        await scene.desk.cancel("running", ME)


async def test_one_that_completes_before_it_can_be_cancelled_has_completed(scene: Scene) -> None:
    await scene.submit(task_id="t")
    await scene.take("t")
    await scene.desk.cancel("t", ME)
    await scene.finish("t")
    assert await scene.state("t") == "completed"


# -- what comes back


async def test_a_result_is_there_once_however_often_it_is_told(scene: Scene) -> None:
    await scene.submit(task_id="t", dependencies=[])
    with pytest.raises(Conflict, match="Task t has no result yet: it is sent"):
        await scene.desk.result("t")
    stored: list[str] = []
    for _ in range(3):
        heard = HeardResult(
            result=scene.made("t", worker="marie"), transport="file", on_stored=lambda: stored.append("t")
        )
        scene.service.clerk.hear_result(heard)
        await scene.quiet()
    found = await scene.desk.result("t")
    assert found.result is not None
    assert (found.result.output, stored) == ("output of t", ["t", "t", "t"])
    assert (await scene.events("t")).count("task_ended") == 1


async def test_tasks_handed_to_a_worker_directly_are_adopted(scene: Scene) -> None:
    await scene.finish("direct", worker="anga", cost_usd=0.5)
    task = await scene.desk.task("direct")
    assert (task.state, task.worker, task.origin, task.submitted_by, task.cost_usd) == (
        "completed",
        "anga",
        "file",
        "worker",
        0.5,
    )
    assert (await scene.desk.result("direct")).result is not None
    with pytest.raises(Conflict):
        await scene.submit(task_id="direct")


async def test_a_result_that_cannot_be_understood_is_told_and_mended(scene: Scene) -> None:
    await scene.submit(task_id="t")
    await scene.take("t")
    for _ in range(2):
        scene.service.clerk.hear_broken_result("file", "marie", "t", "results/marie/t.json is no JSON.")
        await scene.quiet()
    task = await scene.desk.task("t")
    assert task.error is not None
    assert (task.state, task.error.kind, task.error.message) == (
        "running",
        "result_unreadable",
        "results/marie/t.json is no JSON.",
    )
    assert (await scene.events("t")).count("result_unreadable") == 1
    await scene.finish("t")
    task = await scene.desk.task("t")
    assert (task.state, task.error) == ("completed", None)


async def test_one_result_that_the_ledger_cannot_hold_keeps_no_other_one_out(scene: Scene) -> None:
    for task_id in ("a", "b"):
        await scene.submit(task_id=task_id)
    clerk = scene.service.clerk
    # More than an integer of the ledger can hold.
    clerk.hear_result(HeardResult(result=scene.made("a", attempts=10**30), transport="file"))
    clerk.hear_result(HeardResult(result=scene.made("b"), transport="file"))
    await scene.quiet()
    assert await scene.state("b") == "completed"
    task = await scene.desk.task("a")
    assert task.error is not None
    assert (task.state, task.error.kind) == ("sent", "result_unreadable")
    await scene.finish("a")
    assert await scene.state("a") == "completed"


async def test_what_cannot_be_handed_over_is_tried_again_under_its_name(
    scene: Scene,
) -> None:
    scene.transport.refuse = "there is no room"
    await scene.submit(task_id="t")
    task = await scene.desk.task("t")
    assert (task.state, task.tries, task.runs) == ("ready", 0, [])
    assert await scene.reason("t") == ("worker_down", "marie cannot be reached now: there is no room.")
    await scene.submit(task_id="cancelled")
    await scene.desk.cancel("cancelled", ME)
    scene.transport.refuse = None
    await async_wait_until(lambda: scene.transport.sent, what="the next attempt")
    await scene.finish("t")
    assert [dispatch.wire_id for dispatch in scene.transport.sent] == ["t"]
    assert await scene.events("t") == [
        "task_submitted",
        "task_sent",
        "task_undelivered",
        "task_sent",
        "task_ended",
    ]


async def test_one_too_large_with_the_outputs_that_it_names_fails_with_its_reason(scene: Scene) -> None:
    await scene.submit(task_id="a")
    await scene.submit("{{results.a.output}}", task_id="b", dependencies=["a"], retry=POLICY)
    await scene.finish("a", output="x" * 2**20)
    task = await scene.desk.task("b")
    assert task.error is not None
    assert (task.state, task.error.kind) == ("failed", "prompt_too_large")


async def test_what_json_cannot_hold_is_refused(scene: Scene) -> None:
    with pytest.raises(OrderRefused, match="metadata: it cannot be written as JSON"):
        await scene.submit(metadata={"half": "\ud800"})
    with pytest.raises(OrderRefused, match=r"tasks\[1\].output_schema: it cannot be written as JSON"):
        await scene.graph("g", a={}, b={"output_schema": {"half": "\ud800"}})
    assert await scene.states() == {}


# -- forgetting


async def test_old_tasks_are_forgotten_and_their_numbers_never_used_again(scene: Scene) -> None:
    await scene.graph("g", a={}, b={"dependencies": ["a"]})
    await scene.submit(task_id="single")
    await scene.finish("g.a")
    await scene.finish("single")
    last = await scene.core.database.read(lambda db: db.execute("SELECT MAX(seq) FROM tasks").fetchone()[0])
    scene.clock.lead += 3 * 86_400
    await scene.core.change(lambda step: prune(step, step.now))
    # b is open and needs a.
    states = await scene.states()
    assert (states["g.a"], states["g.b"]) == ("completed", "sent")
    await scene.finish("g.b")
    await scene.wait(3 * 86_400)
    await scene.core.change(lambda step: prune(step, step.now))
    await scene.submit(task_id="new")
    seq = await scene.core.database.read(
        lambda db: db.execute("SELECT seq FROM tasks WHERE task_id = 'new'").fetchone()[0]
    )
    assert seq > last
    assert not {"g.a", "g.b"} & set(await scene.states())
    counts = await scene.core.database.read(
        lambda db: [
            db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("orders", "dependencies", "results")
        ]
    )
    assert counts[1] == 0


async def test_conversations_that_nobody_goes_on_with_are_forgotten(scene: Scene) -> None:
    await scene.submit(task_id="old", session="old")
    await scene.finish("old")
    await scene.submit(task_id="open", session="open")
    scene.clock.lead += 3 * 86_400
    await scene.core.change(lambda step: prune(step, step.now))
    kept = await scene.core.database.read(lambda db: db.execute("SELECT session FROM sessions").fetchall())
    assert kept == [("open",)]


async def test_the_moments_of_a_task_are_in_order(scene: Scene) -> None:
    await scene.submit(task_id="t")
    await scene.take("t")
    await scene.finish("t")
    task = await scene.desk.task("t")
    moments = [task.submitted_at, task.ready_at, task.sent_at, task.started_at, task.ended_at]
    known = [moment for moment in moments if isinstance(moment, datetime)]
    assert len(known) == 5
    assert known == sorted(known)
