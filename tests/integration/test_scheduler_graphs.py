"""Tasks that need each other: who is sent when, who fails with whom, and who comes back with whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus
from orchestrator_service.desk import Idempotency
from orchestrator_service.errors import Conflict, OrderRefused
from tests.integration.core_harness import ME, Scene, open_scene


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, max_in_flight=1000) as opened:
        await opened.beat("marie")
        yield opened
        await opened.check_book()


def needs(*keys: str, **fields: object) -> dict[str, object]:
    return {"dependencies": list(keys), **fields}


async def test_a_task_is_sent_when_all_that_it_needs_is_completed(scene: Scene) -> None:
    text = "1: {{results.a.output}} 2: {{ results.b.output }} 3: {{results.b.structured_output}}"
    await scene.graph("g", a={}, b={}, c=needs("a", "b", description=text))
    assert set(scene.transport.waiting) == {"g.a", "g.b"}
    assert await scene.reason("g.c") == ("dependencies", "2 of the 2 tasks that it needs have not completed.")
    await scene.finish("g.a", output="one {{results.g.b.output}}")
    assert await scene.state("g.c") == "blocked"
    await scene.finish("g.b", output="two", structured_output={"n": 2})
    assert scene.body("g.c")["description"] == '1: one {{results.g.b.output}} 2: two 3: {"n": 2}'


async def test_those_that_need_a_failed_task_fail_all_the_way_down(scene: Scene) -> None:
    await scene.graph("g", a={}, b=needs("a"), c=needs("b"), d=needs("c"), free={})
    await scene.fail("g.a")
    assert await scene.states() == {
        "g.a": "failed",
        "g.b": "failed",
        "g.c": "failed",
        "g.d": "failed",
        "g.free": "sent",
    }
    told = (await scene.desk.task("g.c")).error
    assert told is not None
    assert (told.kind, told.message) == ("dependency_failed", "Task g.b, which it needs, failed.")
    assert scene.transport.sent[-1].wire_id == "g.free"


async def test_a_task_that_fails_by_two_ways_ends_once(scene: Scene) -> None:
    # d comes before b in the ledger, and needs both a and b: it is met twice on the way down.
    await scene.graph("g", a={}, d=needs("a", "b"), b=needs("a"))
    await scene.fail("g.a")
    assert (await scene.events("g.d")).count("task_ended") == 1
    await scene.check_book()
    await scene.desk.retry("g.a", ME)
    await scene.quiet()
    assert (await scene.events("g.d")).count("task_retrying") == 1
    await scene.check_book()
    await scene.finish("g.a+2")
    await scene.finish("g.b")
    await scene.finish("g.d")
    assert set((await scene.states()).values()) == {"completed"}


async def test_continue_lets_those_that_need_it_go_on(scene: Scene) -> None:
    await scene.graph(
        "g",
        a={"on_failure": "continue"},
        b=needs("a", description="got {{results.a.output}}."),
        c=needs("b", on_failure="continue"),
        d=needs("c"),
    )
    await scene.finish("g.a", TaskStatus.TIMED_OUT, output="half")
    assert scene.body("g.b")["description"] == "got half."
    await scene.fail("g.b")
    # b fails its dependents, c fails with it, and c lets d go on.
    assert await scene.states() == {"g.a": "timed_out", "g.b": "failed", "g.c": "failed", "g.d": "sent"}


async def test_a_retry_by_hand_brings_those_back_that_failed_with_it(scene: Scene) -> None:
    await scene.graph("g", a={}, b=needs("a"), c=needs("b"))
    await scene.fail("g.a")
    assert (await scene.desk.retry("g.a", ME)).state == "sent"
    await scene.quiet()
    assert await scene.states() == {"g.a": "sent", "g.b": "blocked", "g.c": "blocked"}
    await scene.finish("g.a+2")
    await scene.finish("g.b")
    await scene.finish("g.c")
    assert set((await scene.states()).values()) == {"completed"}


async def test_one_that_failed_for_two_reasons_comes_back_when_both_are_mended(scene: Scene) -> None:
    await scene.graph("g", a={}, b={}, c=needs("a", "b"), d=needs("c"))
    await scene.fail("g.a")
    await scene.fail("g.b")
    await scene.desk.retry("g.a", ME)
    await scene.finish("g.a+2")
    # b is still failed: nothing that needs it may wait for ever.
    assert await scene.states() == {"g.a": "completed", "g.b": "failed", "g.c": "failed", "g.d": "failed"}
    await scene.desk.retry("g.b", ME)
    await scene.finish("g.b+2")
    await scene.finish("g.c")
    await scene.finish("g.d")
    assert set((await scene.states()).values()) == {"completed"}


async def test_one_that_failed_with_another_is_not_retried_alone(scene: Scene) -> None:
    await scene.graph("g", a={}, b=needs("a"))
    await scene.fail("g.a")
    with pytest.raises(Conflict, match=r"Task g\.b needs g\.a, which failed; retry that one"):
        await scene.desk.retry("g.b", ME)
    assert await scene.state("g.b") == "failed"


async def test_a_revived_task_waits_for_a_revived_one_that_lets_others_go_on(scene: Scene) -> None:
    await scene.graph("g", a={}, d=needs("a", "b"), b=needs("a", on_failure="continue"))
    await scene.fail("g.a")
    await scene.desk.retry("g.a", ME)
    await scene.finish("g.a+2")
    assert await scene.states() == {"g.a": "completed", "g.b": "sent", "g.d": "blocked"}
    await scene.finish("g.b")
    assert await scene.state("g.d") == "sent"


async def test_needs_may_be_tasks_of_before(scene: Scene) -> None:
    await scene.submit(task_id="old")
    await scene.finish("old", output="was here")
    await scene.submit("{{results.old.output}}", task_id="new", dependencies=["old"])
    assert scene.body("new")["description"] == "was here"
    await scene.submit(task_id="bad")
    await scene.fail("bad")
    with pytest.raises(OrderRefused, match=r"dependencies\[0\]: this task has ended as failed; retry it first"):
        await scene.submit(task_id="newer", dependencies=["bad"])
    await scene.submit(task_id="lax", on_failure="continue")
    await scene.fail("lax")
    await scene.submit(task_id="newest", dependencies=["lax"])
    assert await scene.state("newest") == "sent"


@pytest.mark.parametrize(
    ("tasks", "field", "message"),
    [
        ({"a": needs("b"), "b": needs("a")}, "tasks", "these tasks need each other in a circle"),
        ({"a": needs("a")}, "tasks[0].dependencies", "a task cannot need itself"),
        ({"a": {}, "b": needs("ghost")}, "tasks[1].dependencies[0]", "there is no such task"),
        ({"a": {"worker": "nobody"}}, "tasks[0].worker", "there is no such worker; there are: marie"),
        ({"a": {"role": "poet"}}, "tasks[0].role", "no worker has this role; the roles are: none"),
        ({"a": {"skills": ["sql"]}}, "tasks[0].skills", "no worker has all of these skills"),
        ({"a": {"worker": "marie", "role": "poet"}}, "tasks[0].worker", "name a worker, or a role and skills"),
        ({"a": {"task_id": "x+2"}}, "tasks[0].task_id", "an id must not end in + and a number"),
        ({"a": {"parent": "ghost"}}, "tasks[0].parent", "there is no such task"),
        ({"a": {"description": "{{results.b.output}}"}, "b": {}}, "tasks[0].description", "it names the output of g.b"),
        ({"a": {"task_id": "same"}, "b": {"task_id": "same"}}, "tasks[1].task_id", "another task of the graph"),
    ],
)
async def test_what_could_never_be_run_is_refused_with_its_field(
    scene: Scene, tasks: dict[str, dict[str, object]], field: str, message: str
) -> None:
    with pytest.raises(OrderRefused) as refused:
        await scene.graph("g", **tasks)
    assert refused.value.problems[0].field == field
    assert message in refused.value.problems[0].message
    assert await scene.states() == {}
    assert await scene.events() == ["worker_up"]


async def test_ids_are_used_once(scene: Scene) -> None:
    await scene.submit(task_id="one")
    with pytest.raises(Conflict, match="Task one is there already \\(sent\\); take another task_id"):
        await scene.graph("g", a={}, b={"task_id": "one"})
    assert list(await scene.states()) == ["one"]


async def test_what_comes_twice_with_one_key_counts_once(scene: Scene) -> None:
    key = Idempotency(key="k", digest="1")
    first = await scene.graph("g", key=key, a={}, b={})
    again = await scene.graph("g", key=key, a={}, b={})
    assert (first.repeated, again.repeated) == (False, True)
    assert [task.task_id for task in again.tasks] == [task.task_id for task in first.tasks]
    assert len(scene.transport.sent) == 2
    with pytest.raises(Conflict, match="came before with another body"):
        await scene.graph("h", key=Idempotency(key="k", digest="2"), a={})


async def test_a_parent_says_how_deep_one_is(scene: Scene) -> None:
    parent = None
    for depth in range(11):
        parent = (await scene.submit(task_id=f"t{depth}", parent=parent)).task_id
    assert (await scene.desk.task("t10")).depth == 10
    with pytest.raises(OrderRefused, match="10 deep and no deeper"):
        await scene.submit(parent="t10")


async def test_a_long_chain_fails_without_recursion(scene: Scene) -> None:
    tasks: dict[str, dict[str, object]] = {"t0": {}}
    for number in range(1, 2000):
        tasks[f"t{number}"] = needs(f"t{number - 1}")
    await scene.graph("g", **tasks)
    await scene.fail("g.t0")
    assert set((await scene.states()).values()) == {"failed"}
    await scene.desk.retry("g.t0", ME)
    counts = await scene.desk.counts()
    assert (counts["sent"], counts["blocked"]) == (1, 1999)
