"""Figures of the live events with many clients, some of which never read."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue

from benchmarks.orchestrator import listeners
from benchmarks.orchestrator_rig import API, BenchOrchestrator, Line, open_team, request, wait_for_ends
from benchmarks.rig import MEMORY, WORKER, Rig, open_rig, p95_of, resident_mb, say, usage_of

TASKS_A_SECOND = 50
DEAF = 5
_EVENT = "task_submitted"
_SETTLE_S = 1.0
_HANDS = 16
"""Connections on which tasks are handed in."""


@dataclass(frozen=True)
class StreamFigures:
    """What the followers of the team saw, in milliseconds from the moment a POST is due to the event."""

    alone_p95_ms: float
    """With one client."""
    many_p95_ms: float
    """Of all clients that read, together."""
    typical_p95_ms: float
    """Of the client in the middle."""
    slowest_p95_ms: float
    """Of the client that fared worst."""
    lost: int
    """Events that a client which reads had not seen a second after the last one."""
    more_mb: float
    """Memory of the orchestrator, beside that with one client."""
    cpu: float
    """Share of a processor that it used with all of them."""
    rate: float
    """Tasks a second that really came in with all of them."""


def streams(clients: int, seconds: float) -> StreamFigures:
    """Let tasks flow, first with one client that follows, then with so many, `DEAF` of which never read."""
    say(f"{TASKS_A_SECOND} tasks a second for twice {seconds:g} s, followed by 1 and by {clients} clients")
    tasks = int(TASKS_A_SECOND * seconds)
    with open_rig(MEMORY, 1) as rig, open_team(rig) as orchestrator, Line(orchestrator.port) as line:
        (alone,), _, before_mb, _, _ = _flow(rig, orchestrator, "alone", 1, 0, tasks)
        wait_for_ends(line, orchestrator.child, tasks)
        many, lost, after_mb, cpu, rate = _flow(rig, orchestrator, "many", clients - DEAF, DEAF, tasks)
    each = sorted(p95_of(samples) for samples in many)
    together = [sample for samples in many for sample in samples]
    return StreamFigures(
        alone_p95_ms=p95_of(alone),
        many_p95_ms=p95_of(together),
        typical_p95_ms=statistics.median(each),
        slowest_p95_ms=each[-1],
        lost=lost,
        more_mb=after_mb - before_mb,
        cpu=cpu,
        rate=rate,
    )


def _flow(
    rig: Rig, orchestrator: BenchOrchestrator, prefix: str, clients: int, deaf: int, tasks: int
) -> tuple[list[list[float]], int, float, float, float]:
    with listeners(rig, orchestrator.port, clients, deaf, tasks, prefix, _EVENT) as record:
        used = usage_of([orchestrator.pid])
        began = time.monotonic()
        sent_ns = _hand_in(orchestrator.port, prefix, tasks)
        took_s = time.monotonic() - began
        cpu = usage_of([orchestrator.pid]).since(used).cpu_s / took_s
        largest_mb = resident_mb(orchestrator.pid)
        time.sleep(_SETTLE_S)
        seen = [[record.read(client * tasks + number)[1] for number in range(tasks)] for client in range(clients)]
    lost = sum(not seen_ns for one in seen for seen_ns in one)
    samples = [
        [(seen_ns - began_ns) / 1e6 for seen_ns, began_ns in zip(one, sent_ns, strict=True) if seen_ns] for one in seen
    ]
    if any(len(one) < 2 for one in samples):
        raise RuntimeError("A client that follows the team saw nothing.")
    return samples, lost, largest_mb, cpu, tasks / took_s


def _hand_in(port: int, prefix: str, tasks: int) -> list[int]:
    """Hand tasks in at their pace, whether or not the ones before were answered; returns when each was due."""
    due_ns = []
    lines: SimpleQueue[Line] = SimpleQueue()

    def post(message: bytes) -> None:
        line = lines.get()
        line.send(message)
        line.answer()
        lines.put(line)

    with ExitStack() as stack:
        for _ in range(_HANDS):
            lines.put(stack.enter_context(Line(port)))
        pool = stack.enter_context(ThreadPoolExecutor(_HANDS))
        posts = []
        began = time.monotonic()
        for number in range(tasks):
            order = {"task_id": f"{prefix}-{number}", "description": "no work", "worker": WORKER}
            message = request("POST", f"{API}/tasks", order)
            time.sleep(max(0.0, began + number / TASKS_A_SECOND - time.monotonic()))
            due_ns.append(time.monotonic_ns())
            posts.append(pool.submit(post, message))
        for one in posts:
            one.result()
    return due_ns
