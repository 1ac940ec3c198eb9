"""Workers under test: in this process with an agent that obeys, or as child processes that can be killed."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, Result, WorkerStatus
from tests.waiting import async_wait_until, wait_until
from worker_service.agents.base import Run
from worker_service.settings import WorkerSettings, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]

QUICK = {
    "WORKER_NAME": "marie",
    "AGENT": "echo",
    "HTTP_PORT": "0",
    "WORKER_MODE": "event-driven",
    "SETTLE_TIME": "0.2",
    "SHUTDOWN_GRACE": "10",
    "SYNC_RESULTS": "0",
    "AGENT_ISOLATION": "off",
    # The workspace is wherever the tests were started, which may be a repository.
    "WORKTREES": "off",
}


def quick_settings(shared: Path, **environ: str) -> WorkerSettings:
    """Return settings with short times; `environ` wins."""
    return read_settings({**QUICK, "SHARED_DIR": str(shared), **environ})


class ObedientAgent:
    """Echoes; but `hold …` waits until told, `sleep N` sleeps, `fail …` raises, `block N` blocks the loop."""

    name = "obedient"

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.runs: list[Run] = []
        self.most_at_once = 0
        self._now = 0
        self._let_go: set[str] = set()
        self._all = False
        self._told = asyncio.Event()

    def let_go(self, task_id: str | None = None) -> None:
        """Let the held task end; None lets all of them, now and later."""
        self._all = self._all or task_id is None
        if task_id is not None:
            self._let_go.add(task_id)
        self._told.set()
        self._told = asyncio.Event()

    async def serve_forever(self) -> None:
        await anyio.sleep_forever()

    async def run(self, run: Run) -> None:
        task_id = run.task.task_id
        self.started.append(task_id)
        self.runs.append(run)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            run.prompt_handed()
            run.emit("prompt", {"text": run.task.description})
            run.outcome.output = run.task.description
            await self._obey(run, *run.task.description.split(" ", 1))
            self.ended.append(task_id)
        finally:
            self._now -= 1

    async def _obey(self, run: Run, verb: str, rest: str = "") -> None:
        match verb:
            case "hold":
                while not self._all and run.task.task_id not in self._let_go:
                    await self._told.wait()
            case "sleep":
                await anyio.sleep(float(rest))
            case "fail":
                raise RuntimeError(rest)
            case "disk":
                raise OSError(28, "No space left on device")
            case "remember":
                await run.remember(rest)
                while not self._all:
                    await self._told.wait()
            case "surrogates":
                run.outcome.output = "\ud800"
                run.outcome.structured_output = {"a": {1}}
                run.emit("odd", {"text": "\ud800"})
            case "stubborn":
                try:
                    await anyio.sleep_forever()
                except BaseException as error:
                    raise RuntimeError("its end went wrong") from error

    async def aclose(self) -> None:
        pass

    def processes(self) -> dict[str, int]:
        return {"busy": self._now}

    def statement(self) -> str | None:
        return None


class Shop:
    """The shared directory as a client sees it."""

    def __init__(self, layout: WorkerLayout) -> None:
        self.layout = layout
        for directory in (layout.triggers, layout.tasks, layout.results):
            directory.mkdir(parents=True, exist_ok=True)
        self.dead_letters = DeadLetterBox(layout)
        self._number = 0

    def drop(self, name: str, body: bytes | dict[str, Any], *, mtime: float | None = None) -> Path:
        """Rename a whole trigger into place."""
        return self._place(self.layout.triggers / name, body, mtime)

    def task_file(self, task_id: str, **fields: Any) -> Path:
        """Rename a task file into place."""
        return self._place(self.layout.tasks / f"{task_id}.json", {"description": "x", **fields}, None)

    def submit(self, task_id: str, description: str = "hello", *, mtime: float | None = None, **fields: Any) -> Path:
        """Drop `task-ID.trigger` with its task inside."""
        return self.drop(f"task-{task_id}.trigger", {"description": description, **fields}, mtime=mtime)

    def _place(self, path: Path, body: bytes | dict[str, Any], mtime: float | None) -> Path:
        self._number += 1
        staged = path.parent / f".staged-{self._number}-{os.getpid()}"
        staged.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        if mtime is not None:
            os.utime(staged, (mtime, mtime))
        staged.rename(path)
        return path

    def result(self, task_id: str) -> Result | None:
        """Return the result, or None while there is none."""
        try:
            return Result.model_validate_json(self.layout.result(task_id).read_bytes())
        except FileNotFoundError:
            return None

    async def async_result(self, task_id: str, timeout: float = 10.0) -> Result:
        """Wait for the result."""
        return await async_wait_until(lambda: self.result(task_id), timeout, f"result of {task_id}")

    def result_ids(self) -> set[str]:
        """Return the ids that have a result."""
        return {path.stem for path in self.layout.results.glob("*.json")}

    def letters(self) -> list[DeadLetter]:
        """Return what was buried."""
        return list(self.dead_letters.letters()) if self.layout.dead_letters.is_dir() else []

    async def async_letter(self, name: str, timeout: float = 10.0) -> DeadLetter:
        """Wait until a file that came as `name` is buried."""

        def find() -> DeadLetter | None:
            return next((letter for letter in self.letters() if letter.original_name == name), None)

        return await async_wait_until(find, timeout, f"dead letter {name}")

    def claims(self) -> list[str]:
        """Return the files in all inflight directories, by path."""
        return [str(path) for path in self.layout.inflight.rglob("*") if path.is_file() and path.name != ".lock"]

    def litter(self) -> list[str]:
        """Return every file that should not be there when all is done."""
        places = (self.layout.triggers, self.layout.tasks, self.layout.results, self.layout.heartbeats)
        usual = {self.layout.results: ".json", self.layout.heartbeats: "-watcher.json"}
        return [
            str(path)
            for place in places
            for path in place.rglob("*")
            if path.is_file()
            and not (path.parent == place and path.name.endswith(usual.get(place, "\0")) and path.name[0] != ".")
            and path.parent != self.layout.sessions
        ]


async def fetch(port: int, path: str, timeout: float = 5.0) -> tuple[int, str]:
    """GET from a sidecar in this process or another."""
    return await anyio.to_thread.run_sync(lambda: fetch_now(port, path, timeout))


def fetch_now(port: int, path: str, timeout: float = 5.0) -> tuple[int, str]:
    """GET from a sidecar in another process."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class ChildWorker:
    """`python -m worker_service marie` as a process of its own."""

    program: tuple[str, ...] = ("-m", "worker_service", "marie")

    def __init__(self, shared: Path, **environ: str) -> None:
        self._layout = WorkerLayout.under(shared, "marie")
        self._said: str | None = None
        environment = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
        environment |= {**QUICK, "SHARED_DIR": str(shared), "PYTHONPATH": str(REPOSITORY), **environ}
        self.process = subprocess.Popen(
            [sys.executable, *self.program],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def heartbeat(self) -> Heartbeat | None:
        """Return this process's own heartbeat, if it wrote the last one."""
        beat = read_heartbeat(self._layout.heartbeat("marie"))
        return beat if beat is not None and beat.pid == self.pid else None

    def port(self) -> int:
        """Wait until it is ready and return its port."""

        def find() -> int | None:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended: {self.output()}")
            beat = self.heartbeat()
            return beat.http_port if beat is not None and beat.status is not WorkerStatus.STARTING else None

        return wait_until(find, 20, "worker ready") or 0

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, and hear what it said; safe to call again."""
        self.process.kill()
        if self._said is None:
            self._said = self.process.communicate()[0]

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(timeout)

    def output(self) -> str:
        """Return all that it said; only once it has ended."""
        if self._said is None:
            self._said = self.process.communicate(timeout=20)[0]
        return self._said


@contextmanager
def child_worker(shared: Path, kind: type[ChildWorker] = ChildWorker, **environ: str) -> Iterator[ChildWorker]:
    """Start a worker and make sure that it is gone in the end."""
    child = kind(shared, **environ)
    try:
        yield child
    finally:
        child.kill()
