"""An orchestrator to be measured, with its ledger on a disk: started, asked, and given workers, real ones or none."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent_bus.heartbeats import write_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, Result, TaskStatus, WorkerStatus, encode_result, utc_now
from agent_bus.result_notices import ResultNotices
from benchmarks.peers.processes import Child, open_process
from benchmarks.rig import DISK, ROOT, WORKER, BenchWorker, Rig, free_port, open_bench_worker, wait_until_ready

API = "/api/v1"
ANSWER_S = 120.0
"""No answer takes longer than this; one that does ends the bench."""
_KEPT_S = 2.0
"""The server closes a connection that was not used for five seconds."""


def request(method: str, path: str, body: Any = None) -> bytes:
    """Return a request as it goes over the line; `body` becomes JSON, bytes are taken as JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\n".encode() + content


def length_of(head: bytes) -> int:
    """Return how long the body behind the head of an answer is.

    Raises:
        RuntimeError: the answer is a refusal.
    """
    lines = head.decode("latin-1").lower().split("\r\n")
    if not lines[0].startswith("http/1.1 2"):
        raise RuntimeError(f"The orchestrator answered {lines[0]!r}.")
    return next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))


class Line:
    """A connection to the API that is kept, without the milliseconds that an HTTP library takes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = self._connect()
        self._used = time.monotonic()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, message: bytes) -> None:
        """Send a request; its answer must be fetched before the next one."""
        if time.monotonic() - self._used > _KEPT_S:
            self._socket.close()
            self._socket = self._connect()
        self._socket.sendall(message)

    def answer(self) -> bytes:
        """Wait for the answer and return its body."""
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        whole = end + 4 + length_of(bytes(received[:end]))
        while len(received) < whole:
            received += self._receive()
        self._used = time.monotonic()
        return bytes(received[end + 4 : whole])

    def _receive(self) -> bytes:
        piece = self._socket.recv(1 << 18)
        if not piece:
            raise RuntimeError("The orchestrator closed the connection.")
        return piece

    def post_task(self, **order: Any) -> Any:
        """Hand in a task and return the answer."""
        self.send(request("POST", f"{API}/tasks", order))
        return json.loads(self.answer())

    def get(self, path: str) -> Any:
        """Return what a GET below the API's root gives."""
        self.send(request("GET", f"{API}{path}"))
        return json.loads(self.answer())


@dataclass(frozen=True)
class BenchOrchestrator:
    """A running orchestrator."""

    child: Child
    port: int
    ready_s: float
    """Seconds from the start of the process to the first 200 of /readyz."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.process.pid


@contextmanager
def open_ledger() -> Iterator[Path]:
    """Yield the path of a ledger that is to be, on a disk."""
    with tempfile.TemporaryDirectory(prefix="codehornets-bench-ledger-", dir=DISK) as folder:
        yield Path(folder) / "ledger.sqlite3"


@contextmanager
def open_orchestrator(
    rig: Rig, ledger: Path, workers: Sequence[str] = (WORKER,), **environment: str
) -> Iterator[BenchOrchestrator]:
    """Start an orchestrator on the rig and yield it once /readyz answers 200."""
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(rig.shared),
        "PYTHONPATH": str(ROOT),
        "SHARED_DIR": str(rig.shared),
        "LEDGER_PATH": str(ledger),
        "WORKERS": ",".join(workers),
        "HTTP_PORT": str(port),
        "LOG_LEVEL": "INFO",
        **environment,
    }
    started = time.monotonic()
    command = [sys.executable, "-m", "orchestrator_service"]
    with open_process(command, rig.shared / "orchestrator.out", environ) as child:
        ready_s = wait_until_ready(child, port, started, within_s=120)
        yield BenchOrchestrator(child, port, ready_s)


@contextmanager
def open_team(
    rig: Rig,
    workers: Sequence[str] = (WORKER,),
    *,
    module: str = "benchmarks.worker",
    slots: int = 10,
    **environment: str,
) -> Iterator[BenchOrchestrator]:
    """Start real echo workers and an orchestrator that has heard of each of them."""
    with ExitStack() as stack:
        ledger = stack.enter_context(open_ledger())
        started: list[BenchWorker] = [
            stack.enter_context(open_bench_worker(rig, name=name, module=module, MAX_CONCURRENT=str(slots)))
            for name in workers
        ]
        orchestrator = stack.enter_context(open_orchestrator(rig, ledger, workers, **environment))
        with Line(orchestrator.port) as line:
            for name in workers:
                wait_for(partial(_is_up, line, name), orchestrator.child)
        yield orchestrator
        for worker in started:
            worker.child.check()


def _is_up(line: Line, worker: str) -> bool:
    return bool(line.get(f"/workers/{worker}")["state"] == "up")


def wait_for(condition: Callable[[], object], child: Child, *, within_s: float = 30.0, every_s: float = 0.02) -> None:
    """Return when the condition holds.

    Raises:
        RuntimeError: it did not in time.
        benchmarks.peers.processes.PeerError: the process has ended.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        child.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"What was waited for did not come within {within_s:g} s; see {child.log}.")
        time.sleep(every_s)


def wait_for_ends(line: Line, child: Child, tasks: int) -> None:
    """Return when the ledger has so many completed tasks."""
    wait_for(lambda: line.get("/counts")["completed"] >= tasks, child, within_s=240, every_s=0.05)


class FakeWorker:
    """A worker that does only what the bench says: it lives, takes a task, has a result."""

    def __init__(self, rig: Rig) -> None:
        self._layout = WorkerLayout.under(rig.shared, WORKER)
        self._staged = rig.shared / "staged" / "result"
        self._notices = ResultNotices(self._layout.orchestrator_triggers, worker=WORKER, instance="bench")
        for folder in (self._layout.heartbeats, self._layout.orchestrator_triggers):
            folder.mkdir(parents=True, exist_ok=True)

    def beat(self) -> None:
        """Give a sign of life."""
        beat = Heartbeat(
            worker=WORKER,
            instance="bench",
            timestamp=utc_now(),
            status=WorkerStatus.IDLE,
            mode="event-driven",
            pid=os.getpid(),
            version="0",
            slots=10,
            agent="echo",
        )
        write_heartbeat(self._layout.heartbeat(WORKER), beat)

    def take(self, task_id: str) -> None:
        """Wait for a task's trigger and take it away."""
        trigger = self._layout.triggers / f"task-{task_id}.trigger"
        deadline = time.monotonic() + 10
        while True:
            with suppress(FileNotFoundError):
                trigger.unlink()
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"task {task_id} was not handed over within 10 s")
            time.sleep(0.0005)

    def finish(self, task_id: str) -> int:
        """Put the result into place and tell of it; returns the moment before, in monotonic nanoseconds."""
        now = utc_now()
        result = Result(
            task_id=task_id,
            worker=WORKER,
            instance="bench",
            status=TaskStatus.COMPLETED,
            output="done",
            stdout="done",
            started_at=now,
            completed_at=now,
            timestamp=now,
        )
        self._staged.write_bytes(encode_result(result))
        target = self._layout.result(task_id)
        began_ns = time.monotonic_ns()
        self._staged.rename(target)
        self._notices.tell(task_id, TaskStatus.COMPLETED, str(target))
        return began_ns

    def waiting(self) -> list[os.DirEntry[str]]:
        """Return the triggers that lie there."""
        with suppress(FileNotFoundError), os.scandir(self._layout.triggers) as listing:
            return [entry for entry in listing if entry.name.endswith(".trigger")]
        return []
