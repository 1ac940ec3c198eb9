"""The orchestrator and its workers as processes of their own, which can be killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.settings import orchestrator_heartbeat
from tests.integration.harness import QUICK, REPOSITORY
from tests.waiting import wait_until

ORCHESTRATOR = {
    "HTTP_PORT": "0",
    "RESCAN_INTERVAL": "1",
    "CHECK_INTERVAL": "1",
    "HEARTBEAT_INTERVAL": "0.5",
    "LOG_LEVEL": "WARNING",
}
WORKER = {**QUICK, "RESCAN_INTERVAL": "1", "HEARTBEAT_INTERVAL": "0.5", "LOG_LEVEL": "WARNING", "MAX_ATTEMPTS": "1000"}


class Child:
    """A service as a process."""

    def __init__(self, shared: Path, program: list[str], environ: dict[str, str], said: Path) -> None:
        self.shared = shared
        given = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        given |= {"SHARED_DIR": str(shared), "PYTHONPATH": str(REPOSITORY), **environ}
        self._said = said
        with said.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program], env=given, stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """End it at once; safe to call again."""
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> int:
        """Ask it to stop; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def output(self) -> str:
        """Return what it and those before it said."""
        return self._said.read_text()


class OrchestratorProcess(Child):
    """`python -m orchestrator_service`."""

    def __init__(self, shared: Path, **environ: str) -> None:
        said = shared.parent / "orchestrator.said"
        super().__init__(shared, ["orchestrator_service"], {**ORCHESTRATOR, **environ}, said)

    def beat(self) -> Heartbeat | None:
        """Return its own heartbeat."""
        beat = read_heartbeat(orchestrator_heartbeat(self.shared))
        return beat if beat is not None and beat.pid == self.process.pid else None

    def client(self, **headers: str) -> httpx.Client:
        """Wait until it answers; returns a client of its API."""

        def port() -> int | None:
            assert self.process.poll() is None, self.output()
            beat = self.beat()
            return None if beat is None else beat.http_port

        found = wait_until(port, 30, "the orchestrator's port")
        url = f"http://127.0.0.1:{found}"

        # Nothing here speaks TLS, and to read the list of authorities takes longer than an answer.
        def client(**options: Any) -> httpx.Client:
            return httpx.Client(base_url=url, timeout=30, trust_env=False, verify=False, **options)

        with client() as probe:

            def answers() -> bool:
                with suppress(httpx.TransportError):
                    return probe.get("/healthz").status_code == 200
                return False

            wait_until(answers, 30, "the orchestrator's answer")
        return client(headers=headers)


class WorkerProcess(Child):
    """`python -m worker_service NAME`."""

    def __init__(self, shared: Path, name: str, **environ: str) -> None:
        self.name = name
        environ = {**WORKER, "WORKER_NAME": name, "WORKSPACE": str(shared.parent), **environ}
        super().__init__(shared, ["worker_service", name], environ, shared.parent / f"{name}.said")

    def ready(self) -> None:
        """Wait until it works."""

        def find() -> bool:
            assert self.process.poll() is None, self.output()
            beat = read_heartbeat(WorkerLayout.under(self.shared, self.name).heartbeat(self.name))
            return beat is not None and beat.pid == self.process.pid and beat.status is not WorkerStatus.STARTING

        wait_until(find, 60, f"{self.name} ready")


class Processes:
    """Starts processes, and ends them all."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self._started: list[Child] = []

    def orchestrator(self, **environ: str) -> OrchestratorProcess:
        child = OrchestratorProcess(self.shared, **environ)
        self._started.append(child)
        return child

    def worker(self, name: str, **environ: str) -> WorkerProcess:
        child = WorkerProcess(self.shared, name, **environ)
        self._started.append(child)
        return child

    def close(self) -> None:
        for child in self._started:
            child.kill()


@contextmanager
def processes(shared: Path) -> Iterator[Processes]:
    """Start processes and make sure that they are gone in the end."""
    started = Processes(shared)
    try:
        yield started
    finally:
        started.close()


def ask(ledger: Path, question: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask the ledger itself, whoever has it open."""
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(question, values).fetchall()
    finally:
        connection.close()


def results(shared: Path) -> dict[str, list[Path]]:
    """Return the result files by wire id."""
    found: dict[str, list[Path]] = {}
    for path in (shared / "results").glob("*/*.json"):
        found.setdefault(path.stem, []).append(path)
    return found


def read_result(path: Path) -> dict[str, Any]:
    """Return a result file's content."""
    body: dict[str, Any] = json.loads(path.read_bytes())
    return body
