"""The real Claude Code CLI against the stand-in API, hermetically: no account, no network, no one's home."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_bus.isolation import isolation_trouble
from agent_bus.messages import Result
from tests.standin.messages_api import MessagesApi
from tests.system_packages import find_program
from worker_service.settings import WorkerSettings, read_settings

find_program("bwrap", "bubblewrap")
trouble = isolation_trouble()
needs_isolation = pytest.mark.skipif(trouble is not None, reason=f"no isolation here: {trouble}")


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as api:
        yield api


@pytest.fixture
def claude_environ(tmp_path: Path, api: MessagesApi) -> dict[str, str]:
    """A worker's environment in which Claude Code finds the stand-in, and nothing of whoever runs the tests."""
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    home.mkdir()
    workspace.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": api.url,
        "ANTHROPIC_API_KEY": "sk-dummy-for-tests",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "SHARED_DIR": str(tmp_path / "shared"),
        "WORKSPACE": str(workspace),
        "WORKER_NAME": "marie",
        "WORKER_MODE": "event-driven",
        "AGENT": "claude",
        # Most tests have one task at a time: with a second slot another Claude Code would start for nobody.
        "MAX_CONCURRENT": "1",
        "WARM_PROCESSES": "1",
        "ALLOWED_TOOLS": "Bash,Read,Edit,Write",
        "HTTP_PORT": "0",
        "SHUTDOWN_GRACE": "10",
        "HEARTBEAT_INTERVAL": "0.5",
        # What a test sees must not depend on the machine; the tests of the isolation turn it on.
        "AGENT_ISOLATION": "off",
    }


@pytest.fixture
def settings_of(claude_environ: dict[str, str]) -> Callable[..., WorkerSettings]:
    def make(**changes: str) -> WorkerSettings:
        return read_settings({**claude_environ, **changes})

    return make


class Client:
    """What a script does that uses a worker: drop a task, look for its result."""

    def __init__(self, shared: Path, worker: str = "marie") -> None:
        self.shared = shared
        self.worker = worker

    def submit(self, task_id: str, description: str, **fields: Any) -> None:
        folder = self.shared / "triggers" / self.worker
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / f".{task_id}.tmp"
        staged.write_text(json.dumps({"task_id": task_id, "description": description, **fields}))
        staged.rename(folder / f"task-{task_id}.trigger")

    def result_path(self, task_id: str) -> Path:
        return self.shared / "results" / self.worker / f"{task_id}.json"

    def result(self, task_id: str) -> Result:
        return Result.model_validate_json(self.result_path(task_id).read_bytes())

    def has_result(self, task_id: str) -> Callable[[], bool]:
        return self.result_path(task_id).exists

    def events(self, task_id: str) -> list[dict[str, Any]]:
        path = self.shared / "events" / self.worker / f"{task_id}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def cancel(self, task_id: str) -> None:
        (self.shared / "tasks" / self.worker / f"{task_id}.cancel").touch()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path / "shared")
