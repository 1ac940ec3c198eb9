"""From the real Claude Code CLI to a person and back: by HTTP, the command line, MCP and Redis; and crashes between."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from agent_bus.messages import TaskStatus
from agent_bus.question_files import QuestionFiles
from agent_bus.redis.client import RedisClient
from agent_bus.redis.url import parse_redis_url
from tests.acceptance.conftest import Client
from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import OrchestratorProcess, Processes, processes
from tests.redis_server import running_redis
from tests.standin.messages_api import MessagesApi, reply, tool_use
from tests.waiting import wait_until

pytestmark = [pytest.mark.claude, pytest.mark.timeout(240)]

SECRETS = {role: f"the-token-of-{role}-0123" for role in ("read", "submit", "approve", "admin")}
TOKENS = "\n".join(f"{role}:{role}:{secret}" for role, secret in SECRETS.items())
ASKS = {"ALLOWED_TOOLS": "Read", "PERMISSION_MODE": "default", "QUESTION_TIMEOUT": "600"}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    (tmp_path / "shared").mkdir()
    with processes(tmp_path / "shared") as started:
        yield started


@pytest.fixture
def environ(claude_environ: dict[str, str]) -> dict[str, str]:
    return {**claude_environ, **ASKS, "MAX_CONCURRENT": "2"}


def token(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[role]}"}


def begin(started: Processes, environ: dict[str, str]) -> OrchestratorProcess:
    """Start an orchestrator with tokens, and one worker with the real CLI."""
    orchestrator = started.orchestrator(API_TOKENS=TOKENS)
    started.worker("marie", **environ).ready()
    return orchestrator


def open_questions(http: httpx.Client) -> list[dict[str, Any]]:
    answer = http.get("/api/v1/questions", headers=token("read"))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def wait_for_question(http: httpx.Client) -> dict[str, Any]:
    return wait_until(lambda: next(iter(open_questions(http)), None), 60, "a question at the API")


def submit(http: httpx.Client, task_id: str, prompt: str) -> None:
    order = {"description": prompt, "worker": "marie", "task_id": task_id}
    assert http.post("/api/v1/tasks", json=order, headers=token("submit")).status_code == 201


def events(http: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    """Return what the stream of a task's events holds of the ledger."""
    text = http.get(f"/api/v1/tasks/{task_id}/events?follow=false", headers=token("read")).text
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    return [one for one in data if one["event"].startswith("permission_") and "goal_id" in one]


def command(environ: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `codehornets` as a person would, with nothing of this process's environment."""
    given = {"PATH": environ["PATH"], "HOME": environ["HOME"], "PYTHONPATH": str(REPOSITORY), "USER": "anna"}
    code = "from orchestrator_service.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], env={**given, **more}, capture_output=True, text=True, timeout=60
    )


def test_http_only_who_may_approve_may_and_the_first_answer_counts(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"touch {made}"}), reply("done"))
    with begin(started, environ).client() as http:
        submit(http, "t1", "go")
        question = wait_for_question(http)
        assert (question["task_id"], question["tool"], question["state"]) == ("t1", "Bash", "open")
        path = f"/api/v1/questions/{question['question_id']}"
        for role in ("read", "submit"):
            refused = http.post(f"{path}/approve", headers=token(role))
            assert refused.status_code == 403 and "needs the role approve" in refused.json()["detail"]
        assert not made.exists()
        allowed = http.post(f"{path}/approve", headers=token("approve"), json={"reason": "go on"})
        assert allowed.status_code == 200, allowed.text
        assert (allowed.json()["state"], allowed.json()["answered_by"]) == ("allowed", "approve")
        late = http.post(f"{path}/deny", headers=token("admin"))
        assert late.status_code == 409
        assert late.json()["detail"].endswith("was answered already: approve allowed it.")
        wait_until(client.has_result("t1"), 60)
        assert made.exists()
        again = http.post(f"{path}/approve", headers=token("admin"))
        assert again.status_code == 409
        wait_until(lambda: http.get("/api/v1/tasks/t1", headers=token("read")).json()["state"] == "completed", 30)
        assert [one["event"] for one in events(http, "t1")] == ["permission_asked", "permission_answered"]
        (kept,) = http.get("/api/v1/questions?state=answered&task=t1", headers=token("read")).json()
        assert (kept["decision"], kept["reason"]) == ("allow", "go on")
        metrics = http.get("/metrics").text
        assert 'codehornets_orchestrator_questions_total{state="allowed"} 1.0' in metrics
    assert client.result("t1").status is TaskStatus.COMPLETED


