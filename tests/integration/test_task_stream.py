"""Streams of events: in order, without a gap, and resumed from any position."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_service.core import Core
from orchestrator_service.errors import NotKnown, OrderRefused
from orchestrator_service.event_hub import KEPT
from orchestrator_service.orders import RetryPolicy
from orchestrator_service.records import StreamEvent
from orchestrator_service.scheduling.step import Step
from tests.integration.core_harness import ME, Scene, all_of, open_scene

AT_ONCE = RetryPolicy(max_retries=5, initial_seconds=0.001, jitter=0)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        await opened.beat("marie", slots=100)
        yield opened
        await opened.quiet()


def told(event: StreamEvent) -> str:
    """Return an event's name, or what the agent said."""
    return json.loads(event.data)["data"]["text"] if event.event == "agent" else event.event


async def lived(scene: Scene, task_id: str = "t") -> None:
    """Let a task be tried twice, with words of its agent in both."""
    await scene.submit(task_id=task_id, retry=AT_ONCE)
    await scene.take(task_id)
    scene.transport.say(task_id, "one")
    scene.transport.say(task_id, "two")
    await scene.fail(task_id)
    await scene.wait(1)
    await scene.take(f"{task_id}+2")
    scene.transport.say(f"{task_id}+2", "three")
    await scene.finish(f"{task_id}+2")


STORY = [
    "task_submitted",
    "task_sent",
    "task_started",
    "one",
    "two",
    "task_retrying",
    "task_sent",
    "task_started",
    "three",
    "task_ended",
]


@pytest.mark.parametrize("follow", [False, True])
async def test_each_position_gives_exactly_the_rest(scene: Scene, follow: bool) -> None:
    await lived(scene)
    whole = await all_of(scene.desk.task_events("t", None, follow=follow))
    assert [told(event) for event in whole] == STORY
    for number, event in enumerate(whole):
        rest = await all_of(scene.desk.task_events("t", event.id, follow=follow))
        assert rest == whole[number + 1 :], event.id


async def test_who_follows_live_hears_the_same(scene: Scene) -> None:
    await scene.submit("hold", task_id="before")
    stream = asyncio.create_task(all_of(scene.desk.task_events("before", None, follow=True)))
    await lived(scene, "other")
    scene.transport.say("before", "hello")
    await scene.take("before")
    await scene.finish("before")
    heard = [told(event) for event in await asyncio.wait_for(stream, 10)]
    assert sorted(heard) == sorted(["task_submitted", "task_sent", "hello", "task_started", "task_ended"])
    assert (heard[0], heard[-1]) == ("task_submitted", "task_ended")


async def test_one_who_reads_slowly_misses_nothing_of_an_earlier_try(scene: Scene) -> None:
    await scene.submit(task_id="t", retry=AT_ONCE)
    stream = scene.desk.task_events("t", None, follow=True)
    heard = [told(await anext(stream))]
    # Everything goes on while nobody reads: the second try is sent before a line of the first one was told.
    await scene.take("t")
    for word in ("one", "two"):
        scene.transport.say("t", word)
    await scene.fail("t")
    await scene.wait(1)
    await scene.take("t+2")
    scene.transport.say("t+2", "three")
    await scene.finish("t+2")
    heard += [told(event) for event in await all_of(stream)]
    assert [name for name in heard if name != "task_started"] == [name for name in STORY if name != "task_started"]


