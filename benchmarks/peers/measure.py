"""The two measurements, the same for every peer."""

import asyncio
import importlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from .processes import Child, PeerError, open_process
from .record import RECORD_VARIABLE, Record

PEERS = ("taskiq", "dramatiq", "huey", "docket")
REDIS_VARIABLE = "PEER_BENCH_REDIS"
"""Environment variable that tells a worker the Redis URL."""
WARM_UP = 50
"""Latency samples thrown away at the start; the first of them also waits for the worker to come up."""
GAP_S = (0.004, 0.006)
"""Seconds between a task's entry and the next enqueue, drawn evenly from this range."""
ENTRY_S = 30.0
"""Seconds a worker may take to start one task, its own start-up included, or to store the last results."""
PHASE_S = 240.0
"""Seconds that all latency samples, all enqueues or all tasks may take."""
ROOT = Path(__file__).parents[2]
T = TypeVar("T")
Enqueue = Callable[[int, int], Awaitable[str]]
"""Sends one no-op task, given its slot and the enqueue time in nanoseconds; returns the Redis key of its result."""


class PeerModule(Protocol):
    """What each ``*_peer`` module offers."""

    DISTRIBUTION: str
    """Name under which the library is installed."""
    RESULTS_HASH: str | None
    """The hash that has one field for each result, or ``None`` where each result is a key."""

    def worker_command(self, concurrency: int) -> list[str]:
        """The command that runs one worker process."""

    def open_producer(self, redis_url: str) -> AbstractAsyncContextManager[Enqueue]:
        """Connect a producer and yield its enqueue function."""


@dataclass(frozen=True, kw_only=True)
class PeerFigures:
    """What was measured of one peer; ``None`` means not measured."""

    name: str
    version: str | None = None
    p50_ms: float | None = None
    """Median milliseconds from the enqueue call to the task function."""
    p99_ms: float | None = None
    """The same, 99th percentile."""
    tasks_per_s: float | None = None
    """Tasks finished per second, results stored, from a preloaded queue."""

    def as_json(self) -> dict[str, object]:
        """The figures in the shape that the command line prints."""
        latency = {"p50": self.p50_ms, "p99": self.p99_ms}
        return {"version": self.version, "latency_ms": latency, "tasks_per_s": self.tasks_per_s}


def measure_peer(
    name: str, redis_url: str, samples: int = 500, tasks: int = 5000, concurrency: int = 10
) -> PeerFigures:
    """Measure one of PEERS on a Redis database of its own, which is emptied before each phase.

    A missing library, a worker that ends early or an expired deadline gives a sentence on stderr and null figures.
    """
    try:
        peer = cast(PeerModule, importlib.import_module(f".{name}_peer", __package__))
        say(f"{name}: latency of {samples} tasks, one at a time")
        latencies_ms = _time_latency(peer, redis_url, samples, concurrency)
        say(f"{name}: throughput of {tasks} tasks, {concurrency} at once")
        rate = _time_throughput(peer, redis_url, tasks, concurrency)
    except ModuleNotFoundError as error:
        say(f"{name}: The module {error.name} is not installed, so this peer cannot be measured.")
        return PeerFigures(name=name)
    except PeerError as error:
        say(f"{name}: {error}")
        return PeerFigures(name=name)
    p50_ms, p99_ms = statistics.median(latencies_ms), statistics.quantiles(latencies_ms, n=100, method="inclusive")[98]
    figures = {"p50_ms": round(p50_ms, 3), "p99_ms": round(p99_ms, 3), "tasks_per_s": round(rate, 1)}
    return PeerFigures(name=name, version=version(peer.DISTRIBUTION), **figures)


def say(text: str) -> None:
    """Report progress on stderr; stdout belongs to the result."""
    print(text, file=sys.stderr, flush=True)


def _time_latency(peer: PeerModule, redis_url: str, samples: int, concurrency: int) -> list[float]:
    total = WARM_UP + samples
    with _open_phase(redis_url, total) as (record, folder, _):
        with _open_worker(peer, redis_url, folder, concurrency) as worker:
            _run(_send_spaced(peer, redis_url, record, worker, total))
        pairs = [record.read(slot) for slot in range(WARM_UP, total)]
    return [(entered_ns - enqueued_ns) / 1e6 for enqueued_ns, entered_ns in pairs]


def _time_throughput(peer: PeerModule, redis_url: str, tasks: int, concurrency: int) -> float:
    with _open_phase(redis_url, tasks) as (record, folder, server):
        keys = _run(_send_all(peer, redis_url, tasks))
        with _open_worker(peer, redis_url, folder, concurrency) as worker:
            _run(_wait_for_entries(record, worker, tasks))
            deadline = time.monotonic() + ENTRY_S
            # Asking for all the keys takes some milliseconds, so the end is late by about that much.
            while (server.hlen(peer.RESULTS_HASH) if peer.RESULTS_HASH else server.exists(*keys)) < tasks:
                worker.check()
                if time.monotonic() > deadline:
                    raise PeerError(f"Results were missing {ENTRY_S:.0f} s after the last task ran.")
                time.sleep(0.001)
            end_ns = time.monotonic_ns()
        start_ns = min(record.read(slot)[1] for slot in range(tasks))
    return tasks / ((end_ns - start_ns) / 1e9)


@contextmanager
def _open_phase(redis_url: str, slots: int) -> Iterator[tuple[Record, Path, Any]]:
    from redis import Redis  # here, so that a missing redis-py is reported like any missing library

    with tempfile.TemporaryDirectory(prefix="peer-bench-") as folder, Redis.from_url(with_timeout(redis_url)) as server:
        server.flushdb()
        yield Record.create(Path(folder) / "record", slots), Path(folder), server


@contextmanager
def _open_worker(peer: PeerModule, redis_url: str, folder: Path, concurrency: int) -> Iterator[Child]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, REDIS_VARIABLE: redis_url, RECORD_VARIABLE: str(folder / "record")}
    with open_process(peer.worker_command(concurrency), folder / "worker.log", env) as worker:
        yield worker


def with_timeout(redis_url: str) -> str:
    """The same server, a deadline on every reply; for clients that never block on purpose, as asyncio workers do."""
    return f"{redis_url}{'&' if '?' in redis_url else '?'}socket_timeout=10"


def _run(phase: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(asyncio.wait_for(phase, PHASE_S))
    except TimeoutError as error:
        raise PeerError(f"A phase did not end within {PHASE_S:.0f} s.") from error


async def _send_spaced(peer: PeerModule, redis_url: str, record: Record, worker: Child, total: int) -> None:
    gaps = random.Random(1)
    async with peer.open_producer(redis_url) as enqueue:
        for slot in range(total):
            await enqueue(slot, time.monotonic_ns())
            deadline = time.monotonic() + ENTRY_S
            while not record.read(slot)[1]:
                worker.check()
                if time.monotonic() > deadline:
                    raise PeerError(f"The worker did not start a task within {ENTRY_S:.0f} s.")
                await asyncio.sleep(0.001)
            await asyncio.sleep(gaps.uniform(*GAP_S))


async def _send_all(peer: PeerModule, redis_url: str, tasks: int) -> list[str]:
    async with peer.open_producer(redis_url) as enqueue:
        return [await enqueue(slot, time.monotonic_ns()) for slot in range(tasks)]


async def _wait_for_entries(record: Record, worker: Child, tasks: int) -> None:
    for slot in range(tasks):
        while not record.read(slot)[1]:
            worker.check()
            await asyncio.sleep(0.01)