def test_a_restart_of_the_orchestrator_forgets_no_question(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"touch {made}"}), reply("done"))
    first = begin(started, environ)
    with first.client() as http:
        submit(http, "t1", "go")
        question = wait_for_question(http)
    first.kill()
    # Meanwhile another one is asked, and answered by a file: nobody is there to hear of it.
    api.when("more", tool_use("Bash", {"command": f"touch {made}2"}), reply("done as well"))
    client.submit("t2", "more")

    def waiting() -> list[str]:
        return [one.question_id for one in QuestionFiles(client.shared / "questions" / "marie").all() if one.is_open]

    wait_until(lambda: len(waiting()) == 2, 60)
    (other,) = set(waiting()) - {question["question_id"]}
    done = command(environ, "deny", other, "--reason", "no", "--shared-dir", str(client.shared))
    assert done.returncode == 0, done.stderr
    wait_until(client.has_result("t2"), 60)
    with started.orchestrator(API_TOKENS=TOKENS).client() as http:
        wait_until(lambda: len(open_questions(http)) == 1, 60)
        assert open_questions(http)[0]["question_id"] == question["question_id"]

        def heard() -> dict[str, Any]:
            told: dict[str, Any] = http.get(f"/api/v1/questions/{other}", headers=token("read")).json()
            return told

        wait_until(lambda: heard().get("state") == "denied", 60)
        assert heard()["reason"] == "no"
        done_by_api = http.post(f"/api/v1/questions/{question['question_id']}/approve", headers=token("approve"))
        assert done_by_api.status_code == 200, done_by_api.text
        wait_until(client.has_result("t1"), 60)
        assert [one["event"] for one in events(http, "t1")] == ["permission_asked", "permission_answered"]
    assert made.exists()


def test_the_command_line_by_the_api_and_by_the_files_alone(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"touch {made}"}), reply("done"))
    api.when("no", tool_use("Bash", {"command": f"touch {made}2"}), reply("then not"))
    orchestrator = begin(started, environ)
    shared = ("--shared-dir", str(client.shared))
    with orchestrator.client() as http:
        submit(http, "t1", "go")
        question = wait_for_question(http)
        question_id = question["question_id"]
    listed = command(environ, "questions", *shared, API_TOKEN=SECRETS["read"])
    assert listed.returncode == 0 and question_id in listed.stdout and "touch" in listed.stdout, listed.stderr
    shown = command(environ, "questions", question_id, *shared, API_TOKEN=SECRETS["read"])
    assert str(made) in shown.stdout, shown.stderr
    refused = command(environ, "approve", question_id, *shared, API_TOKEN=SECRETS["submit"])
    assert refused.returncode == 2 and "needs the role approve" in refused.stderr
    allowed = command(environ, "approve", question_id[:8], *shared, "--json", API_TOKEN=SECRETS["approve"])
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads(allowed.stdout)["answered_by"] == "approve"
    late = command(environ, "deny", question_id, *shared, API_TOKEN=SECRETS["approve"])
    assert (late.returncode, late.stdout) == (2, "")
    assert "was answered already" in late.stderr and "Traceback" not in late.stderr
    wait_until(client.has_result("t1"), 60)
    assert made.exists()
    orchestrator.kill()
    (client.shared / "heartbeats" / "orchestrator.json").unlink()

    client.submit("t2", "no")
    found: list[dict[str, Any]] = wait_until(
        lambda: json.loads(command(environ, "questions", "--json", *shared).stdout), 60, "a question in the files"
    )
    status = command(environ, "status", *shared)
    assert "1" in status.stdout and "asks" in status.stdout, status.stdout
    denied = command(environ, "deny", found[0]["question_id"], "--reason", "not today", *shared)
    assert denied.returncode == 0, denied.stderr
    late = command(environ, "approve", found[0]["question_id"], *shared)
    assert late.returncode == 2 and "already" in late.stderr
    wait_until(client.has_result("t2"), 60)
    nothing = command(environ, "questions", *shared)
    assert (nothing.returncode, nothing.stdout) == (0, "No question waits for an answer.\n")
    unknown = command(environ, "approve", "q-ffffffffffffffff", *shared)
    assert unknown.returncode == 2 and "There is no question" in unknown.stderr
    answered = [one["data"] for one in client.events("t2") if one["event"] == "permission_answered"]
    assert [(one["decision"], one["reason"]) for one in answered] == [("deny", "not today")]
    assert not (tmp_path / "workspace" / "made.txt2").exists()


