"""Goals end to end: the real orchestrator, real echo workers, the real Claude Code CLI, and a kill in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.messages import WorkerStatus
from orchestrator_service.settings import orchestrator_heartbeat
from tests.integration.harness import REPOSITORY, ChildWorker, child_worker
from tests.standin.messages_api import MessagesApi, Seen, reply, tool_use
from tests.waiting import wait_until

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

TEAM = """
[workers.marie]
role = "choreographer"
skills = ["dance"]
[workers.anga]
role = "coder"
"""


class Anga(ChildWorker):
    program = ("-m", "worker_service", "anga")


class Team:
    """A running orchestrator, as a process that can be killed, and its API."""

    def __init__(self, shared: Path, environ: dict[str, str], workers: list[ChildWorker]) -> None:
        self.shared, self._environ, self.workers = shared, environ, workers
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "orchestrator_service"], env=self._environ)

        def ready() -> int | None:
            assert process.poll() is None
            beat = read_heartbeat(orchestrator_heartbeat(self.shared))
            return beat.http_port if beat and beat.pid == process.pid and beat.status != WorkerStatus.STARTING else None

        self.port = wait_until(ready, 30, "the orchestrator is ready")
        return process

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(30)

    def start_again(self) -> None:
        self.process = self._start()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1{path}"
        with httpx.Client(trust_env=False, timeout=30) as http:
            answer = http.request(method, url, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def goal(self, goal_id: str) -> Any:
        return self.ask("GET", f"/goals/{goal_id}")

    def ended(self, goal_id: str) -> Any:
        return wait_until(lambda: (g := self.goal(goal_id))["state"] != "running" and g, 60, "the goal has ended")


@pytest.fixture
def team(tmp_path: Path, claude_environ: dict[str, str]) -> Iterator[Team]:
    with running_team(tmp_path, claude_environ) as team:
        yield team


@contextmanager
def running_team(tmp_path: Path, claude_environ: dict[str, str]) -> Iterator[Team]:
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "team.toml").write_text(TEAM)
    claude = {
        name: value for name, value in claude_environ.items() if name.startswith(("ANTHROPIC_", "CLAUDE_", "HOME"))
    }
    environ = {
        **claude,
        "PATH": claude_environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "SHARED_DIR": str(shared),
        "TEAM_FILE": str(tmp_path / "team.toml"),
        "HTTP_PORT": "0",
        "HEARTBEAT_INTERVAL": "0.5",
    }
    with ExitStack() as stack:
        workers = [
            stack.enter_context(child_worker(shared, HEARTBEAT_INTERVAL="0.5")),
            stack.enter_context(child_worker(shared, Anga, WORKER_NAME="anga", HEARTBEAT_INTERVAL="0.5")),
        ]
        team = Team(shared, environ, workers)
        try:
            wait_until(lambda: {worker["state"] for worker in team.ask("GET", "/workers")} == {"up"}, 30)
            yield team
        finally:
            team.process.kill()
            team.process.wait()


def use(name: str, tool_input: dict[str, Any]) -> Any:
    return tool_use(f"mcp__team__{name}", tool_input)


def answer(seen: Seen) -> Any:
    (block,) = seen.tool_results
    content = block["content"]
    return json.loads(content if isinstance(content, str) else "".join(part["text"] for part in content))


def agent_of(session_id: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and session_id in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def tool_results(seen: Seen) -> list[Any]:
    users = [message for message in seen.body["messages"] if message["role"] == "user"]
    blocks = [block for message in users if isinstance(message["content"], list) for block in message["content"]]
    return [block for block in blocks if block.get("type") == "tool_result"]


class Script:
    """A model that hands in two tasks by role, the second one with the outcome of the first, and waits for both."""

    def __init__(self, api: MessagesApi) -> None:
        self.ids: list[str] = []
        # What the model can only know once it has seen an answer is filled in when that answer comes.
        self._second: dict[str, Any] = {"role": "choreographer"}
        self._both: dict[str, Any] = {"timeout_seconds": 600}
        steps = (
            use("list_workers", {}),
            use("submit_task", {"description": "plan it", "role": "coder", "title": "Plan"}),
            use("submit_task", self._second),
            use("wait_for_tasks", self._both),
            reply("It dances."),
        )
        for number, step in enumerate(steps):
            api.when(self._is_at(number), step)

    def _is_at(self, number: int) -> Callable[[Seen], bool]:
        def is_at(seen: Seen) -> bool:
            if len(tool_results(seen)) != number:
                return False
            if number in (2, 3) and len(self.ids) < number - 1:
                self.ids.append(answer(seen)["task_id"])
            if number == 2:
                self._second["dependencies"] = self.ids
                self._second["description"] = f"dance: {{{{results.{self.ids[0]}.output}}}}"
            if number == 3:
                self._both["task_ids"] = self.ids
            return True

        return is_at


def test_a_goal_is_reached_by_real_workers(api: MessagesApi, team: Team) -> None:
    script = Script(api)
    created = team.ask("POST", "/goals", {"goal": "make it dance"})
    goal = team.ended(created["goal_id"])
    assert (goal["state"], goal["output"]) == ("completed", "It dances."), goal
    assert goal["task_ids"] == script.ids and len(script.ids) == 2
    told = answer(api.requests[-1])["tasks"]
    assert [task["worker"] for task in told] == ["anga", "marie"]
    assert "dance:" in told[1]["output"] and "plan it" in told[1]["output"]
    tasks = team.ask("GET", f"/tasks?goal={goal['goal_id']}")["tasks"]
    assert {task["origin"] for task in tasks} == {"goal"}


def test_a_goal_is_given_and_followed_on_the_command_line(api: MessagesApi, team: Team, tmp_path: Path) -> None:
    Script(api)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "orchestrator_service.cli", "goal", "make it dance"]
    done = subprocess.run(
        [*command, "--shared-dir", str(team.shared)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "It dances." in done.stdout
    assert "submit_task" in done.stdout + done.stderr, "what the agent does is told while it works"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_goal_survives_the_end_of_the_orchestrator(api: MessagesApi, team: Team, how: signal.Signals) -> None:
    script = Script(api)
    team.workers[1].send(signal.SIGSTOP)
    created = team.ask("POST", "/goals", {"goal": "make it dance"})
    api.wait_for_request(lambda seen: len(tool_results(seen)) == 3, 30)
    team.end(how)
    if how == signal.SIGTERM:
        assert agent_of(created["session_id"]) == []
    team.workers[1].send(signal.SIGCONT)
    # What is said after the start goes on from what was done: no task is handed in twice.
    resumed = tool_use("mcp__team__wait_for_tasks", {"task_ids": script.ids, "timeout_seconds": 600})
    api.when("You were interrupted", resumed, reply("It dances after all."))
    team.start_again()
    goal = team.ended(created["goal_id"])
    assert (goal["state"], goal["output"]) == ("completed", "It dances after all."), goal
    assert goal["task_ids"] == script.ids and len(script.ids) == 2
    assert goal["session_id"] == created["session_id"]
    wait_until(lambda: agent_of(created["session_id"]) == [], 30, "no agent is left")
    last = api.requests[-1]
    assert "make it dance" in str(last.body["messages"][0])
    assert [task["state"] for task in answer(last)["tasks"]] == ["completed", "completed"]
