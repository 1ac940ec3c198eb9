"""Whatever happens in whatever order: the scheduler's mind is what the ledger holds, and events have no gap."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent_bus.messages import TaskStatus
from orchestrator_service.errors import OrchestratorError
from orchestrator_service.orders import GraphOrder, RetryPolicy, TaskOrder, TaskQuery
from orchestrator_service.records import OPEN_STATES
from orchestrator_service.settings import BudgetSettings
from tests.integration.core_harness import ME, Scene, open_scene, team

BUDGET = BudgetSettings(task_usd=1.0, worker_day_usd=6.0, day_usd=10.0)
TEAM = team(anga=("coder", []), marie=("coder", []), fabien=("poet", []))
STEPS = 50
NAMES = ("anga", "marie", "fabien")


def some_order(choice: random.Random) -> dict[str, Any]:
    """Return the fields of a task; what it needs are numbers of those before it."""
    fields: dict[str, Any] = {
        "priority": choice.choice([10, 50, 90]),
        "on_failure": choice.choice(["continue", "fail_dependents", "fail_dependents"]),
        "retry": RetryPolicy(
            max_retries=choice.choice([0, 0, 0, 2]), initial_seconds=choice.choice([0.01, 60.0]), jitter=0
        ),
        "needs": [choice.randrange(12) for _ in range(choice.randint(0, 3))],
    }
    if choice.random() < 0.2:
        fields["worker"] = choice.choice(NAMES)
    elif choice.random() < 0.3:
        fields["session"] = choice.choice(["s", "t"])
    elif choice.random() < 0.3:
        fields["role"] = "coder"
    if choice.random() < 0.3:
        fields["max_budget_usd"] = choice.choice([0.1, 1.0])
    return fields


def some_step(choice: random.Random) -> tuple[Any, ...]:
    """Return something to be done, and with what."""
    at = choice.randrange(1000)
    return choice.choices(
        [
            ("submit", some_order(choice)),
            ("graph", [some_order(choice) for _ in range(choice.randint(2, 6))], choice.random() < 0.5),
            ("take", at),
            ("complete", at, choice.choice([None, 0.3, 2.0])),
            ("fail", at, choice.choice(["agent_failed", "invalid_task"])),
            ("time_out", at),
            ("cancel", at),
            ("retry", at),
            ("pause", choice.choice(NAMES)),
            ("resume", choice.choice(NAMES)),
            ("beat", choice.choice(NAMES)),
            ("wait", choice.choice([1, 70, 30_000])),
            ("spoil",),
        ],
        weights=[3, 4, 4, 5, 4, 1, 2, 3, 1, 2, 4, 1, 1],
    )[0]


class Story:
    """Carries steps out, as far as they can be."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.made = 0

    def order(self, fields: dict[str, Any], before: list[str]) -> TaskOrder:
        needs = [before[each % len(before)] for each in fields.get("needs", [])] if before else []
        given_ = {name: value for name, value in fields.items() if name != "needs"}
        self.made += 1
        return TaskOrder(description="x", task_id=f"t{self.made}", dependencies=list(dict.fromkeys(needs)), **given_)

    def on_the_way(self, at: int) -> str | None:
        found = sorted([*self.scene.transport.waiting, *self.scene.transport.taken])
        return found[at % len(found)] if found else None

    async def task(self, at: int) -> str | None:
        found = sorted(await self.scene.states())
        return found[at % len(found)] if found else None

    async def do(self, step: tuple[Any, ...]) -> None:
        scene, verb = self.scene, step[0]
        match verb:
            case "submit":
                await scene.desk.submit(self.order(step[1], sorted(await scene.states())), ME)
            case "graph":
                tasks: list[TaskOrder] = []
                for fields in step[1]:
                    tasks.append(self.order(fields, [task.task_id or "" for task in tasks]))
                # Those that are needed may come behind those that need them.
                await scene.desk.submit(GraphOrder(tasks=tasks[::-1] if step[2] else tasks), ME)
            case "take" if scene.transport.waiting:
                waiting = sorted(scene.transport.waiting)
                await scene.take(waiting[step[1] % len(waiting)])
            case "complete" | "fail" | "time_out" if (wire_id := self.on_the_way(step[1])) is not None:
                if verb == "complete":
                    await scene.finish(wire_id, cost_usd=step[2])
                elif verb == "fail":
                    await scene.fail(wire_id, kind=step[2])
                else:
                    await scene.finish(wire_id, TaskStatus.TIMED_OUT)
            case "cancel" if (task_id := await self.task(step[1])) is not None:
                await scene.desk.cancel(task_id, ME)
            case "retry" if (task_id := await self.task(step[1])) is not None:
                await scene.desk.retry(task_id, ME)
            case "pause":
                await scene.desk.pause(step[1], ME)
            case "resume":
                await scene.desk.resume(step[1], ME)
            case "beat":
                await scene.beat(step[1], agent="claude" if step[1] != "fabien" else "echo")
            case "wait":
                await scene.wait(step[1])
            case "spoil":
                await self._spoil()

    async def _spoil(self) -> None:
        def change(step: Any) -> None:
            step.book.moved(None, "ready")
            step.book.lanes["[null, null, []]"] += 1
            raise ValueError("spoiled")

        with contextlib.suppress(ValueError):
            await self.scene.core.change(change)

    async def run(self, story: list[tuple[Any, ...]]) -> None:
        for name in NAMES:
            await self.do(("beat", name))
        for step in story:
            with contextlib.suppress(OrchestratorError):
                await self.do(step)
            await self.scene.quiet()
            await self.scene.check_book()

    async def end(self) -> None:
        """Let everything that can go on do so, and see that nothing is stuck."""
        scene = self.scene
        for name in NAMES:
            await self.do(("beat", name))
            await self.do(("resume", name))
            await scene.quiet()
        for _ in range(400):
            if (wire_id := self.on_the_way(0)) is not None:
                await scene.finish(wire_id, cost_usd=0.0)
                continue
            states = set((await scene.states()).values())
            if not states & {state.value for state in OPEN_STATES}:
                break
            for name in NAMES:
                await self.do(("beat", name))
            # A pause before a retry, or the money of a new day.
            await scene.wait(90_000)
            for name in NAMES:
                await self.do(("beat", name))
        left = await scene.desk.tasks(TaskQuery(states=tuple(state.value for state in OPEN_STATES)))
        assert [(task.task_id, task.state, task.waits_for) for task in left.tasks] == []
        await scene.check_book()
        assert scene.core.open == {}

    async def check_events(self) -> None:
        rows = await self.scene.core.database.read(
            lambda db: db.execute("SELECT seq, event, task_id FROM events ORDER BY seq").fetchall()
        )
        assert [seq for seq, _, _ in rows] == list(range(1, len(rows) + 1))
        ended: dict[str, bool] = {}
        for _, event, task_id in rows:
            if event == "task_submitted":
                assert task_id not in ended
            if event == "task_ended":
                assert not ended[task_id], f"{task_id} ended twice"
            if task_id is not None:
                ended[task_id] = event == "task_ended"
        assert all(ended.values())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_the_book_is_right_and_nothing_is_stuck(seed: int) -> None:
    choice = random.Random(seed)

    async def live(folder: Path) -> None:
        async with open_scene(folder, BUDGET, team=TEAM, silent_after_s=60.0) as scene:
            played = Story(scene)
            await played.run([some_step(choice) for _ in range(STEPS)])
            await played.end()
            await played.check_events()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder)))