async def test_mcp_answers_for_who_may(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    import anyio.to_thread

    api.when("go", tool_use("Bash", {"command": f"touch {tmp_path}/workspace/made.txt"}), reply("done"))
    orchestrator = begin(started, environ)

    def ask() -> tuple[str, str]:
        with orchestrator.client() as http:
            submit(http, "t1", "go")
            return str(http.base_url), str(wait_for_question(http)["question_id"])

    url, question_id = await anyio.to_thread.run_sync(ask)
    for role in ("submit", "approve"):
        async with httpx2.AsyncClient(headers=token(role), timeout=30) as http:
            transport = streamable_http_client(f"{url.rstrip('/')}/mcp", http_client=http)
            async with McpClient(transport) as mcp:
                names = [tool.name for tool in (await mcp.list_tools()).tools]
                assert ("answer_question" in names) == (role == "approve")
                given = {"question_id": question_id, "decision": "allow"}
                answer = await mcp.call_tool("answer_question", given)
                assert bool(answer.is_error) == (role == "submit")
    await anyio.to_thread.run_sync(lambda: wait_until(client.has_result("t1"), 60))
    assert client.result("t1").output == "done"


def test_redis_alone_from_the_question_to_the_answer(api: MessagesApi, environ: dict[str, str], tmp_path: Path) -> None:
    made = tmp_path / "workspace" / "made.txt"
    api.when("go", tool_use("Bash", {"command": f"touch {made}"}), reply("done"))
    api.when("no", tool_use("Bash", {"command": f"touch {made}2"}), reply("then not"))
    api.when("by api", tool_use("Bash", {"command": f"touch {made}3"}), reply("done by api"))
    with ExitStack() as ends:
        server = ends.enter_context(running_redis(tmp_path / "redis"))
        redis = RedisClient(parse_redis_url(server.url))
        ends.callback(redis.close)
        place = tmp_path / "place"
        place.mkdir()
        alone = {name: value for name, value in environ.items() if name != "SHARED_DIR"}
        alone |= {"REDIS_URL": server.url, "LOG_DIR": str(place), "HEARTBEAT_DIR": str(place)}
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker_service", "marie"],
            env={**alone, "PYTHONPATH": str(REPOSITORY), "WORKER_MODE": "hybrid", "TMPDIR": str(tmp_path)},
        )
        ends.callback(lambda: worker.wait(60))
        ends.callback(worker.terminate)
        wait_until(lambda: len(redis.heartbeats()) == 1, 60)
        way = ("--redis", server.url)

        redis.submit("marie", {"task_id": "t1", "description": "go"})
        wait_until(lambda: [one for one in redis.questions() if one.is_open], 60, "a question in Redis")
        (question,) = redis.questions()
        listed = command(environ, "questions", *way)
        assert question.question_id in listed.stdout, listed.stderr
        allowed = command(environ, "approve", question.question_id, *way)
        assert allowed.returncode == 0, allowed.stderr
        late = command(environ, "deny", question.question_id, *way)
        assert late.returncode == 2 and "already" in late.stderr
        assert redis.result("t1", wait_s=60) is not None and made.exists()

        # One that means nothing is put away, and a good one counts.
        redis.submit("marie", {"task_id": "t2", "description": "no"})
        (second,) = wait_until(lambda: [one for one in redis.questions() if one.is_open], 60)
        key = f"codehornets:question:marie:{second.question_id}:answer"
        redis._redis.set(key, b"allow it")
        redis.control("marie", {"command": "wake"})
        wait_until(lambda: redis._redis.get(key) is None, 30, "the removal of what is no answer")
        denied = command(environ, "deny", second.question_id, "--reason", "no", *way)
        assert denied.returncode == 0, denied.stderr
        result = redis.result("t2", wait_s=60)
        assert result is not None and result.output == "then not"

        # And over an orchestrator that reaches its worker by Redis alone.
        (tmp_path / "own").mkdir()
        with processes(tmp_path / "own" / "shared") as started:
            (tmp_path / "own" / "shared").mkdir()
            orchestrator = started.orchestrator(API_TOKENS=TOKENS, REDIS_URL=server.url)
            with orchestrator.client() as http:
                redis.submit("marie", {"task_id": "t3", "description": "by api"})
                third = wait_for_question(http)
                assert third["task_id"] == "t3"
                path = f"/api/v1/questions/{third['question_id']}/approve"
                assert http.post(path, headers=token("approve")).status_code == 200
                result = redis.result("t3", wait_s=60)
                assert result is not None and result.output == "done by api"
                heard = http.get(f"/api/v1/questions/{second.question_id}", headers=token("read")).json()
                assert (heard["state"], heard["reason"]) == ("denied", "no")
        for key in redis._redis.scan_iter(match="codehornets:question*"):
            assert redis._redis.ttl(key) > 0, key


