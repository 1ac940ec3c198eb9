"""A team as processes, on an orchestrator whose address stays the same when it is started again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.integration.orchestrator_process import OrchestratorProcess, Processes, WorkerProcess, processes
from tests.ports import free_port
from tests.waiting import wait_until


class Team:
    """The orchestrator, its workers, and a client of its API."""

    def __init__(self, started: Processes, environ: dict[str, str]) -> None:
        self._started, self._environ = started, {"WORKERS": "marie", **environ}
        self.shared = started.shared
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.orchestrator: OrchestratorProcess | None = None
        self.api: httpx.Client = self.start()

    def start(self, **changes: str) -> httpx.Client:
        """Start the orchestrator (again); returns the client of its API."""
        environ = {**self._environ, **changes}
        self.orchestrator = self._started.orchestrator(HTTP_PORT=str(self.port), **environ)
        secret = environ.get("API_TOKEN")
        self.api = self.orchestrator.client(**({} if secret is None else {"Authorization": f"Bearer {secret}"}))
        return self.api

    def stop(self) -> None:
        """Stop the orchestrator; the workers go on."""
        assert self.orchestrator is not None
        self.api.close()
        self.orchestrator.stop()

    def worker(self, name: str, **environ: str) -> WorkerProcess:
        """Start a worker and wait until the orchestrator has heard of it."""
        worker = self._started.worker(name, **environ)
        worker.ready()
        wait_until(lambda: self.state_of(name) == "up", 30, f"{name} up")
        return worker

    def state_of(self, name: str) -> str | None:
        answer = self.api.get(f"/api/v1/workers/{name}")
        return answer.json()["state"] if answer.status_code == 200 else None

    def submit(self, description: str, **fields: Any) -> str:
        """Hand a task in; returns its id."""
        answer = self.api.post("/api/v1/tasks", json={"description": description, **fields})
        assert answer.status_code == 201, answer.text
        task_id: str = answer.json()["tasks"][0]["task_id"]
        return task_id

    def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/api/v1/tasks/{task_id}").json()
        return found

    def wait_for(self, task_id: str, state: str, within_s: float = 30) -> None:
        wait_until(lambda: self.task(task_id)["state"] == state, within_s, f"{task_id} {state}")


def claude_environ(model_url: str, home: Path) -> dict[str, str]:
    """Return an environment in which Claude Code finds the scripted model, and nothing of whoever runs the tests."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": model_url,
        "ANTHROPIC_API_KEY": "sk-dummy-for-tests",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


@contextmanager
def open_team(folder: Path, **environ: str) -> Iterator[Team]:
    """Start an orchestrator below `folder`, and end it and its workers in the end."""
    shared = folder / "shared"
    shared.mkdir(parents=True)
    with processes(shared) as started:
        team = Team(started, environ)
        try:
            yield team
        finally:
            team.api.close()
