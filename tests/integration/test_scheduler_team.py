"""Workers that come, go and are held back, and the money that they may spend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import pytest

from agent_bus.messages import TaskStatus, WorkerStatus
from orchestrator_service.errors import Conflict, NotKnown, OrderRefused
from orchestrator_service.orders import RetryPolicy, TaskOrder
from orchestrator_service.settings import BudgetSettings
from orchestrator_service.transports.base import Dispatch, Place, Undelivered
from tests.integration.core_harness import ME, Scene, open_scene, team
from tests.waiting import async_wait_until

TEAM = team(anga=("coder", []), marie=("coder", []), fabien=("poet", []))
AT_ONCE = RetryPolicy(max_retries=5, initial_seconds=0.001, jitter=0)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, team=TEAM, max_in_flight=2) as opened:
        await opened.beat("anga")
        await opened.beat("marie")
        yield opened
        await opened.check_book()


def where(scene: Scene) -> dict[str, str]:
    return {wire_id: dispatch.worker for wire_id, dispatch in scene.transport.waiting.items()}


# -- down and up


async def test_a_silent_worker_is_down_and_what_it_has_not_begun_goes_elsewhere(scene: Scene) -> None:
    for task_id in ("a", "b"):
        await scene.submit(task_id=task_id, role="coder")
    await scene.submit(task_id="named", worker="anga")
    assert where(scene) == {"a": "anga", "b": "marie", "named": "anga"}
    await scene.wait(50)
    await scene.beat("marie")
    await scene.wait(9)
    assert (await scene.desk.worker("anga")).state == "up"
    await scene.wait(2)
    assert (await scene.desk.worker("anga")).state == "down"
    assert where(scene) == {"a+2": "marie", "b": "marie", "named": "anga"}
    assert "worker_down" in await scene.events()
    # It gets nothing new; a task that names it is taken in all the same, and waits.
    await scene.submit(task_id="late", worker="anga")
    assert await scene.reason("late") == ("worker_down", "anga is down: no heartbeat.")
    await scene.finish("a+2")
    await scene.submit(task_id="more", role="coder")
    assert where(scene)["more"] == "marie"
    await scene.beat("anga")
    assert where(scene)["late"] == "anga"
    assert (await scene.events()).count("worker_up") == 3


async def test_what_a_silent_worker_has_begun_stays_with_it(scene: Scene) -> None:
    await scene.submit(task_id="a", role="coder")
    await scene.take("a")
    await scene.wait(50)
    await scene.beat("marie")
    await scene.wait(20)
    assert await scene.state("a") == "running"
    await scene.finish("a")
    assert await scene.state("a") == "completed"


async def test_a_task_that_was_to_end_does_not_wait_for_ever_for_a_dead_worker(scene: Scene) -> None:
    await scene.submit(task_id="a", worker="anga")
    await scene.submit(task_id="alive", worker="marie")
    for task_id in ("a", "alive"):
        await scene.take(task_id)
        await scene.desk.cancel(task_id, ME, "enough")
    await scene.quiet()
    for _ in range(2):
        await scene.wait(50)
        await scene.beat("marie")
        await scene.service.reconciler.check()
    task = await scene.desk.task("a")
    assert task.state == "cancelled"
    assert task.error is not None
    assert task.error.message == "local cancelled it: enough. Its worker anga is down and has not confirmed it."
    assert [run.status for run in task.runs] == ["given_up"]
    assert await scene.state("alive") == "running", "its worker lives and has been told"
    assert scene.core.book.in_flight["anga"] == 0
    # What it says when it comes back after all changes nothing.
    await scene.finish("a", worker="anga")
    assert await scene.state("a") == "cancelled"


async def test_a_dispatch_of_which_nothing_can_be_found_out_is_looked_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.submit(task_id="a", worker="anga")
    places = [Place.UNKNOWN, Place.GONE, Place.UNKNOWN, Place.GONE, Place.GONE]

    async def locate(worker: str, wire_id: str) -> Place:
        return places.pop(0)

    monkeypatch.setattr(scene.transport, "locate", locate)
    await scene.service.reconciler.catch_up()
    await async_wait_until(lambda: len(scene.transport.sent) == 2, what="it is sent again")
    assert {dispatch.wire_id for dispatch in scene.transport.sent} == {"a"}
    assert places == []


async def test_a_task_that_one_look_misses_is_not_sent_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.submit(task_id="a", worker="anga")
    places = [Place.GONE, Place.TAKEN]

    async def locate(worker: str, wire_id: str) -> Place:
        return places.pop(0)

    monkeypatch.setattr(scene.transport, "locate", locate)
    await scene.service.reconciler.catch_up()
    await async_wait_until(lambda: places == [], what="it is looked for again")
    await scene.quiet()
    assert [dispatch.wire_id for dispatch in scene.transport.sent] == ["a"]


async def test_what_is_on_its_way_out_is_not_sent_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start may hear of results, and send what they made ready, before it looks for what it had sent."""
    may_send = anyio.Event()
    send = scene.transport.send

    async def send_late(dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        await may_send.wait()
        return await send(dispatches)

    monkeypatch.setattr(scene.transport, "send", send_late)
    await scene.desk.submit(TaskOrder(task_id="a", description="x", worker="anga"), ME)
    await scene.service.reconciler.catch_up()
    for _ in range(2):
        await scene.service.reconciler.check()
    may_send.set()
    await async_wait_until(lambda: scene.transport.sent, what="it is sent")
    await scene.quiet()
    assert [dispatch.wire_id for dispatch in scene.transport.sent] == ["a"]
    # Negative control: what was handed over and is gone is sent again.
    scene.transport.waiting.clear()
    for _ in range(2):
        await scene.service.reconciler.check()
    await async_wait_until(lambda: len(scene.transport.sent) == 2, what="it is sent again")


async def test_what_a_way_failed_to_take_is_found_missing_and_sent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a transport must not have its tasks count as being on their way for ever."""
    send, faults = scene.transport.send, [RuntimeError("a fault")]

    async def send_or_fail(dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        if faults:
            raise faults.pop()
        return await send(dispatches)

    monkeypatch.setattr(scene.transport, "send", send_or_fail)
    await scene.submit(task_id="a", worker="anga")
    assert scene.transport.sent == []
    for _ in range(2):
        await scene.service.reconciler.check()
    await async_wait_until(lambda: where(scene) == {"a": "anga"}, what="it is sent")


async def test_another_one_that_comes_takes_over_what_waits_at_one_that_is_down(scene: Scene) -> None:
    await scene.submit(task_id="a", role="coder")
    await scene.wait(70)
    assert where(scene) == {"a": "anga"}
    await scene.beat("marie")
    assert where(scene) == {"a+2": "marie"}


async def test_one_that_died_while_the_orchestrator_was_away_keeps_nothing(tmp_path: Path) -> None:
    async with open_scene(tmp_path, team=TEAM) as scene:
        await scene.beat("anga")
        await scene.submit(task_id="a", role="coder")
        waiting = scene.transport.waiting
    async with open_scene(tmp_path, team=TEAM) as scene:
        scene.transport.waiting.update(waiting)
        await scene.beat("marie")
        assert where(scene) == {"a+2": "marie"}


async def test_one_that_stops_says_so_at_once(scene: Scene) -> None:
    await scene.beat("anga", status=WorkerStatus.STOPPED)
    assert (await scene.desk.worker("anga")).state == "down"
    await scene.submit(task_id="a", role="coder")
    assert where(scene) == {"a": "marie"}


async def test_a_worker_whose_clock_was_set_back_is_still_heard(scene: Scene) -> None:
    await scene.wait(50)
    await scene.beat("anga", timestamp=scene.at(-3600))
    await scene.wait(30)
    assert [(await scene.desk.worker(name)).state for name in ("anga", "marie", "fabien")] == ["up", "down", "unknown"]


async def test_a_worker_nobody_named_is_known_from_its_first_heartbeat(scene: Scene) -> None:
    with pytest.raises(OrderRefused, match="there is no such worker; there are: anga, fabien, marie"):
        await scene.submit(worker="new")
    with pytest.raises(NotKnown):
        await scene.desk.worker("new")
    await scene.submit(task_id="poem", worker="fabien")
    assert (await scene.reason("poem"))[0] == "worker_down"
    await scene.beat("new")
    await scene.submit(task_id="t", worker="new")
    assert where(scene) == {"t": "new"}


# -- paused


async def test_a_paused_worker_gets_nothing_until_it_goes_on(scene: Scene, tmp_path: Path) -> None:
    await scene.submit(task_id="a", role="coder")
    await scene.submit(task_id="named", worker="anga")
    told = await scene.desk.pause("anga", ME)
    await scene.quiet()
    assert (told.told, told.worker.state, told.worker.paused) == (True, "paused", True)
    assert where(scene) == {"named": "anga", "a+2": "marie"}
    await scene.submit(task_id="later", worker="anga")
    assert await scene.reason("later") == ("worker_paused", "anga is paused and takes nothing new.")
    told = await scene.desk.resume("anga", ME)
    await scene.quiet()
    assert (told.worker.state, where(scene)["later"]) == ("up", "anga")
    assert [command.name.value for _, command in scene.transport.commands] == ["pause", "resume"]
    with pytest.raises(NotKnown):
        await scene.desk.pause("ghost", ME)


async def test_a_pause_outlives_the_orchestrator(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("anga")
        await scene.desk.pause("anga", ME)
    async with open_scene(tmp_path) as scene:
        await scene.beat("anga")
        assert (await scene.desk.worker("anga")).state == "paused"
        await scene.submit(task_id="t")
        assert await scene.state("t") == "ready"


async def test_a_worker_that_says_that_it_is_paused_is_not_sent_anything(scene: Scene) -> None:
    await scene.beat("anga", status=WorkerStatus.PAUSED)
    await scene.submit(task_id="a", role="coder")
    assert where(scene) == {"a": "marie"}
    await scene.beat("marie", status=WorkerStatus.DRAINING)
    await scene.submit(task_id="b", role="coder")
    assert await scene.reason("b") == ("worker_paused", "anga, marie are paused and take nothing new.")
    await scene.beat("marie")
    assert where(scene) == {"a": "marie", "b": "marie"}


# -- money

BUDGET = BudgetSettings(task_usd=1.0, worker_day_usd=3.0, day_usd=4.0, timezone=ZoneInfo("Europe/Berlin"))


@pytest.fixture
async def costly(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, BUDGET, max_in_flight=100, silent_after_s=1e7) as opened:
        # A quarter past eleven in the morning, in Berlin: the day does not end while the test runs.
        moment = opened.at(0).astimezone(BUDGET.timezone)
        opened.clock.lead += (35 - moment.hour) * 3600
        for name in ("anga", "marie"):
            await opened.beat(name, agent="claude")
        yield opened
        await opened.check_book()


async def test_money_is_reserved_before_a_task_starts_and_settled_with_its_cost(costly: Scene) -> None:
    for number in range(5):
        await costly.submit(task_id=f"t{number}", worker="anga" if number < 4 else None)
    assert set(costly.transport.waiting) == {"t0", "t1", "t2", "t4"}
    assert costly.body("t0")["max_budget_usd"] == 1.0
    kind, message = await costly.reason("t3")
    assert kind == "budget"
    assert message.startswith("No money is left for it: anga has $0.00 of $3.00 left for ")
    await costly.submit(task_id="t5")
    assert (await costly.reason("t5"))[1].startswith("No money is left for it: anga has $0.00")
    told = await costly.desk.budget()
    assert (told.spent_usd, told.reserved_usd, told.limit_usd) == (0.0, 4.0, 4.0)
    await costly.finish("t0", cost_usd=0.25)
    # 0.25 spent and 3 reserved: neither the team's day nor anga's has a whole dollar more than this.
    assert "t3" not in costly.transport.waiting
    await costly.finish("t1", cost_usd=0.25)
    assert "t3" in costly.transport.waiting
    worker = await costly.desk.worker("anga")
    assert (worker.spent_today_usd, worker.reserved_usd, worker.budget_usd) == (0.5, 2.0, 3.0)


async def test_the_team_has_a_limit_too(costly: Scene) -> None:
    for number in range(5):
        await costly.submit(task_id=f"t{number}", worker="anga" if number % 2 else "marie")
    kind, message = await costly.reason("t4")
    assert kind == "budget"
    assert message.startswith("No money is left for it: the team has $0.00 of $4.00 left for")


async def test_a_new_day_brings_new_money(costly: Scene) -> None:
    for number in range(4):
        await costly.submit(task_id=f"t{number}", worker="anga")
    assert await costly.state("t3") == "ready"
    day = (await costly.desk.budget()).day
    await costly.wait(13 * 3600)
    assert await costly.state("t3") == "sent"
    assert (await costly.desk.budget()).day > day
    # What was reserved yesterday is settled yesterday.
    await costly.finish("t0", cost_usd=0.5)
    told = await costly.desk.budget()
    assert (told.spent_usd, told.reserved_usd) == (0.0, 1.0)


async def test_the_end_of_the_day_wakes_the_scheduler(costly: Scene) -> None:
    for number in range(4):
        await costly.submit(task_id=f"t{number}", worker="anga")
    timer = costly.core._timer
    assert timer is not None
    left = timer.when() - asyncio.get_running_loop().time()
    midnight = costly.service.book.day_ends(costly.now())
    assert abs(left - (midnight - costly.now())) < 5


async def test_a_run_that_says_nothing_of_its_cost_counts_as_reserved(costly: Scene) -> None:
    await costly.submit(task_id="t")
    await costly.finish("t", TaskStatus.TIMED_OUT)
    assert (await costly.desk.budget()).spent_usd == 1.0
    await costly.submit(task_id="refused")
    await costly.fail("refused", attempts=0)
    assert (await costly.desk.budget()).spent_usd == 1.0


async def test_a_cost_that_is_only_known_in_part_counts_as_all_that_was_reserved(costly: Scene) -> None:
    await costly.submit(task_id="part")
    await costly.finish("part", TaskStatus.FAILED, cost_usd=0.25, cost_is_partial=True)
    assert (await costly.desk.budget()).spent_usd == 1.0
    await costly.submit(task_id="whole")
    await costly.finish("whole", TaskStatus.FAILED, cost_usd=0.25)
    assert (await costly.desk.budget()).spent_usd == 1.25


async def test_a_later_try_may_cost_what_the_first_left(costly: Scene) -> None:
    await costly.submit(task_id="t", retry=AT_ONCE)
    await costly.fail("t", cost_usd=0.75)
    await costly.wait(1)
    assert costly.body("t+2")["max_budget_usd"] == 0.25
    assert (await costly.desk.budget()).reserved_usd == 0.25
    await costly.fail("t+2", cost_usd=0.5)
    await costly.wait(1)
    task = await costly.desk.task("t")
    assert task.error is not None
    assert (task.state, task.error.kind, task.error.message, task.cost_usd) == (
        "failed",
        "max_budget",
        "Its tries have cost $1.25 of $1.00.",
        1.25,
    )


async def test_a_task_whose_money_is_used_up_is_not_retried(costly: Scene) -> None:
    await costly.submit(task_id="t")
    await costly.fail("t", cost_usd=1.0)
    with pytest.raises(Conflict, match=r"Task t has cost \$1\.00 of the \$1\.00 that it may cost; hand in a new one"):
        await costly.desk.retry("t", ME)


async def test_a_later_try_needs_only_what_the_first_left(costly: Scene) -> None:
    await costly.submit(task_id="t", retry=AT_ONCE, worker="anga")
    for number in range(2):
        await costly.submit(task_id=f"o{number}", worker="anga")
        await costly.finish(f"o{number}", cost_usd=1.0)
    await costly.fail("t", cost_usd=0.75)
    await costly.wait(1)
    # 2.75 of 3 are spent, and it may cost 0.25.
    assert await costly.state("t") == "sent"


async def test_what_could_never_be_paid_is_refused(costly: Scene) -> None:
    with pytest.raises(OrderRefused, match=r"max_budget_usd: at most \$1, the limit for a task \(TASK_BUDGET_USD\)"):
        await costly.submit(max_budget_usd=1.5)
    await costly.submit(task_id="small", max_budget_usd=0.1)
    assert costly.body("small")["max_budget_usd"] == 0.1


async def test_a_worker_that_spends_nothing_needs_no_money(costly: Scene) -> None:
    await costly.beat("fabien", agent="echo")
    for number in range(10):
        await costly.submit(task_id=f"t{number}", worker="fabien")
    assert len(costly.transport.waiting) == 10
    assert (await costly.desk.budget()).reserved_usd == 0.0


async def test_what_is_taken_back_gives_its_money_back(costly: Scene) -> None:
    await costly.submit(task_id="t")
    await costly.desk.cancel("t", ME)
    await costly.quiet()
    assert (await costly.desk.budget()).reserved_usd == 0.0
    costly.transport.refuse = "no room"
    await costly.submit(task_id="u")
    assert (await costly.desk.budget()).reserved_usd == 0.0


async def test_money_is_kept_in_mind_over_a_restart(tmp_path: Path) -> None:
    async with open_scene(tmp_path, BUDGET) as scene:
        await scene.beat("anga", agent="claude")
        for number in range(3):
            await scene.submit(task_id=f"t{number}")
        await scene.finish("t0", cost_usd=0.75)
    async with open_scene(tmp_path, BUDGET) as scene:
        await scene.beat("anga", agent="claude")
        told = await scene.desk.budget()
        if told.day == scene.service.book.day_of(scene.now()) and told.spent_usd:
            assert (told.spent_usd, told.reserved_usd) == (0.75, 2.0)
