"""What the bridge of Claude Code's hooks costs, as the real CLI sees it, and what `codehornets hook` takes."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claude import claude_environment, wait_for_results
from benchmarks.rig import MEMORY, ROOT, Percentiles, Rig, open_bench_worker, open_rig, say
from tests.standin.messages_api import MessagesApi, reply, tool_use

_EVENTS_A_CALL = 2
"""PreToolUse and PostToolUse."""


@dataclass(frozen=True)
class HookCost:
    """Milliseconds between two requests to the model's API, with one tool call between them."""

    without: Percentiles
    bridged: Percentiles

    @property
    def p50_ms(self) -> float:
        """What one event adds at the median."""
        return (self.bridged.p50_ms - self.without.p50_ms) / _EVENTS_A_CALL


def hook_cost(calls: int, rounds: int) -> HookCost:
    """Run turns of `calls` tool calls each through two workers in turns: one bridges hooks, one does not."""
    say(f"cost of hooks: {rounds} turns of {calls} tool calls, with and without")
    gaps: dict[str, list[float]] = {"event-driven": [], "hooks": []}
    with ExitStack() as stack:
        api = stack.enter_context(MessagesApi())
        rigs: dict[str, Rig] = {}
        for mode in gaps:
            rig = rigs[mode] = stack.enter_context(open_rig(MEMORY, 1))
            environ = claude_environment(rig, api.url)
            file = Path(environ["WORKSPACE"]) / "file.txt"
            file.write_text("text\n")
            steps = [tool_use("Read", {"file_path": str(file)}) for _ in range(calls)]
            api.when(f"read in {mode}", *steps, reply("read"))
            limits = {"WARM_PROCESSES": "1", "MAX_CONCURRENT": "1", "AGENT_ISOLATION": "off", "ALLOWED_TOOLS": "Read"}
            stack.enter_context(
                open_bench_worker(rig, module="worker_service", **{**environ, **limits, "WORKER_MODE": mode})
            )
        for number in range(1000, 1001 + rounds):
            for mode, rig in rigs.items():
                before = len(api.requests)
                staged, target = rig.stage(number, f"read in {mode} ({number})")
                staged.rename(target)
                wait_for_results(rig, range(number, number + 1), 120)
                moments = [seen.at_ns for seen in api.requests[before:]]
                if number > 1000:  # the first turn of a process is its slow one
                    gaps[mode] += [(later - sooner) / 1e6 for sooner, later in itertools.pairwise(moments)]
    return HookCost(Percentiles.of(gaps["event-driven"]), Percentiles.of(gaps["hooks"]))


def command_seconds(samples: int) -> float:
    """Time `codehornets hook` from its start to its end: the median of so many."""
    say(f"{samples} runs of `codehornets hook`")
    event = {"hook_event_name": "PreToolUse", "session_id": "5f0c", "tool_name": "Bash", "tool_input": {"command": "x"}}
    taken = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as shared:
        command = [sys.executable, "-P", "-m", "orchestrator_service.cli", "hook", "--shared-dir", shared]
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        for _ in range(samples):
            began = time.perf_counter()
            subprocess.run(command, input=json.dumps(event).encode(), env=environ, check=True)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)
