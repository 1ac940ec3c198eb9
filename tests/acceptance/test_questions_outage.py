"""A question of the real Claude Code CLI is open, and Redis goes, the worker is killed, or the orchestrator is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_bus.questions import Question
from agent_bus.redis.client import RedisClient
from agent_bus.redis.url import parse_redis_url
from tests.acceptance.conftest import Client
from tests.acceptance.test_questions_live import ASKS, TOKENS, command, open_questions, token, wait_for_question
from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import OrchestratorProcess, Processes, processes
from tests.redis_server import RedisServer, running_redis
from tests.standin.messages_api import MessagesApi, reply, tool_use
from tests.waiting import wait_until

pytestmark = [pytest.mark.claude, pytest.mark.timeout(300)]


@dataclass
class OnRedisAlone:
    """A worker that has Redis and nothing else, an orchestrator that reaches it by Redis, and a person's client."""

    server: RedisServer
    redis: RedisClient
    started: Processes
    worker: subprocess.Popen[bytes]
    orchestrator: OrchestratorProcess
    environ: dict[str, str]

    def start_worker(self) -> None:
        self.worker = subprocess.Popen([sys.executable, "-m", "worker_service", "marie"], env=self.environ)

    def open(self) -> list[Question]:
        return [one for one in self.redis.questions() if one.is_open]

    def one(self) -> Question:
        (question,) = wait_until(self.open, 60, "a question in Redis")
        return question

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        shared = ("--shared-dir", str(self.started.shared))
        return command(self.environ, *words, *shared, API_TOKEN="the-token-of-approve-0123")


@contextmanager
def on_redis_alone(claude_environ: dict[str, str], folder: Path, *options: str) -> Iterator[OnRedisAlone]:
    with ExitStack() as ends:
        server = ends.enter_context(running_redis(folder / "redis", *options, durable=bool(options)))
        redis = RedisClient(parse_redis_url(server.url))
        ends.callback(redis.close)
        place, shared = folder / "place", folder / "own" / "shared"
        place.mkdir()
        shared.mkdir(parents=True)
        environ = {name: value for name, value in claude_environ.items() if name != "SHARED_DIR"} | ASKS
        environ |= {"REDIS_URL": server.url, "REDIS_LEASE": "2", "LOG_DIR": str(place), "HEARTBEAT_DIR": str(place)}
        environ |= {"PYTHONPATH": str(REPOSITORY), "WORKER_MODE": "hybrid", "TMPDIR": str(folder)}
        started = ends.enter_context(processes(shared))
        orchestrator = started.orchestrator(API_TOKENS=TOKENS, REDIS_URL=server.url)
        worker = subprocess.Popen([sys.executable, "-m", "worker_service", "marie"], env=environ)
        team = OnRedisAlone(server, redis, started, worker, orchestrator, environ)
        ends.callback(lambda: team.worker.wait(60))
        ends.callback(lambda: team.worker.terminate())
        wait_until(lambda: len(redis.heartbeats()) == 1, 60)
        yield team


def asked(http: httpx.Client, question_id: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/api/v1/questions/{question_id}", headers=token("read")).json()
    return found


def approve(http: httpx.Client, question_id: str) -> httpx.Response:
    return http.post(f"/api/v1/questions/{question_id}/approve", headers=token("approve"))


def test_a_question_outlives_the_redis_that_it_lay_in(
    api: MessagesApi, claude_environ: dict[str, str], tmp_path: Path
) -> None:
    """Redis is killed and comes back empty; meanwhile the team is told, and the answer that comes then counts once."""
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"echo once >> {made}"}), reply("done"))
    with on_redis_alone(claude_environ, tmp_path) as team, team.orchestrator.client() as http:
        team.redis.submit("marie", {"task_id": "t1", "description": "go"})
        question = wait_for_question(http)
        question_id = question["question_id"]
        assert question["unreachable"] is None
        team.server.kill()
        wait_until(lambda: asked(http, question_id)["unreachable"], 60, "the word that Redis is away")
        told = asked(http, question_id)
        assert told["state"] == "open"
        assert told["unreachable"].startswith("It cannot be answered now (") and "Redis" in told["unreachable"]
        assert told["unreachable"].endswith("); it stays open, and its time goes on.")
        listed = team.cli("questions")
        assert listed.returncode == 0 and f"{question_id}: It cannot be answered now" in listed.stdout, listed.stdout
        refused = approve(http, question_id)
        assert refused.status_code == 503, refused.text
        assert "answer it if it is open still" in refused.json()["detail"]
        late = team.cli("approve", question_id)
        assert late.returncode != 0 and "cannot be reached now" in late.stderr and "Traceback" not in late.stderr
        # Who has Redis alone is told in one sentence as well.
        alone = command(team.environ, "questions", "--redis", team.server.url)
        assert alone.returncode != 0 and "Traceback" not in alone.stderr and len(alone.stderr.splitlines()) == 1
        assert not made.exists()

        team.server.start()
        assert team.one().question_id == question_id
        wait_until(lambda: asked(http, question_id)["unreachable"] is None, 60, "the word that Redis is back")
        allowed = wait_until(lambda: (answer := approve(http, question_id)).status_code == 200 and answer, 60)
        assert allowed.json()["state"] == "allowed"
        wait_until(made.exists, 60, "what the tool does")
        assert approve(http, question_id).status_code == 409
        result = team.redis.result("t1", wait_s=60)
        assert result is not None and result.output == "done"
        assert made.read_text() == "once\n"


