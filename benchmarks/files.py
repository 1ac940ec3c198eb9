"""Figures of the worker with triggers as files and the echo agent."""

from __future__ import annotations

import random
import time
from pathlib import Path

from benchmarks.peers.record import Record
from benchmarks.rig import (
    DEADLINE_S,
    MEMORY,
    Percentiles,
    Rig,
    Usage,
    open_bench_worker,
    open_rig,
    resident_mb,
    say,
    usage_of,
    wait_for_results,
)

WARM_UP = 50
GAP_S = (0.004, 0.006)
"""The peers' gaps, for the same reason: no worker can fall into step with the producer."""


def trigger_latency(samples: int, slots: int, place: Path = MEMORY) -> Percentiles:
    """Time a rename into place until the agent has the prompt; one task at a time."""
    say(f"latency of {samples} triggers, one at a time")
    total = WARM_UP + samples
    gaps = random.Random(1)
    with open_rig(place, total) as rig, open_bench_worker(rig, MAX_CONCURRENT=str(slots)) as worker:
        record = Record(rig.record_path)
        for number in range(total):
            staged, target = rig.stage(number)
            record.write(number, time.monotonic_ns(), 0)
            staged.rename(target)
            deadline = time.monotonic() + 10
            while not record.read(number)[1]:
                worker.child.check()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"task {number} was not started within 10 s")
                time.sleep(0.0005)
            time.sleep(gaps.uniform(*GAP_S))
        pairs = [record.read(number) for number in range(WARM_UP, total)]
    return Percentiles.of([(entered - sent) / 1e6 for sent, entered in pairs])


def throughput(tasks: int, slots: int, place: Path) -> float:
    """Count the no-op tasks a second from a preloaded queue, until the last result is in place."""
    say(f"throughput of {tasks} tasks, {slots} at once, on {place}")
    with open_rig(place, tasks) as rig:
        rig.stage_many(tasks)
        with open_bench_worker(rig, MAX_CONCURRENT=str(slots)) as worker:
            wait_for_results(rig, worker, tasks)
            ended_ns = time.monotonic_ns()
            record = Record(rig.record_path)
            started_ns = min(record.read(number)[1] for number in range(tasks))
    return tasks / ((ended_ns - started_ns) / 1e9)


def idle(seconds: float) -> tuple[Usage, float]:
    """Measure a worker that has nothing to do: use over so many seconds, and resident megabytes."""
    say(f"an idle worker for {seconds:g} s")
    with open_rig(MEMORY, 1) as rig, open_bench_worker(rig, module="worker_service") as worker:
        time.sleep(3)
        before = usage_of([worker.pid])
        time.sleep(seconds)
        return usage_of([worker.pid]).since(before), resident_mb(worker.pid)


def start_seconds(runs: int) -> float:
    """Return the median time from the start of the process to /readyz 200."""
    say(f"{runs} starts")
    times = []
    for _ in range(runs):
        with open_rig(MEMORY, 1) as rig, open_bench_worker(rig, module="worker_service") as worker:
            times.append(worker.ready_s)
    return sorted(times)[len(times) // 2]


def backlog(tasks: int, slots: int) -> tuple[float, float, float]:
    """Start on a large backlog: seconds from ready to the first dispatch, tasks a second, and megabytes more."""
    say(f"a backlog of {tasks} triggers")
    with open_rig(MEMORY, 1) as rig, open_bench_worker(rig, MAX_CONCURRENT=str(slots)) as worker:
        small_mb = resident_mb(worker.pid)
    with open_rig(MEMORY, tasks) as rig:
        rig.stage_many(tasks)
        record = Record(rig.record_path)
        with open_bench_worker(rig, MAX_CONCURRENT=str(slots)) as worker:
            ready_ns = time.monotonic_ns()
            first_ns = _first_entry(record, rig, tasks)
            largest_mb = small_mb
            deadline = time.monotonic() + DEADLINE_S
            while not all(record.read(number)[1] for number in range(tasks)):
                largest_mb = max(largest_mb, resident_mb(worker.pid))
                worker.child.check()
                if time.monotonic() > deadline:
                    raise RuntimeError("the backlog was not worked off in time")
                time.sleep(0.25)
            entries = sorted(record.read(number)[1] for number in range(tasks))
    rate = tasks / ((entries[-1] - entries[0]) / 1e9)
    return max(0.0, (first_ns - ready_ns) / 1e9), rate, largest_mb - small_mb


def _first_entry(record: Record, rig: Rig, tasks: int) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if rig.count_results():
            return min(entered for number in range(tasks) if (entered := record.read(number)[1]))
        time.sleep(0.001)
    raise RuntimeError("nothing was dispatched within 30 s")
