"""How soon a stuck task is noticed, that healthy ones are left alone, and what watching costs; with the real CLI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.claude import claude_environment
from benchmarks.rig import MEMORY, WORKER, Rig, open_bench_worker, open_rig, resident_mb, say, usage_of
from tests.standin.messages_api import MessagesApi, Step, hang, rate_limited, reply, slow, tool_use, unending
from worker_service.agents.leashed_process import descendants_of

ALLOWED_S = 5.0
"""How much later than configured a stuck task may be noticed."""

_REPEATS = 5
_PATIENCE_S = 60.0
_SLEEP = "python3 -c 'import time; time.sleep(3600)'"
_TASK = 1000


def _burn(seconds: float) -> str:
    return f"python3 -c 'import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass'"


@dataclass(frozen=True)
class _Task:
    """A task and what its events tell."""

    rig: Rig
    number: int

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.rig.shared / "events" / WORKER / f"b{self.number}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = (json.loads(line) for line in lines if line.endswith("\n"))
        return [event for event in found if event["event"] == kind]

    def moments(self, kind: str) -> list[float]:
        return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in self.events(kind)]


def _submit(rig: Rig, number: int, prompt: str) -> _Task:
    staged, target = rig.stage(number, prompt)
    staged.rename(target)
    return _Task(rig, number)


def _wait(condition: Callable[[], object], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {within_s:g} s")
        time.sleep(0.05)


def detection_delays(after_s: float) -> dict[str, float]:
    """Stage a stuck task for each signal; return how many seconds later than `after_s` each was noticed.

    The moment from which to count is read where the silence begins: the last request, hook or work; for a circle of
    tool calls it is the answer that makes it one too many, and nothing is added.
    """
    say(f"stuck tasks, one for each signal, to be noticed after {after_s:g} s")
    limits = {
        "STUCK_AFTER": str(after_s),
        "STUCK_LINGER": str(after_s),
        "STUCK_REPEATS": str(_REPEATS),
        "STUCK_ACTION": "tell",
    }
    with ExitStack() as stack:
        api = stack.enter_context(MessagesApi())
        rig = stack.enter_context(open_rig(MEMORY, 1))
        environ = _claude(rig, api, slots=5)
        done = rig.shared / "burnt"
        api.when("hang", hang())
        api.when("hooks", tool_use("Bash", {"command": "true"}), hang())
        api.when("burn", tool_use("Bash", {"command": f"{_burn(after_s / 2)}; touch {done}; {_SLEEP}"}))
        api.when("linger", unending("an answer"))
        api.when("circle", *[tool_use("Bash", {"command": "echo no luck"})] * _REPEATS, hang())
        stack.enter_context(
            open_bench_worker(rig, module="worker_service", **{**environ, **limits, "WORKER_MODE": "hooks"})
        )
        names = ("hang", "hooks", "burn", "linger", "circle")
        tasks = {name: _submit(rig, _TASK + number, name) for number, name in enumerate(names)}
        for name, task in tasks.items():
            within_s = 2 * after_s + _PATIENCE_S
            _wait(lambda task=task: task.events("task_stuck"), within_s, f"the notice of {name}")  # type: ignore[misc]
        to_wall = time.time() - time.monotonic()
        asked = {seen.prompt: seen.at_ns / 1e9 + to_wall for seen in api.requests}
        noticed = {name: task.moments("task_stuck")[0] for name, task in tasks.items()}
        hooks = [event for event in tasks["hooks"].events("hook") if event["data"].get("source") == "hook"]
        last_hook = datetime.fromisoformat(hooks[-1]["timestamp"]).timestamp()
        return {
            "stream_silence": noticed["hang"] - asked["hang"] - after_s,
            "hook_silence": noticed["hooks"] - last_hook - after_s,
            "idle_cpu": noticed["burn"] - done.stat().st_mtime - after_s,
            "lingering": noticed["linger"] - asked["linger"] - after_s,
            "repeated_tool": noticed["circle"] - tasks["circle"].moments("tool_result")[_REPEATS - 1],
        }


def false_alarms(after_s: float, rounds: int) -> tuple[int, int]:
    """Run healthy tasks that look like stuck ones; return how many were found stuck, and how many there were."""
    say(f"{rounds} × 5 healthy tasks, each beyond its limit of {after_s:g} s")
    long_s = 3 * after_s
    limits = {"STUCK_AFTER": str(after_s), "STUCK_LINGER": str(after_s), "STUCK_REPEATS": str(_REPEATS)}
    healthy: dict[str, tuple[Step, ...]] = {
        "write slowly": (slow(" ".join(["word"] * int(long_s * 2)), chunk_delay_s=0.5),),
        "build": (tool_use("Bash", {"command": _burn(long_s)}), reply("built")),
        "wait as announced": (rate_limited(retry_after_s=9), reply("at last")),
        "poll": (
            *[tool_use("Bash", {"command": "echo x >> lines; wc -l lines"})] * (3 * _REPEATS),
            reply("polled"),
        ),
        "call hooks": (
            *[tool_use("Bash", {"command": f"python3 -c 'import time; time.sleep({after_s / 2})'; date +%N"})] * 6,
            reply("called"),
        ),
    }
    with ExitStack() as stack:
        api = stack.enter_context(MessagesApi())
        rig = stack.enter_context(open_rig(MEMORY, 1))
        environ = _claude(rig, api, slots=len(healthy))
        settings = Path(environ["WORKSPACE"]) / ".claude" / "settings.json"
        settings.parent.mkdir()
        # Each of them also works on after its answer.
        hook = {"type": "command", "command": _burn(1.5 * after_s), "timeout": 600}
        settings.write_text(json.dumps({"hooks": {"Stop": [{"hooks": [hook]}]}}))
        for name, steps in healthy.items():
            api.when(name, *steps)
        stack.enter_context(
            open_bench_worker(rig, module="worker_service", **{**environ, **limits, "WORKER_MODE": "hooks"})
        )
        tasks: list[_Task] = []
        for turn in range(rounds):
            first = _TASK + 100 * turn
            tasks += [_submit(rig, first + number, f"{name} ({turn})") for number, name in enumerate(healthy)]
            for task in tasks[-len(healthy) :]:
                _wait(lambda task=task: rig.has_result(task.number), 20 * long_s, f"task {task.number}")  # type: ignore[misc]
        return sum(bool(task.events("task_stuck")) for task in tasks), len(tasks)


@dataclass(frozen=True)
class WatchCost:
    """What it costs to watch a task that runs."""

    cpu_share: float
    """Of one CPU, a task."""
    memory_kb: float
    worker_us: float
    """CPU microseconds of the worker for each piece of an answer that the model streams."""
    claude_us: float
    """The same of Claude Code."""


def watch_cost(tasks: int, seconds: float, pieces: int) -> WatchCost:
    """Compare workers with supervision and without: so many silent commands, and one answer in so many pieces."""
    say(f"cost of supervision: {tasks} silent tasks for {seconds:g} s, an answer in {pieces} pieces, on and off")
    silent = {on: _silent(tasks, seconds, on) for on in (True, False)}
    streamed = {on: _streamed(pieces, on) for on in (True, False)}
    return WatchCost(
        cpu_share=(silent[True][0] - silent[False][0]) / seconds / tasks,
        memory_kb=(silent[True][1] - silent[False][1]) * 1000 / tasks,
        worker_us=1e6 * (streamed[True][0] - streamed[False][0]) / pieces,
        claude_us=1e6 * (streamed[True][1] - streamed[False][1]) / pieces,
    )


def _silent(tasks: int, seconds: float, on: bool) -> tuple[float, float]:
    """Return the CPU seconds and the megabytes that the tasks cost the worker."""
    limits = {"MAX_CONCURRENT": str(tasks), "STUCK_AFTER": "900" if on else "0"}
    with (
        open_rig(MEMORY, 1) as rig,
        open_bench_worker(
            rig, module="worker_service", AGENT="command", AGENT_COMMAND="sleep 3600", SHUTDOWN_GRACE="0", **limits
        ) as worker,
    ):
        before_mb = resident_mb(worker.pid)
        rig.stage_many(tasks, _TASK)
        _wait(lambda: len(descendants_of(worker.pid)) >= 2 * tasks, 120, "the start of all tasks")
        # A leash that has just started still works a little.
        time.sleep(5)
        before = usage_of([worker.pid])
        time.sleep(seconds)
        return usage_of([worker.pid]).since(before).cpu_s, resident_mb(worker.pid) - before_mb


def _streamed(pieces: int, on: bool) -> tuple[float, float]:
    """Return the CPU seconds of the worker and of Claude Code for one answer."""
    with ExitStack() as stack:
        api = stack.enter_context(MessagesApi())
        rig = stack.enter_context(open_rig(MEMORY, 1))
        environ = _claude(rig, api, slots=1)
        api.when("write", slow(" ".join(["word"] * pieces), chunk_delay_s=0.002))
        worker = stack.enter_context(
            open_bench_worker(rig, module="worker_service", STUCK_AFTER="900" if on else "0", **environ)
        )
        _submit(rig, _TASK, "write it once")
        _wait(lambda: rig.has_result(_TASK), 300, "the first answer")
        family = [worker.pid], list(descendants_of(worker.pid))
        before = [usage_of(pids) for pids in family]
        _submit(rig, _TASK + 1, "write it again")
        _wait(lambda: rig.has_result(_TASK + 1), 300, "the second answer")
        own, below = (usage_of(pids).since(earlier).cpu_s for pids, earlier in zip(family, before, strict=True))
        return own, below


def _claude(rig: Rig, api: MessagesApi, *, slots: int) -> dict[str, str]:
    limits = {"WARM_PROCESSES": "1", "MAX_CONCURRENT": str(slots), "AGENT_ISOLATION": "off", "ALLOWED_TOOLS": "Bash"}
    return {**claude_environment(rig, api.url), **limits, "SHUTDOWN_GRACE": "0"}
