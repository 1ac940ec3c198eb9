"""A worker to be measured: started, waited for, fed with triggers, looked at through /proc, and ended."""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import Child, open_process
from benchmarks.peers.record import Record
from benchmarks.worker import RECORD_VARIABLE

ROOT = Path(__file__).parents[1]
WORKER = "bench"
DEADLINE_S = 240.0
MEMORY = Path("/dev/shm")
"""A tmpfs on every Linux."""
DISK = Path("/var/tmp")


@dataclass(frozen=True)
class Percentiles:
    """Median and 99th percentile of samples, in milliseconds."""

    p50_ms: float
    p99_ms: float
    samples: int

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Percentiles:
        """Compute them from at least two samples."""
        p99 = statistics.quantiles(samples_ms, n=100, method="inclusive")[98]
        return cls(statistics.median(samples_ms), p99, len(samples_ms))


@dataclass(frozen=True)
class Rig:
    """Where a worker's files are."""

    shared: Path
    record_path: Path

    @property
    def triggers(self) -> Path:
        """Where triggers go."""
        return self.shared / "triggers" / WORKER

    @property
    def results(self) -> Path:
        """Where results come."""
        return self.shared / "results" / WORKER

    def stage(self, number: int, prompt: str | None = None) -> tuple[Path, Path]:
        """Write a trigger outside the watched directories; returns its path and the one to rename it to."""
        staged = self.shared / "staged" / f"{number}"
        task = {"task_id": f"b{number}", "description": prompt if prompt is not None else str(number)}
        staged.write_text(json.dumps(task))
        return staged, self.triggers / f"task-b{number}.trigger"

    def stage_many(self, count: int, first: int = 0) -> None:
        """Put a backlog in place."""
        for number in range(first, first + count):
            staged, target = self.stage(number)
            staged.rename(target)

    def has_result(self, number: int) -> bool:
        """Tell whether the result is there."""
        return (self.results / f"b{number}.json").exists()

    def count_results(self) -> int:
        """Count the results."""
        return sum(1 for _ in os.scandir(self.results))


@contextmanager
def open_rig(place: Path, slots: int) -> Iterator[Rig]:
    """Make a shared directory below `place`, with a record of so many slots; it is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="codehornets-bench-", dir=place) as folder:
        shared = Path(folder) / "shared"
        for name in (f"triggers/{WORKER}", f"results/{WORKER}", "staged"):
            (shared / name).mkdir(parents=True)
        record = Path(folder) / "record"
        Record.create(record, max(1, slots))
        yield Rig(shared, record)


@dataclass(frozen=True)
class BenchWorker:
    """A running worker."""

    child: Child
    port: int
    ready_s: float
    """Seconds from the start of the process to the first 200 of /readyz."""

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self.child.process.pid


@contextmanager
def open_bench_worker(
    rig: Rig, *, name: str = WORKER, module: str = "benchmarks.worker", **environment: str
) -> Iterator[BenchWorker]:
    """Start a worker on the rig and yield it once /readyz answers 200."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(rig.shared),
        "PYTHONPATH": str(ROOT),
        "SHARED_DIR": str(rig.shared),
        "WORKSPACE": str(rig.shared),
        "WORKER_MODE": "event-driven",
        "AGENT": "echo",
        "HTTP_PORT": str(free_port()),
        "LOG_LEVEL": "INFO",
        RECORD_VARIABLE: str(rig.record_path),
        **environment,
    }
    started = time.monotonic()
    command = [sys.executable, "-m", module, name]
    with open_process(command, rig.shared / f"{name}.out", environ) as child:
        port = int(environ["HTTP_PORT"])
        yield BenchWorker(child, port, wait_until_ready(child, port, started))


def wait_until_ready(child: Child, port: int, started: float, *, within_s: float = 30.0) -> float:
    """Return how many seconds after `started` (monotonic) the first 200 of /readyz came.

    Raises:
        RuntimeError: it did not come in time.
    """
    url = f"http://127.0.0.1:{port}/readyz"
    while not _answers(url):
        child.check()
        if time.monotonic() - started > within_s:
            raise RuntimeError(f"The process did not become ready; see {child.log}.")
        time.sleep(0.002)
    return time.monotonic() - started


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def p95_of(samples_ms: Sequence[float]) -> float:
    """Return the 95th percentile of at least two samples."""
    return statistics.quantiles(samples_ms, n=20, method="inclusive")[18]


def wait_for_results(rig: Rig, worker: BenchWorker, count: int) -> None:
    """Return when so many results are there.

    Raises:
        RuntimeError: they did not come in time.
    """
    deadline = time.monotonic() + DEADLINE_S
    # One look at a time at the next result that is missing: listing the directory would get in the worker's way.
    for number in range(count):
        while not rig.has_result(number):
            worker.child.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{rig.count_results()} of {count} results after {DEADLINE_S:.0f} s")
            time.sleep(0.005)


@dataclass(frozen=True)
class Usage:
    """What processes have used since they began."""

    cpu_s: float
    switches: int
    """Voluntary context switches of all threads: how often something woke up."""

    def since(self, earlier: Usage) -> Usage:
        """Return the difference."""
        return Usage(self.cpu_s - earlier.cpu_s, self.switches - earlier.switches)


def usage_of(pids: Sequence[int]) -> Usage:
    """Read the use of the processes, with the scheduler's nanoseconds rather than clock ticks."""
    cpu_ns = switches = 0
    for pid in pids:
        # A thread, or a process, may end between two looks.
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                cpu_ns += int((task / "schedstat").read_text().split()[0])
                for line in (task / "status").read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches"):
                        switches += int(line.split()[1])
    return Usage(cpu_ns / 1e9, switches)


def resident_mb(pid: int) -> float:
    """Return the resident memory of one process in megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no memory")


def say(text: str) -> None:
    """Report progress on stderr; stdout belongs to the table."""
    print(text, file=sys.stderr, flush=True)
