"""What `benchmarks.containers` runs inside the orchestrator's container: a program that hands in triggers as files.

It gets the worker's name and how much to do on its command line, and prints one JSON object. Only what the image has
may be imported.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
import urllib.request
from pathlib import Path

from asyncinotify import Inotify, Mask

SHARED = Path(os.environ.get("SHARED_DIR", "/shared"))
WITHIN_S = 60


def wait_until_ready(names: list[str]) -> None:
    """Return when each worker would take a task."""
    deadline = time.monotonic() + WITHIN_S
    for name in names:
        while not _is_ready(name):
            if time.monotonic() > deadline:
                sys.exit(f"{name} did not become ready within {WITHIN_S} s.")
            time.sleep(0.05)


def _is_ready(name: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{name}:8080/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Client:
    """Triggers into one worker's directory, and the kernel's word of each result."""

    def __init__(self, worker: str, inotify: Inotify) -> None:
        self._triggers = SHARED / "triggers" / worker
        self._staged = SHARED / "bench-staged"
        self._staged.mkdir(exist_ok=True)
        self._inotify = inotify
        self._ids = (f"b{os.getpid()}-{time.time_ns()}-{number}" for number in itertools.count())
        inotify.add_watch(SHARED / "results" / worker, Mask.CREATE | Mask.MOVED_TO)

    def stage(self) -> tuple[Path, str]:
        """Write a task where nobody looks; returns its file and its id."""
        task_id = next(self._ids)
        staged = self._staged / task_id
        staged.write_text(json.dumps({"task_id": task_id, "description": "a task of the measurement"}))
        return staged, task_id

    def hand_in(self, staged: Path, task_id: str) -> None:
        """Rename it into place."""
        staged.rename(self._triggers / f"task-{task_id}.trigger")

    def wait_for(self, task_ids: set[str]) -> None:
        """Return when all their results are in place."""
        missing = {f"{task_id}.json" for task_id in task_ids}
        while missing:
            event = self._inotify.sync_get()
            if event is None:
                sys.exit(f"{len(missing)} of {len(task_ids)} results did not come within {WITHIN_S} s.")
            missing.discard(str(event.name))


def latencies_ms(client: Client, samples: int, longest_gap_s: float) -> list[float]:
    """Time one task after the other, from its rename to its result, with random gaps: no timer is met in step."""
    taken: list[float] = []
    for _ in range(samples):
        staged, task_id = client.stage()
        time.sleep(random.uniform(0, longest_gap_s))
        started = time.perf_counter()
        client.hand_in(staged, task_id)
        client.wait_for({task_id})
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def rate(client: Client, count: int) -> float:
    """Return tasks a second for so many triggers at once, from the first rename to the last result."""
    staged = [client.stage() for _ in range(count)]
    started = time.perf_counter()
    for path, task_id in staged:
        client.hand_in(path, task_id)
    client.wait_for({task_id for _, task_id in staged})
    return count / (time.perf_counter() - started)


def main(worker: str, samples: str, longest_gap_s: str, tasks: str, *names: str) -> None:
    """Measure, and print what came out; with no samples only wait until all are ready."""
    wait_until_ready([worker, *names])
    figures: dict[str, list[float]] = {"latencies_ms": [], "rates": []}
    if int(samples):
        with Inotify(sync_timeout=WITHIN_S) as inotify:
            client = Client(worker, inotify)
            latencies_ms(client, 10, 0.05)
            figures["latencies_ms"] = latencies_ms(client, int(samples), float(longest_gap_s))
            figures["rates"] = [rate(client, int(tasks)) for _ in range(3)]
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