async def test_a_task_that_ends_while_one_begins_to_look_ends_the_stream(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.submit(task_id="t")
    read = scene.core.database.read
    ended = False

    async def read_late(question: object) -> object:
        nonlocal ended
        found = await read(question)  # type: ignore[arg-type]
        if not ended:
            ended = True
            await scene.finish("t")
        return found

    stream = scene.desk.task_events("t", None, follow=True)
    monkeypatch.setattr(scene.core.database, "read", read_late)
    heard = [told(event) for event in await asyncio.wait_for(all_of(stream), 10)]
    assert heard == ["task_submitted", "task_sent", "task_ended"]


async def test_a_task_that_came_by_file_has_its_journal_too(scene: Scene) -> None:
    scene.transport.say("direct", "hello")
    await scene.finish("direct")
    whole = await all_of(scene.desk.task_events("direct", None, follow=True))
    assert [told(event) for event in whole] == ["hello", "task_ended"]


async def test_wrong_tasks_and_positions_are_refused(scene: Scene) -> None:
    with pytest.raises(NotKnown):
        await all_of(scene.desk.task_events("ghost", None, follow=True))
    with pytest.raises(OrderRefused, match="Last-Event-ID: allowed is the id of an event"):
        scene.desk.task_events("ghost", "x", follow=True)
    with pytest.raises(OrderRefused):
        await anext(scene.desk.events("1.2"))


async def test_a_stream_that_is_closed_leaves_nothing_behind(scene: Scene) -> None:
    await scene.submit(task_id="t")
    await scene.take("t")
    before = asyncio.all_tasks()
    for stream in (
        scene.desk.task_events("t", None, follow=True),
        scene.desk.events("1", agent=True),
        scene.desk.events(None, agent=False),
    ):
        reader = asyncio.ensure_future(anext(stream))
        scene.transport.say("t", "a word")
        await scene.submit()
        await asyncio.wait_for(reader, 10)
        await stream.aclose()  # type: ignore[attr-defined]
        assert asyncio.all_tasks() == before


async def test_the_team_is_heard_in_order_with_its_agents(scene: Scene) -> None:
    stream = scene.desk.events(None, agent=True)
    heard: list[StreamEvent] = []
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await lived(scene)
    heard.append(await asyncio.wait_for(reader, 10))
    while len(heard) < len(STORY):
        heard.append(await asyncio.wait_for(anext(stream), 10))
    await stream.aclose()  # type: ignore[attr-defined]
    assert [told(event) for event in heard if event.event != "agent"] == [name for name in STORY if "_" in name]
    assert [told(event) for event in heard if event.event == "agent"] == ["one", "two", "three"]
    numbers = [int(event.id) for event in heard if event.event != "agent"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_one_who_was_away_for_long_reads_on_from_the_ledger(scene: Scene) -> None:
    first = scene.core.hub.last

    def much(step: Step) -> None:
        for number in range(KEPT + 500):
            step.happened("something", {"number": number})

    await scene.core.change(much)
    stream = scene.desk.events(str(first))
    heard = [int((await anext(stream)).id) for _ in range(KEPT + 500)]
    await stream.aclose()  # type: ignore[attr-defined]
    assert heard == list(range(first + 1, first + 1 + KEPT + 500))


async def test_streams_end_when_the_orchestrator_does(scene: Scene) -> None:
    await scene.submit(task_id="t")
    streams = [
        asyncio.ensure_future(all_of(scene.desk.task_events("t", None, follow=True))),
        asyncio.ensure_future(all_of(scene.desk.events("0"))),
    ]
    await asyncio.sleep(0)
    await scene.core.aclose()
    one, _ = await asyncio.wait_for(asyncio.gather(*streams), 10)
    assert [told(event) for event in one] == ["task_submitted", "task_sent"]


async def test_who_asked_may_go_before_it_is_durable(scene: Scene) -> None:
    def change(core: Core) -> asyncio.Task[object]:
        return asyncio.ensure_future(core.change(lambda step: step.happened("told", {})))

    at = scene.core.hub.last
    asked = change(scene.core)
    await asyncio.sleep(0)
    asked.cancel()
    found = await asyncio.wait_for(scene.core.hub.after(at), 10)
    assert [happening.event for happening in found] == ["told"]


async def test_one_who_waits_hears_of_ends(scene: Scene) -> None:
    await scene.graph("g", a={}, b={})
    anyone = asyncio.ensure_future(scene.desk.wait(["g.a", "g.b", "g.a"], 30, any_of=True))
    everyone = asyncio.ensure_future(scene.desk.wait(["g.a", "g.b"], 30))
    await asyncio.sleep(0)
    await scene.finish("g.b")
    assert {task.task_id: task.state.value for task in await anyone} == {"g.a": "sent", "g.b": "completed"}
    assert not everyone.done()
    await scene.desk.cancel("g.a", ME, "enough")
    await scene.quiet()
    assert {task.state.value for task in await everyone} == {"completed", "cancelled"}
    assert [task.state.value for task in await scene.desk.wait(["g.a"], 0)] == ["cancelled"]
    with pytest.raises(NotKnown):
        await scene.desk.wait(["g.a", "ghost"], 0)
    await scene.submit(task_id="late")
    assert [task.state.value for task in await scene.desk.wait(["late"], 0)] == ["sent"]
    assert not scene.core._waiters


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_live_and_resumed_at_any_moment_nothing_is_missing_and_nothing_comes_twice(seed: int) -> None:
    choice = random.Random(seed)

    async def live(folder: Path) -> None:
        async with open_scene(folder) as scene:
            await scene.beat("marie", slots=100)
            await scene.submit(task_id="t", retry=RetryPolicy(max_retries=3, initial_seconds=0.001, jitter=0))
            reader = asyncio.ensure_future(read_in_pieces(scene, choice))
            for number in range(1, 5):
                wire_id = "t" if number == 1 else f"t+{number}"
                if choice.random() < 0.8:
                    await scene.take(wire_id)
                for word in range(choice.randint(0, 4)):
                    scene.transport.say(wire_id, f"{number}-{word}")
                    await asyncio.sleep(0)
                if number == 4 or choice.random() < 0.3:
                    await scene.finish(wire_id)
                    break
                await scene.fail(wire_id)
                await scene.wait(1)
            heard = await asyncio.wait_for(reader, 20)
            whole = await all_of(scene.desk.task_events("t", None, follow=False))
            assert [told(event) for event in heard if event.event == "agent"] == [
                told(event) for event in whole if event.event == "agent"
            ]
            assert [event.data for event in heard if event.event != "agent"] == [
                event.data for event in whole if event.event != "agent"
            ]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder)))


async def read_in_pieces(scene: Scene, choice: random.Random) -> list[StreamEvent]:
    """Follow a task to its end, but leave now and then and come back with the last position."""
    heard: list[StreamEvent] = []
    while not heard or heard[-1].event != "task_ended":
        stream = scene.desk.task_events("t", heard[-1].id if heard else None, follow=True)
        for _ in range(choice.randint(1, 8)):
            event = await anext(stream, None)
            if event is None:
                break
            heard.append(event)
            for _ in range(choice.choice([0, 0, 3, 30])):
                await asyncio.sleep(0)
        await stream.aclose()  # type: ignore[attr-defined]
    return heard
