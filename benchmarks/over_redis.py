"""Figures of the worker with tasks on Redis streams and the echo agent."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from benchmarks.files import GAP_S, WARM_UP
from benchmarks.peers.processes import open_process
from benchmarks.peers.record import Record
from benchmarks.rig import (
    DEADLINE_S,
    MEMORY,
    WORKER,
    BenchWorker,
    Percentiles,
    Rig,
    Usage,
    open_bench_worker,
    open_rig,
    say,
    usage_of,
)

STREAM = f"codehornets:tasks:{WORKER}"
BELL = f"activate:{WORKER}"
_LOAD = 20_000


@contextmanager
def _open_worker(rig: Rig, url: str, **environ: str) -> Iterator[BenchWorker]:
    # On Redis alone: what the shared directory costs is measured elsewhere.
    alone = {"SHARED_DIR": "", "LOG_DIR": str(rig.shared), "HEARTBEAT_DIR": str(rig.shared), "REDIS_URL": url}
    with open_bench_worker(rig, **{**alone, **environ}) as worker:
        yield worker


def _task(number: int) -> str:
    return json.dumps({"task_id": f"b{number}", "description": str(number)})


def latency(url: str, samples: int, slots: int) -> Percentiles:
    """Time `XADD` and `PUBLISH` in one write until the agent has the prompt; one task at a time."""
    say(f"latency of {samples} tasks over Redis, one at a time")
    total = WARM_UP + samples
    gaps = random.Random(1)
    with redis.Redis.from_url(url) as client, open_rig(MEMORY, total) as rig:
        client.flushdb()
        with _open_worker(rig, url, MAX_CONCURRENT=str(slots)) as worker:
            record = Record(rig.record_path)
            for number in range(total):
                with client.pipeline(transaction=False) as pipe:
                    pipe.xadd(STREAM, {"task": _task(number)})
                    pipe.publish(BELL, b"")
                    record.write(number, time.monotonic_ns(), 0)
                    pipe.execute()
                _wait_for_entry(record, number, worker)
                time.sleep(gaps.uniform(*GAP_S))
            pairs = [record.read(number) for number in range(WARM_UP, total)]
    return Percentiles.of([(entered - sent) / 1e6 for sent, entered in pairs])


def throughput(url: str, tasks: int, slots: int) -> float:
    """Count the no-op tasks a second from a full stream, until the last one is stored and acknowledged."""
    say(f"throughput of {tasks} tasks over Redis, {slots} at once")
    with redis.Redis.from_url(url) as client, open_rig(MEMORY, tasks) as rig:
        client.flushdb()
        _load(client, tasks)
        with _open_worker(rig, url, MAX_CONCURRENT=str(slots)) as worker:
            _wait_until_empty(client, worker)
            ended_ns = time.monotonic_ns()
            record = Record(rig.record_path)
            started_ns = min(record.read(number)[1] for number in range(tasks))
    return tasks / ((ended_ns - started_ns) / 1e9)


def idle(url: str, seconds: float) -> Usage:
    """Measure a worker in the mode hybrid with files, pipes and Redis that has nothing to do."""
    say(f"an idle worker with Redis for {seconds:g} s")
    with open_rig(MEMORY, 1) as rig:
        environ = {"WORKER_MODE": "hybrid", "REDIS_URL": url}
        with open_bench_worker(rig, module="worker_service", **environ) as worker:
            time.sleep(3)
            before = usage_of([worker.pid])
            time.sleep(seconds)
            return usage_of([worker.pid]).since(before)


def seconds_to_return() -> float:
    """Kill Redis under load, start it again, and time from its first answer to the next task that an agent has."""
    say("a restart of Redis under load")
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder, open_rig(MEMORY, _LOAD) as rig:
        port = _free_port()
        url = f"redis://127.0.0.1:{port}/0"
        with _server(port, folder) as server:
            client = redis.Redis.from_url(url)
            _load(client, _LOAD)
            with _open_worker(rig, url, MAX_CONCURRENT="10") as worker:
                record = Record(rig.record_path)
                while not record.read(200)[1]:
                    worker.child.check()
                    time.sleep(0.001)
                server.send_signal(signal.SIGKILL)
                server.wait()
                # Long enough for the worker to have noticed and backed off, short enough for one that only waits.
                time.sleep(1.0)
                with _server(port, folder):
                    answered_ns = time.monotonic_ns()
                    deadline = time.monotonic() + 30
                    while time.monotonic() < deadline:
                        worker.child.check()
                        later = [
                            entered for number in range(_LOAD) if (entered := record.read(number)[1]) > answered_ns
                        ]
                        if later:
                            return (min(later) - answered_ns) / 1e9
                        time.sleep(0.01)
    raise RuntimeError("the worker did not come back to Redis within 30 s")


def _load(client: redis.Redis, tasks: int) -> None:
    for first in range(0, tasks, 1000):
        with client.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + 1000, tasks)):
                pipe.xadd(STREAM, {"task": _task(number)})
            pipe.execute()


def _wait_for_entry(record: Record, number: int, worker: BenchWorker) -> None:
    deadline = time.monotonic() + 10
    while not record.read(number)[1]:
        worker.child.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"task {number} was not started within 10 s")
        time.sleep(0.0005)


def _wait_until_empty(client: redis.Redis, worker: BenchWorker) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while client.xlen(STREAM):
        worker.child.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{client.xlen(STREAM)} tasks were left after {DEADLINE_S:.0f} s")
        time.sleep(0.005)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _server(port: int, folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a Redis that keeps what it was given in `folder`."""
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec"]
    with open_process(command, Path(folder) / "redis.log", dict(os.environ)) as child:
        deadline = time.monotonic() + 30
        while True:
            with suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=1) as client:
                if client.ping():
                    break
            child.check()
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server did not answer within 30 s")
            time.sleep(0.005)
        yield child.process
