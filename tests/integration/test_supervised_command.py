"""Stuck commands: what can be seen of a program that is no Claude Code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_bus.messages import Task, TaskStatus
from tests.waiting import async_wait_until
from worker_service.agents.base import Run, StopCause
from worker_service.agents.command import CommandAgent
from worker_service.metrics import Metrics
from worker_service.settings import StuckAction, SupervisionSettings
from worker_service.supervision.supervisor import Supervisor

pytestmark = pytest.mark.timeout(90)

QUICK = SupervisionSettings(after_s=1.0, linger_s=0.8, interrupt_after_s=0.3, kill_after_s=1.0)
HEALTHY = SupervisionSettings(after_s=2.0, linger_s=2.0, interrupt_after_s=0.0, kill_after_s=1.0)
RESULT = json.dumps({"is_error": False, "type": "result", "result": "done"})


class Supervised:
    """One run of a program, supervised."""

    def __init__(self, program: str, folder: Path, settings: SupervisionSettings) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.metrics = Metrics("marie")
        self.supervisor = Supervisor(settings, self.metrics, worker="marie")
        self.run = Run(task=Task(task_id="7", description="x"), emit=lambda event, data: self._note(event, data))
        self.agent = CommandAgent((sys.executable, "-u", "-S", "-c", program), environment={}, workspace=folder)

    def _note(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))

    @property
    def stages(self) -> list[str]:
        return [data["stage"] for event, data in self.events if event == "task_stuck"]

    @property
    def signals(self) -> set[str]:
        return set(next(data for event, data in self.events if event == "task_stuck")["signals"])

    async def to_its_end(self) -> Supervised:
        with anyio.CancelScope() as scope:

            def end() -> None:
                self.run.stop_cause = StopCause.STUCK
                scope.cancel()

            self.run.supervise = lambda signs: self.supervisor.take(self.run, signs, end)
            await self.agent.run(self.run)
        self.supervisor.drop(self.run)
        return self


async def test_one_that_waits_for_ever_is_asked_to_end(tmp_path: Path) -> None:
    run = await Supervised("print('begun'); import time; time.sleep(600)", tmp_path, QUICK).to_its_end()
    assert run.signals == {"stream_silence", "idle_cpu"}
    assert run.stages == ["noticed", "interrupted"]
    assert run.run.outcome.output == "begun\n" and not run.run.answered
    assert ("interrupted", {"cause": "stuck", "orderly": True}) in run.events


async def test_one_that_will_not_end_is_killed(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun'); time.sleep(600)"
    run = await Supervised(program, tmp_path, QUICK).to_its_end()
    assert run.stages == ["noticed", "interrupted", "killed"]
    assert run.run.outcome.output == "begun\n"


async def test_one_that_works_in_silence_is_left_alone(tmp_path: Path) -> None:
    program = "import time; end = time.monotonic() + 8\nwhile time.monotonic() < end: pass\nprint('built')"
    run = await Supervised(program, tmp_path, HEALTHY).to_its_end()
    assert (run.run.outcome.status, run.run.outcome.output, run.stages) == (TaskStatus.COMPLETED, "built\n", [])


async def test_one_that_talks_without_working_is_left_alone(tmp_path: Path) -> None:
    program = "import time\nfor number in range(24): print(number); time.sleep(0.3)"
    run = await Supervised(program, tmp_path, HEALTHY).to_its_end()
    assert (run.run.outcome.status, run.stages) == (TaskStatus.COMPLETED, [])


async def test_one_that_lives_on_after_its_output_is_closed_lingers(tmp_path: Path) -> None:
    program = "import os, time; print('answer'); os.close(1); time.sleep(600)"
    run = await Supervised(program, tmp_path, QUICK).to_its_end()
    assert (run.signals, run.run.outcome.output) == ({"lingering"}, "answer\n")
    assert not run.run.answered


async def test_a_claude_that_lives_on_after_its_result_line_has_answered(tmp_path: Path) -> None:
    program = f"import time; print('{{}}'); print({RESULT!r}); time.sleep(600)"
    run = await Supervised(program, tmp_path, QUICK).to_its_end()
    assert (run.signals, run.run.answered) == ({"lingering"}, True)


async def test_one_that_ends_soon_after_its_answer_is_left_alone(tmp_path: Path) -> None:
    program = "import os, time; print('answer'); os.close(1); time.sleep(1)"
    run = await Supervised(program, tmp_path, SupervisionSettings(linger_s=20.0)).to_its_end()
    assert (run.run.outcome.status, run.stages) == (TaskStatus.COMPLETED, [])


async def test_where_it_is_only_told_of_nothing_is_interrupted(tmp_path: Path) -> None:
    settings = SupervisionSettings(after_s=0.5, interrupt_after_s=0.0, action=StuckAction.TELL)
    program = "import time; print('begun'); time.sleep(600)"
    run = Supervised(program, tmp_path, settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.to_its_end)
        await async_wait_until(lambda: run.stages == ["noticed"], 40)
        (ward,) = run.supervisor._wards.values()
        # Many looks later it is still only told of.
        looks = ward.look_at
        await async_wait_until(lambda: ward.look_at > looks + 0.5, 40)
        assert (run.stages, run.run.stop_cause) == (["noticed"], None)
        tasks.cancel_scope.cancel()


async def test_there_is_a_timer_only_while_a_task_runs(tmp_path: Path) -> None:
    run = Supervised("print('done')", tmp_path, SupervisionSettings())
    assert run.supervisor._timer is None
    seen: list[bool] = []
    supervise = run.supervisor.take

    def take(*arguments: Any) -> None:
        supervise(*arguments)
        seen.append(run.supervisor._timer is not None)

    run.supervisor.take = take  # type: ignore[method-assign]
    await run.to_its_end()
    assert (seen, run.supervisor._timer) == ([True], None)
