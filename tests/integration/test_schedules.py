"""Recurring tasks: handed in when they are due, and never left out silently."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.errors import Conflict, NotKnown, OrderRefused
from orchestrator_service.orders import Missed, Overlap, ScheduleOrder, TaskOrder
from orchestrator_service.records import ScheduleRecord
from tests.integration.core_harness import ME, Scene, open_scene


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, silent_after_s=1e9, max_in_flight=100) as opened:
        await opened.beat("marie")
        yield opened
        await opened.check_book()


async def recur(scene: Scene, name: str = "hourly", cron: str = "0 * * * *", **fields: Any) -> ScheduleRecord:
    task = fields.pop("task", TaskOrder(description="tidy up"))
    return await scene.desk.create_schedule(ScheduleOrder(name=name, cron=cron, task=task, **fields), ME)


async def until_due(scene: Scene, late: float = 1.0, name: str = "hourly") -> ScheduleRecord:
    """Let the next time come, and so many seconds more."""
    due = (await scene.desk.schedule(name)).next_at
    assert due is not None
    await scene.wait(due.timestamp() - scene.now() + late)
    return await scene.desk.schedule(name)


async def test_a_task_is_handed_in_each_time(scene: Scene) -> None:
    made = await recur(scene)
    assert made.next_at is not None
    assert 0 < made.next_at.timestamp() - scene.now() <= 3600
    for _ in range(2):
        told = await until_due(scene)
        assert told.last_outcome == "handed in"
        assert told.last_task_id is not None
        task = await scene.desk.task(told.last_task_id)
        assert (task.origin, task.submitted_by, task.schedule, task.description) == (
            "schedule",
            "local",
            "hourly",
            "tidy up",
        )
        await scene.finish(told.last_task_id)
    assert len(await scene.states()) == 2
    assert (await scene.events()).count("schedule_due") == 2


async def test_the_timer_is_set_for_it(scene: Scene) -> None:
    assert scene.core._timer is None
    await recur(scene)
    assert scene.core._timer is not None


@pytest.mark.parametrize(("overlap", "count"), [(Overlap.SKIP, 1), (Overlap.QUEUE, 2)])
async def test_the_time_before_may_not_have_ended(scene: Scene, overlap: Overlap, count: int) -> None:
    await recur(scene, overlap=overlap)
    first = await until_due(scene)
    told = await until_due(scene)
    assert len(await scene.states()) == count
    if overlap is Overlap.SKIP:
        assert told.last_outcome == f"skipped: task {first.last_task_id} of the time before has not ended"
        assert told.last_task_id == first.last_task_id


@pytest.mark.parametrize(
    ("missed", "count", "outcome"),
    [
        (Missed.ONCE, 1, "handed in, late: the orchestrator was away when it was due"),
        (Missed.SKIP, 0, "skipped: the orchestrator was away when it was due"),
    ],
)
async def test_times_that_went_by_while_it_was_away(tmp_path: Path, missed: Missed, count: int, outcome: str) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await recur(scene, missed=missed)
    async with open_scene(tmp_path, lead=5 * 3600 + 1800) as scene:
        await scene.wait(0)
        told = await scene.desk.schedule("hourly")
        assert (told.last_outcome, len(await scene.states())) == (outcome, count)
        assert told.next_at is not None
        assert told.next_at.timestamp() > scene.now()


async def test_one_that_cannot_be_handed_in_says_why_and_goes_on(tmp_path: Path) -> None:
    async with open_scene(tmp_path, workers=("gone",)) as scene:
        await scene.beat("marie")
        await recur(scene, task=TaskOrder(description="x", worker="gone"))
        await recur(scene, name="other")
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        told = await until_due(scene)
        assert told.last_outcome == "refused: worker: there is no such worker; there are: marie"
        assert told.next_at is not None
        assert told.next_at.timestamp() > scene.now()
        assert (await scene.desk.schedule("other")).last_outcome == "handed in"
        await scene.check_book()


async def test_one_that_this_version_does_not_understand_holds_up_nothing(scene: Scene) -> None:
    await recur(scene, name="odd")
    await recur(scene)
    await scene.submit(task_id="late", not_before=scene.at(7000), deadline=scene.at(7100))
    await scene.core.database.write(
        lambda db: db.execute("UPDATE schedules SET task = '{\"colour\": 1}' WHERE name = 'odd'").rowcount
    )
    told = await until_due(scene)
    assert told.last_outcome == "handed in"
    outcome = (await scene.desk.schedule("odd")).last_outcome
    assert outcome is not None
    assert outcome == "refused: task.description: Field required; delete the schedule, and make it anew"
    await scene.wait(8000)
    assert await scene.state("late") == "timed_out"


async def test_pause_and_delete(scene: Scene) -> None:
    await recur(scene)
    held = await scene.desk.set_schedule_paused("hourly", True, ME)
    assert (held.paused, held.next_at) == (True, None)
    await scene.wait(4000)
    assert await scene.states() == {}
    going = await scene.desk.set_schedule_paused("hourly", False, ME)
    assert going.next_at is not None
    assert going.next_at.timestamp() > scene.now()
    await until_due(scene)
    await scene.desk.delete_schedule("hourly", ME)
    assert await scene.desk.schedules() == []
    assert len(await scene.states()) == 1
    for call in (
        scene.desk.schedule("hourly"),
        scene.desk.delete_schedule("hourly", ME),
        scene.desk.set_schedule_paused("hourly", True, ME),
    ):
        with pytest.raises(NotKnown):
            await call


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"cron": "61 * * * *"}, "cron", "allowed are five fields as cron has them"),
        ({"cron": "* * * * * *"}, "cron", "allowed are five fields: minute, hour"),
        ({"cron": "@daily"}, "cron", "allowed are five fields"),
        ({"cron": "0 0 30 2 *"}, "cron", "Bad day-of-month; allowed are"),
        ({"timezone": "Mars/Olympus"}, "timezone", "allowed is a name such as UTC or Europe/Berlin"),
        ({"timezone": "../../etc/passwd"}, "timezone", "allowed is a name such as UTC or Europe/Berlin"),
        ({"timezone": "Europe"}, "timezone", "allowed is a name such as UTC or Europe/Berlin"),
        ({"task": TaskOrder(description="x", task_id="t")}, "task.task_id", "leave it out"),
        ({"task": TaskOrder(description="x", key="t")}, "task.key", "leave it out"),
        ({"task": TaskOrder(description="x", worker="nobody")}, "task.worker", "there is no such worker"),
        ({"task": TaskOrder(description="{{results.a.output}}")}, "task.description", "it names the output of a"),
    ],
)
async def test_wrong_ones_are_refused_with_their_field(
    scene: Scene, fields: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(OrderRefused) as refused:
        await recur(scene, **fields)
    assert refused.value.problems[0].field == field
    assert message in refused.value.problems[0].message
    assert await scene.desk.schedules() == []


async def test_names_are_used_once(scene: Scene) -> None:
    await recur(scene)
    with pytest.raises(Conflict, match="There is a schedule 'hourly' already"):
        await recur(scene)
