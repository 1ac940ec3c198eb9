"""A worker with the real Claude Code CLI, end to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus, WorkerStatus
from tests.acceptance.conftest import Client
from tests.integration.harness import fetch
from tests.standin.messages_api import (
    MessagesApi,
    hang,
    overloaded,
    rate_limited,
    reply,
    structured,
    tool_use,
    unauthorized,
)
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until
from worker_service.agents.leashed_process import descendants_of
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

Settings = Callable[..., WorkerSettings]


def kinds(events: list[dict[str, object]]) -> list[object]:
    return [event["event"] for event in events]


async def test_a_full_turn_with_a_tool_call(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("make a file", tool_use("Bash", {"command": "echo made > made.txt"}), reply("It is there."))
    settings = settings_of()
    async with open_worker(settings):
        client.submit("t1", "please make a file")
        await until(client.has_result("t1"), 30)
    result = client.result("t1")
    assert (result.status, result.output, result.exit_code) == (TaskStatus.COMPLETED, "It is there.", 0)
    assert (settings.workspace / "made.txt").read_text() == "made\n"
    assert result.session_id and result.num_turns == 2 and result.usage and result.cost_usd is not None
    assert kinds(client.events("t1")) == ["prompt", "session", "tool_use", "tool_result", "text", "result"]


async def test_a_pooled_process_serves_task_after_task_with_nothing_of_the_last_one(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("remember", tool_use("Bash", {"command": "cd /tmp; export LEAK=xyzzy; echo plugh"}), reply("noted"))
    async with open_worker(settings_of(MAX_CONCURRENT="1", WARM_PROCESSES="1")):
        for number in range(3):
            client.submit(f"t{number}", f"remember secret-{number}" if number < 2 else "last")
            await until(client.has_result(f"t{number}"), 30)
    sessions = {client.result(f"t{number}").session_id for number in range(3)}
    assert len(sessions) == 3
    last = json.dumps(api.requests[-1].body)
    assert "last" in last
    for trace in ("secret-0", "secret-1", "plugh", "xyzzy", "noted"):
        assert trace not in last


async def test_a_background_command_costs_its_process_the_next_task(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    command = f"setsid nohup sleep 1000 >/dev/null 2>&1 & echo $! > {pid_file}"
    api.when("leave something", tool_use("Bash", {"command": command}), reply("left"))
    async with open_worker(settings_of(MAX_CONCURRENT="1", WARM_PROCESSES="0")) as worker:
        client.submit("t1", "leave something behind")
        await until(client.has_result("t1"), 30)
        assert client.result("t1").status is TaskStatus.COMPLETED
        pid = int(pid_file.read_text())
        await until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the detached command")
        await until(lambda: not any(worker.agent.processes().values()))


def start_worker(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "worker_service"], env=environ, start_new_session=True)


def test_kill_9_in_the_middle_of_a_turn_and_the_session_goes_on(
    api: MessagesApi, claude_environ: dict[str, str], client: Client
) -> None:
    api.when("build it", tool_use("Bash", {"command": "echo step-one-done; sleep 0.3"}), hang(reply("finished")))
    first = start_worker(claude_environ)
    try:
        client.submit("t1", "build it, step by step")
        api.wait_for_request(lambda seen: bool(seen.tool_results), 40)
        # The transcript is written a moment behind the request that it describes.
        transcripts = Path(claude_environ["HOME"]) / ".claude" / "projects"
        wait_until(lambda: any("step-one-done" in path.read_text() for path in transcripts.glob("*/*.jsonl")))
        family = descendants_of(first.pid)
        assert family
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], what="the end of the family")
    session_id = next(event["data"]["session_id"] for event in client.events("t1") if event["event"] == "prompt")

    api.when(lambda seen: "You were interrupted" in seen.prompt, reply("resumed and finished"))
    second = start_worker(claude_environ)
    try:
        wait_until(client.has_result("t1"), 40)
    finally:
        second.terminate()
        assert second.wait(30) == 0
    result = client.result("t1")
    assert (result.status, result.output) == (TaskStatus.COMPLETED, "resumed and finished")
    assert (result.session_id, result.attempts) == (session_id, 2)
    resumed = json.dumps(api.requests[-1].body)
    assert "step-one-done" in resumed and "build it, step by step" in resumed


def test_sigterm_releases_the_task_and_the_next_worker_resumes_it(
    api: MessagesApi, claude_environ: dict[str, str], client: Client
) -> None:
    environ = {**claude_environ, "SHUTDOWN_GRACE": "0.2"}
    api.when("long work", hang())
    first = start_worker(environ)
    client.submit("t1", "long work")
    api.wait_for_request(lambda seen: "long work" in seen.prompt, 40)
    first.terminate()
    assert first.wait(30) == 0
    assert not client.result_path("t1").exists()

    api.when(lambda seen: "You were interrupted" in seen.prompt, reply("done after all"))
    second = start_worker(environ)
    try:
        wait_until(client.has_result("t1"), 40)
    finally:
        second.terminate()
        second.wait(30)
    result = client.result("t1")
    assert (result.output, result.attempts) == ("done after all", 1)


async def test_a_rate_limited_task_is_parked_for_all_and_goes_on_in_its_session(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    # Claude Code waits out a shorter time by itself.
    api.when("limited", rate_limited(retry_after_s=11), reply("after the limit"), shared=True)
    settings = settings_of()
    async with open_worker(settings) as worker:
        client.submit("t1", "limited work")
        await until(lambda: worker.dispatcher.parked() is not None, 30, "the closed gate")
        notice = worker.dispatcher.parked()
        assert notice is not None
        # Any other worker with this credential sees the same gate.
        assert len(list(settings.layout.gates.glob("*.json"))) == 1
        status, text = await fetch(worker.http_port, "/readyz")
        assert (status, "a limit holds tasks back until" in text) == (503, True)
        await until(lambda: worker.pulse.status is WorkerStatus.PAUSED)
        assert not client.result_path("t1").exists()
        await until(client.has_result("t1"), 30)
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "after the limit", 1)
    assert result.completed_at >= notice.until
    sessions = [event["data"]["session_id"] for event in client.events("t1") if event["event"] == "prompt"]
    assert sessions == [result.session_id] * 2


async def test_parking_can_be_turned_off(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("limited", rate_limited(retry_after_s=300))
    async with open_worker(settings_of(PARK_ON_LIMIT="0")):
        client.submit("t1", "limited work")
        await until(client.has_result("t1"), 30)
    result = client.result("t1")
    assert result.status is TaskStatus.FAILED and result.error and result.error.kind == "rate_limited"


async def test_an_overloaded_api_parks_the_task(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("busy", overloaded())
    async with open_worker(settings_of()) as worker:
        client.submit("t1", "busy day")
        await until(lambda: worker.dispatcher.parked() is not None, 30)
        assert not client.result_path("t1").exists()


async def test_a_refused_key_fails_soon_with_its_reason(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("hello", unauthorized())
    async with open_worker(settings_of()):
        client.submit("t1", "hello")
        await until(client.has_result("t1"), 30)
    result = client.result("t1")
    assert result.error and result.error.kind == "authentication_failed"


async def test_a_timeout_keeps_what_there_was(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("slow", tool_use("Bash", {"command": "true"}, say="I have begun."), hang())
    async with open_worker(settings_of()) as worker:
        client.submit("warm-up", "hello")
        await until(client.has_result("warm-up"), 30)
        client.submit("t1", "slow work", timeout=2)
        await until(client.has_result("t1"), 30)
        result = client.result("t1")
        assert (result.status, result.exit_code) == (TaskStatus.TIMED_OUT, 124)
        assert result.output == "I have begun." and result.session_id and result.usage is not None
        client.submit("t2", "next")
        await until(client.has_result("t2"), 30)
        assert client.result("t2").output == "You said: next"
        await until(lambda: worker.agent.processes()["busy"] == 0)


async def test_a_running_task_is_cancelled(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("endless", hang())
    async with open_worker(settings_of()):
        client.submit("t1", "endless work")
        await api.request_came(lambda seen: "endless" in seen.prompt, 30)
        client.cancel("t1")
        await until(client.has_result("t1"), 30)
    result = client.result("t1")
    assert (result.status, result.exit_code) == (TaskStatus.CANCELLED, 130)
    assert not (client.shared / "tasks" / "marie" / "t1.cancel").exists()


async def test_structured_output(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("answer", structured({"answer": 42}))
    api.when("chatter", reply("no shape at all"))
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    async with open_worker(settings_of(MAX_CONCURRENT="2")):
        client.submit("t1", "the answer?", output_schema=schema)
        client.submit("t2", "chatter", output_schema=schema)
        await until(client.has_result("t1"), 40)
        await until(client.has_result("t2"), 40)
    assert client.result("t1").structured_output == {"answer": 42}
    error = client.result("t2").error
    assert error is not None and error.kind == "no_structured_output"


async def test_max_turns_of_a_task(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("loop", tool_use("Bash", {"command": "true"}))
    async with open_worker(settings_of()):
        client.submit("t1", "loop for ever", max_turns=2)
        await until(client.has_result("t1"), 30)
    error = client.result("t1").error
    assert error is not None and error.kind == "max_turns"


async def test_tasks_of_a_session_share_a_conversation_in_order(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    async with open_worker(settings_of(MAX_CONCURRENT="2")) as worker:
        client.submit("t1", "first word", session="chat")
        client.submit("t2", "second word", session="chat")
        await until(client.has_result("t1"), 30)
        await until(client.has_result("t2"), 30)
        assert worker.dispatcher.current_tasks == []
    assert client.result("t1").session_id == client.result("t2").session_id
    last = json.dumps(api.requests[-1].body)
    assert "first word" in last and "You said: first word" in last and "second word" in last

    # A new worker finds the conversation again.
    async with open_worker(settings_of()):
        client.submit("t3", "third word", session="chat")
        await until(client.has_result("t3"), 30)
    last = json.dumps(api.requests[-1].body)
    assert "first word" in last and "third word" in last


@pytest.mark.parametrize("prompt", ["/clear", "/exit", "@/etc/hostname", "--help", "/nosuch thing", "\u2028 ok"])
async def test_a_prompt_is_text_whatever_it_looks_like(
    api: MessagesApi, settings_of: Settings, client: Client, prompt: str
) -> None:
    async with open_worker(settings_of(WARM_PROCESSES="0")):
        client.submit("t1", prompt)
        await until(client.has_result("t1"), 30)
    assert client.result("t1").status is TaskStatus.COMPLETED
    assert api.requests[-1].prompt == prompt.strip()


async def test_the_output_style_reaches_the_model(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    style = tmp_path / "style.md"
    style.write_text("---\nname: pirate\n---\nAnswer like a pirate of the seven seas.\n")
    async with open_worker(settings_of(OUTPUT_STYLE=str(style))):
        client.submit("t1", "hello")
        await until(client.has_result("t1"), 30)
    assert "pirate of the seven seas" in api.requests[-1].system_text
    assert "name: pirate" not in api.requests[-1].system_text


async def test_the_services_secrets_are_not_in_the_agents_environment(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("look around", tool_use("Bash", {"command": "env"}), reply("seen"))
    secrets = {
        "REDIS_URL": "redis://:hunter2@127.0.0.1/0",
        "API_TOKEN": "t0ken",
        "MY_OWN": "private",
        "NAMED": "public",
    }
    async with open_worker(settings_of(**secrets, AGENT_ENV="NAMED,REDIS_URL")):
        client.submit("t1", "look around")
        await until(client.has_result("t1"), 30)
    seen = json.dumps(api.requests[-1].tool_results)
    assert "NAMED=public" in seen
    for secret in ("hunter2", "t0ken", "private"):
        assert secret not in seen


async def test_warm_processes_are_frozen_while_they_wait(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    async with open_worker(settings_of(MAX_CONCURRENT="2", WARM_PROCESSES="2")) as worker:
        await until(lambda: worker.agent.processes().get("frozen") == 2, 40, "two frozen processes")
        client.submit("t1", "hello")
        await until(client.has_result("t1"), 30)
        assert client.result("t1").output == "You said: hello"
        await until(lambda: worker.agent.processes().get("frozen") == 2, 40)
