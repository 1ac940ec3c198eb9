"""Figures of the worker with the real Claude Code CLI; a process of its own stands in for the model's API."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.processes import open_process
from benchmarks.rig import (
    MEMORY,
    ROOT,
    Percentiles,
    Rig,
    Usage,
    open_bench_worker,
    open_rig,
    resident_mb,
    say,
    usage_of,
)
from worker_service.agents.claude_command import find_cli
from worker_service.agents.leashed_process import descendants_of
from worker_service.settings import ClaudeSettings


@contextmanager
def open_api() -> Iterator[str]:
    """Start the stand-in and yield its URL."""
    with tempfile.TemporaryDirectory(prefix="codehornets-bench-") as folder:
        log = Path(folder) / "api.out"
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with open_process([sys.executable, "-m", "tests.standin.messages_api", "--reply", "ok"], log, environ) as child:
            while not (text := log.read_text()).endswith("\n"):
                child.check()
                time.sleep(0.01)
            yield json.loads(text.splitlines()[0])["url"]


def seen_by(url: str) -> list[dict[str, Any]]:
    """Return the requests that the stand-in had."""
    with urllib.request.urlopen(f"{url}/__requests", timeout=10) as answer:
        seen: list[dict[str, Any]] = json.load(answer)
        return seen


def claude_environment(rig: Rig, url: str) -> dict[str, str]:
    home = rig.shared / "home"
    home.mkdir(exist_ok=True)
    workspace = rig.shared / "workspace"
    workspace.mkdir(exist_ok=True)
    return {
        "AGENT": "claude",
        "HOME": str(home),
        "WORKSPACE": str(workspace),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "dummy",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "LANG": "C.UTF-8",
    }


def wait_for_results(rig: Rig, numbers: range, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for number in numbers:
        while not rig.has_result(number):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no result of task {number} within {timeout_s:g} s")
            time.sleep(0.002)


def warm_latency(samples: int) -> Percentiles:
    """Time a trigger renamed into place until the model's API has the request, with a warm process waiting."""
    say(f"latency of {samples} Claude tasks, warm")
    gaps = random.Random(1)
    with open_api() as url, open_rig(MEMORY, 1) as rig:
        environ = claude_environment(rig, url)
        with open_bench_worker(rig, module="worker_service", WARM_PROCESSES="2", MAX_CONCURRENT="4", **environ):
            _prime(rig)
            sent: dict[str, int] = {}
            for number in range(1000, 1000 + samples):
                staged, target = rig.stage(number, f"prompt-{number}")
                sent[f"prompt-{number}"] = time.monotonic_ns()
                staged.rename(target)
                wait_for_results(rig, range(number, number + 1), 30)
                time.sleep(gaps.uniform(0.15, 0.25))
            arrived = {seen["prompt"]: seen["at_ns"] for seen in seen_by(url)}
    return Percentiles.of([(arrived[prompt] - at_ns) / 1e6 for prompt, at_ns in sent.items()])


def _prime(rig: Rig) -> None:
    for number in range(900, 902):
        staged, target = rig.stage(number, f"warm-up {number}")
        staged.rename(target)
        wait_for_results(rig, range(number, number + 1), 60)
    time.sleep(3)


def cold(samples: int) -> tuple[Percentiles, float]:
    """Start `claude -p` for each prompt, one after the other: time to the API's request, and tasks a second."""
    say(f"{samples} starts of `claude -p`")
    with open_api() as url, open_rig(MEMORY, 1) as rig:
        environ = {"PATH": os.environ["PATH"], **claude_environment(rig, url)}
        cli = find_cli(ClaudeSettings(), environ)
        if cli is None:
            raise RuntimeError("no Claude Code was found")
        sent: dict[str, int] = {}
        began = time.monotonic()
        for number in range(samples):
            sent[f"cold-{number}"] = time.monotonic_ns()
            subprocess.run(
                [cli, "-p", f"cold-{number}"],
                env=environ,
                cwd=environ["WORKSPACE"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=60,
            )
        rate = samples / (time.monotonic() - began)
        arrived = {seen["prompt"]: seen["at_ns"] for seen in seen_by(url)}
    return Percentiles.of([(arrived[prompt] - at_ns) / 1e6 for prompt, at_ns in sent.items()]), rate


def rate(tasks: int, slots: int) -> float:
    """Count Claude tasks a second through one worker, each a conversation of its own."""
    say(f"{tasks} Claude tasks, {slots} at once")
    with open_api() as url, open_rig(MEMORY, 1) as rig:
        environ = claude_environment(rig, url)
        count = str(slots)
        with open_bench_worker(rig, module="worker_service", WARM_PROCESSES=count, MAX_CONCURRENT=count, **environ):
            _prime(rig)
            time.sleep(slots)
            staged = [rig.stage(number, f"task-{number}") for number in range(1000, 1000 + tasks)]
            began = time.monotonic()
            for source, target in staged:
                source.rename(target)
            wait_for_results(rig, range(1000, 1000 + tasks), 240)
            took = time.monotonic() - began
            sessions = {
                json.loads((rig.results / f"b{number}.json").read_text())["session_id"]
                for number in range(1000, 1000 + tasks)
            }
    if len(sessions) != tasks:
        raise RuntimeError(f"{tasks} tasks had {len(sessions)} conversations")
    return tasks / took


def idle_with_warm_processes(seconds: float, processes: int) -> tuple[Usage, float, float]:
    """Measure an idle worker and its waiting processes: use of all, and megabytes of the worker and of the rest."""
    say(f"an idle worker with {processes} warm Claude processes for {seconds:g} s")
    with open_api() as url, open_rig(MEMORY, 1) as rig:
        environ = claude_environment(rig, url)
        with open_bench_worker(
            rig, module="worker_service", WARM_PROCESSES=str(processes), MAX_CONCURRENT="4", **environ
        ) as worker:
            _prime(rig)
            # What the priming started beyond the warm ones is kept for a minute.
            deadline = time.monotonic() + 120
            while len(descendants_of(worker.pid)) > 2 * processes and time.monotonic() < deadline:
                time.sleep(1)
            time.sleep(5)
            pids = [worker.pid, *descendants_of(worker.pid)]
            before = usage_of(pids)
            time.sleep(seconds)
            used = usage_of(pids).since(before)
            rest = sum(resident_mb(pid) for pid in pids[1:])
            return used, resident_mb(worker.pid), rest