def test_a_redis_that_hangs_beside_files_holds_no_question_back(
    api: MessagesApi, environ: dict[str, str], client: Client, tmp_path: Path
) -> None:
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"touch {made}"}), reply("done"))
    api.when("more", tool_use("Bash", {"command": f"touch {made}2"}), reply("done as well"))
    client.shared.mkdir()
    with running_redis(tmp_path / "redis") as server, processes(client.shared) as started:
        orchestrator = started.orchestrator(API_TOKENS=TOKENS, REDIS_URL=server.url)
        started.worker("marie", **environ, REDIS_URL=server.url, WORKER_MODE="hybrid").ready()
        with orchestrator.client() as http:
            client.submit("t1", "go")
            question = wait_for_question(http)
            question_id = question["question_id"]
            # Who has Redis alone, on another host, is told where it lies.
            redis = ("--redis", server.url, "--shared-dir", str(tmp_path / "elsewhere"))
            (tmp_path / "elsewhere").mkdir()
            seen = wait_until(lambda: (told := command(environ, "questions", *redis)).stderr and told, 60)
            assert (seen.returncode, seen.stdout) == (0, "No question lies here.\n")
            assert "marie asks 1 more in its shared directory" in seen.stderr and "--api URL" in seen.stderr
            refused = command(environ, "approve", question_id, *redis)
            assert refused.returncode == 2 and "marie asks 1 more in its shared directory" in refused.stderr
            # Where both are to be had nothing is missing.
            both = command(environ, "questions", "--redis", server.url, "--shared-dir", str(client.shared))
            assert question_id in both.stdout and both.stderr == ""
            server.pause()
            # Asked and answered while Redis says nothing at all.
            assert approve(http, question["question_id"]).status_code == 200
            wait_until(client.has_result("t1"), 60)
            client.submit("t2", "more")
            second = wait_for_question(http)
            assert second["unreachable"] is None
            assert approve(http, second["question_id"]).status_code == 200
            wait_until(client.has_result("t2"), 60)
            server.resume()
            assert open_questions(http) == []
    assert made.exists() and (tmp_path / "workspace" / "made.txt2").exists()


@pytest.fixture
def environ(claude_environ: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in {**claude_environ, **ASKS}.items() if name != "WORKER_MODE"}


def test_an_answer_to_a_worker_that_is_down_holds_for_what_it_asks_anew(
    api: MessagesApi, claude_environ: dict[str, str], tmp_path: Path
) -> None:
    """Killed with a question open: what a person says meanwhile is neither lost nor used twice."""
    made = tmp_path / "workspace" / "made.txt"
    ask = tool_use("Bash", {"command": f"echo once >> {made}"})
    other = tool_use("Bash", {"command": f"echo other >> {made}"})
    api.when("go", ask, reply("never"))
    api.when(lambda seen: "You were interrupted" in seen.prompt, ask, other, reply("done after all"))
    with on_redis_alone(claude_environ, tmp_path) as team, team.orchestrator.client() as http:
        team.redis.submit("marie", {"task_id": "t1", "description": "go"})
        question = wait_for_question(http)
        team.worker.kill()
        team.worker.wait()
        assert approve(http, question["question_id"]).status_code == 200
        assert approve(http, question["question_id"]).status_code == 409
        assert not made.exists()
        team.start_worker()
        wait_until(made.exists, 90, "the tool that was allowed")
        # What is another call is asked of a person, and nothing is left of the dead.
        anew = team.one()
        assert "echo other" in json.dumps(anew.input)
        assert made.read_text() == "once\n"
        assert approve(http, wait_for_question(http)["question_id"]).status_code == 200
        result = team.redis.result("t1", wait_s=60)
        assert result is not None and result.output == "done after all"
        assert made.read_text() == "once\nother\n"
        assert team.open() == []
        wait_until(lambda: open_questions(http) == [], 60, "no ghost in the ledger")


def test_the_orchestrator_is_killed_with_a_question_open_on_redis_alone(
    api: MessagesApi, claude_environ: dict[str, str], tmp_path: Path
) -> None:
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"echo once >> {made}"}), reply("done"))
    with on_redis_alone(claude_environ, tmp_path) as team:
        with team.orchestrator.client() as http:
            team.redis.submit("marie", {"task_id": "t1", "description": "go"})
            question = wait_for_question(http)
        team.orchestrator.kill()
        second = team.started.orchestrator(API_TOKENS=TOKENS, REDIS_URL=team.server.url)
        with second.client() as http:
            assert wait_for_question(http)["question_id"] == question["question_id"]
            allowed = wait_until(
                lambda: (answer := approve(http, question["question_id"])).status_code == 200 and answer, 60
            )
            assert allowed.json()["answered_by"] == "approve"
            result = team.redis.result("t1", wait_s=60)
            assert result is not None and made.read_text() == "once\n"