ANSWERS_ITSELF = """
import json, sys, time, urllib.error, urllib.request
beat, said = sys.argv[1:]
while True:
    time.sleep(0.05)
    try:
        url = f"http://127.0.0.1:{json.load(open(beat))['http_port']}/api/v1/questions"
        found = json.load(urllib.request.urlopen(url, timeout=10))
        if found:
            path = f"{url}/{found[0]['question_id']}/approve"
            urllib.request.urlopen(urllib.request.Request(path, method="POST"), timeout=10)
            open(said, "w").write("allowed")
            break
    except urllib.error.HTTPError as error:
        open(said, "w").write(f"{error.code} {error.read().decode()}")
        break
    except (OSError, KeyError, ValueError):
        continue
"""


def test_without_tokens_a_program_of_the_agent_cannot_answer_for_it(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    """Not even one that it leaves behind, while everybody else on this machine may."""
    script, said, outside = (tmp_path / name for name in ("answers.py", "workspace/said", "outside.txt"))
    script.write_text(ANSWERS_ITSELF)
    beat = client.shared / "heartbeats" / "orchestrator.json"
    # The beat is told by a copy: the agent's shell may not name the real one.
    copy = tmp_path / "workspace" / "beat.json"
    start = f"setsid nohup {sys.executable} {script} {copy} {said} > /dev/null 2>&1 &"
    ask = tool_use("Write", {"file_path": str(outside), "content": "x"})
    api.when("go", tool_use("Bash", {"command": start}), ask, reply("done"))
    orchestrator = started.orchestrator()
    with orchestrator.client() as http:
        copy.write_bytes(beat.read_bytes())
        started.worker("marie", **environ | {"ALLOWED_TOOLS": "Bash,Read"}).ready()
        http.post("/api/v1/tasks", json={"description": "go", "worker": "marie", "task_id": "t1"})
        question = wait_for_question(http)
        wait_until(said.exists, 60, "what the agent's program was told")
        wait_until(said.read_text, 10)
        assert "403" in said.read_text() and "a person must" in said.read_text(), said.read_text()
        assert not outside.exists()
        allowed = http.post(f"/api/v1/questions/{question['question_id']}/approve")
        assert allowed.status_code == 200, allowed.text
        wait_until(client.has_result("t1"), 60)
    assert outside.read_text() == "x"


async def test_mcp_lists_denies_with_a_reason_and_tells_who_comes_too_late(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    import anyio.to_thread

    made = tmp_path / "workspace" / "made.txt"
    for prompt in ("go", "in vain"):
        api.when(prompt, tool_use("Bash", {"command": f"touch {made}"}), reply("then not"))
    orchestrator = begin(started, environ)
    with orchestrator.client() as http:

        def ask(task_id: str, prompt: str) -> str:
            submit(http, task_id, prompt)
            return str(wait_for_question(http)["question_id"])

        def cancel(task_id: str) -> None:
            assert http.post(f"/api/v1/tasks/{task_id}/cancel", headers=token("admin")).status_code < 300
            wait_until(lambda: open_questions(http) == [], 60, "the end of the question")

        denied = await anyio.to_thread.run_sync(ask, "t1", "go")
        async with httpx2.AsyncClient(headers=token("approve"), timeout=30) as mine:
            transport = streamable_http_client(f"{str(http.base_url).rstrip('/')}/mcp", http_client=mine)
            async with McpClient(transport) as mcp:

                async def say(question_id: str, decision: str, **more: str) -> tuple[bool, str]:
                    given = {"question_id": question_id, "decision": decision, **more}
                    answer = await mcp.call_tool("answer_question", given)
                    return bool(answer.is_error), str(answer.content[0])

                listed = await mcp.call_tool("list_questions", {})
                assert denied in str(listed.content[0]) and str(made) in str(listed.content[0])
                assert (await say(denied, "deny", reason="not on a Friday"))[0] is False
                late, told = await say(denied, "allow")
                assert late and f"Question {denied} was answered already: approve denied it." in told
                await anyio.to_thread.run_sync(lambda: wait_until(client.has_result("t1"), 60))
                ended = await anyio.to_thread.run_sync(ask, "t2", "in vain")
                await anyio.to_thread.run_sync(cancel, "t2")
                late, told = await say(ended, "allow")
                assert late and f"Question {ended} takes no answer any more: the task" in told
    assert any("not on a Friday" in str(block) for seen in api.requests for block in seen.tool_results)
    assert not made.exists()


def test_files_alone_tell_whoever_answers_for_what_has_ended(
    api: MessagesApi, environ: dict[str, str], started: Processes, client: Client, tmp_path: Path
) -> None:
    made = tmp_path / "workspace" / "made.txt"
    for prompt in ("cancelled", "silent"):
        api.when(prompt, tool_use("Bash", {"command": f"touch {made}"}), reply("then not"))
    started.worker("marie", **environ).ready()
    files = QuestionFiles(client.shared / "questions" / "marie")
    shared = ("--shared-dir", str(client.shared))

    def end_of(task_id: str) -> str:
        wait_until(client.has_result(task_id), 60)
        return next(one.question_id for one in files.all() if one.task_id == task_id)

    client.submit("t1", "cancelled")
    wait_until(lambda: [one for one in files.all() if one.is_open], 60, "a question")
    client.cancel("t1")
    client.submit("t2", "silent", question_timeout=0.3)
    for task_id, why in (("t1", "the task was cancelled."), ("t2", "nobody answered in time, and it was denied.")):
        question_id = end_of(task_id)
        for verb in ("approve", "deny"):
            late = command(environ, verb, question_id, *shared)
            assert (late.returncode, late.stdout) == (2, "")
            told = late.stderr.strip().splitlines()
            assert len(told) == 1 and told[0].endswith(f"Question {question_id} takes no answer any more: {why}"), told
    assert not made.exists()
