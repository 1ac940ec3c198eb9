"""What the orchestrator makes of heartbeats that name stuck tasks: events of the team, each of them once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from tests.integration.core_harness import Scene, all_of, open_scene

SAID: Final = {"stage": "noticed", "message": "Its stream is silent."}


async def running(scene: Scene, task_id: str = "t") -> None:
    await scene.beat("marie")
    await scene.submit(task_id=task_id, worker="marie")
    await scene.take(task_id)


async def told(scene: Scene) -> list[tuple[str, object]]:
    events = await scene.desk.latest_events(500)
    return [(one.event, one.data.get("message")) for one in events if "stuck" in one.event]


async def beat(scene: Scene, *stuck: str, instance: str = "one") -> None:
    scene.clock.lead += 1
    await scene.beat("marie", stuck_tasks=list(stuck), instance=instance)


async def test_a_stuck_task_is_told_once_and_when_it_moves_again(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        scene.transport.say("t", "", "task_stuck", **SAID)
        scene.transport.say("t", 'it is "task_stuck"', note="task_stuck")
        for _ in range(3):
            await beat(scene, "t", "unknown", "t+9")
        assert await told(scene) == [("task_stuck", "Its stream is silent.")]
        assert (await scene.desk.task("t")).stuck
        await beat(scene)
        assert [name for name, _ in await told(scene)] == ["task_stuck", "task_unstuck"]
        assert not (await scene.desk.task("t")).stuck
        await beat(scene, "t")
        assert [name for name, _ in await told(scene)] == ["task_stuck", "task_unstuck", "task_stuck"]


async def test_what_the_journal_tells_comes_once_in_the_tasks_own_stream(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        scene.transport.say("t", "", "task_stuck", **SAID)
        await beat(scene, "t")
        stream = await all_of(scene.desk.task_events("t", None, follow=False))
        assert [one.event for one in stream if b"task_stuck" in one.data] == ["agent"]


async def test_a_journal_that_says_nothing_costs_the_words_only(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        await beat(scene, "t")
        assert await told(scene) == [("task_stuck", "The task seems stuck.")]


async def test_half_a_line_in_the_journal_hides_nothing(tmp_path: Path) -> None:
    """A worker that is killed may leave one."""
    async with open_scene(tmp_path) as scene:
        await running(scene)
        scene.transport.say("t", "", "task_stuck", **SAID)
        lines = scene.transport.journals["t"]
        lines.append(replace(lines[-1], position=lines[-1].position + 1, line=b'{"event": "task_stuck", "da'))
        await beat(scene, "t")
        assert await told(scene) == [("task_stuck", "Its stream is silent.")]


async def test_instances_that_nobody_hears_any_more_are_forgotten(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        for number in range(20):
            await beat(scene, "t", instance=f"start-{number}")
            scene.core.fleet.beats.clear()
        assert len(scene.service._stuck._named) == 1


async def test_an_end_needs_no_further_word(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        await beat(scene, "t")
        await scene.finish("t")
        await beat(scene)
        assert [name for name, _ in await told(scene)] == ["task_stuck"]
        assert not (await scene.desk.task("t")).stuck


async def test_a_new_start_tells_nothing_twice_and_what_it_has_missed(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        await beat(scene, "t")
        lead = scene.clock.lead
    async with open_scene(tmp_path, lead=lead + 1) as scene:
        await beat(scene, "t")
        assert [name for name, _ in await told(scene)] == ["task_stuck"]
    async with open_scene(tmp_path, lead=lead + 5) as scene:
        await beat(scene)
        assert [name for name, _ in await told(scene)] == ["task_stuck", "task_unstuck"]


async def test_a_worker_that_is_silent_says_nothing_of_its_tasks(tmp_path: Path) -> None:
    async with open_scene(tmp_path, silent_after_s=30) as scene:
        await running(scene)
        await beat(scene, "t")
        assert (await scene.desk.task("t")).stuck
        await scene.wait(timedelta(minutes=2).total_seconds())
        assert not (await scene.desk.task("t")).stuck


async def test_the_newest_events_carry_titles_and_the_places_where_the_stream_goes_on(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await running(scene)
        await scene.submit(task_id="titled", title="A title", worker="marie")
        await scene.finish("t")
        events = await scene.desk.latest_events(500)
        assert [one.event for one in events if one.task_id == "t"] == await scene.events("t")
        assert {one.title for one in events if one.task_id == "titled"} == {"A title"}
        assert [int(one.id) for one in events] == sorted(int(one.id) for one in events)
        assert events[-1].id == scene.desk.position()
        assert await scene.desk.latest_events(2) == events[-2:]
