"""Claude Code's hooks as the real CLI runs them: what becomes an event, what becomes of a rule, who is kept out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agent_bus.hooks.events import HOOKS
from agent_bus.messages import TaskStatus
from orchestrator_service.hook_installation import hook_command, install_hooks
from tests.acceptance.conftest import Client, needs_isolation
from tests.integration.harness import REPOSITORY, fetch
from tests.standin.messages_api import MessagesApi, hang, reply, tool_use
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until
from worker_service.agents.claude_command import find_cli
from worker_service.agents.claude_hooks import SessionHooks
from worker_service.service import open_worker
from worker_service.settings import ClaudeSettings, WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

Settings = Callable[..., WorkerSettings]

TOOLS = "Bash,Read,Edit,Write,Agent"
WAITED_FOR = ("UserPromptSubmit", "PreToolUse")
"""Claude Code would refuse the prompt and the tool call."""


def hooks_of(client: Client, task_id: str) -> list[dict[str, Any]]:
    return [event["data"] for event in client.events(task_id) if event["event"] == "hook"]


def names_of(client: Client, task_id: str) -> list[str]:
    return [data["hook"] for data in hooks_of(client, task_id)]


def write_rules(client: Client, *rules: dict[str, Any]) -> None:
    folder = client.shared / "hooks-config"
    folder.mkdir(parents=True)
    (folder / "marie-hooks.json").write_text(json.dumps({"hooks": list(rules)}))


async def test_every_hook_of_a_turn_becomes_an_event_once(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when(
        "all of it",
        tool_use("Bash", {"command": "echo hi"}),
        tool_use("Bash", {"command": "false"}),
        tool_use("WebFetch", {"url": "http://127.0.0.1:1/", "prompt": "x"}),
        tool_use(
            "Agent",
            {
                "description": "sub",
                "prompt": "look",
                "subagent_type": "general-purpose",
                "run_in_background": False,
            },
        ),
        reply("done"),
    )
    settings = settings_of(WORKER_MODE="hooks", ALLOWED_TOOLS=TOOLS, QUESTIONS="off")
    async with open_worker(settings) as worker:
        client.submit("t1", "all of it")
        await until(client.has_result("t1"), 40)
        client.submit("t2", "hello")
        await until(client.has_result("t2"), 40)
        _, metrics = await fetch(worker.http_port, "/metrics")
    told = hooks_of(client, "t1")
    names = [data["hook"] for data in told]
    assert set(names) == set(HOOKS)
    assert (names[0], names[1], names[-1]) == ("SessionStart", "UserPromptSubmit", "SessionEnd")
    calls = [data["tool_use_id"] for data in told if data["hook"] == "PreToolUse"]
    ends = [data["tool_use_id"] for data in told if data["hook"].startswith("PostToolUse")]
    assert len(calls) == 4 and sorted(calls) == sorted(ends)
    failed = [data for data in told if data["hook"] == "PostToolUseFailure"]
    # What was denied has no hook of its own: the stream tells.
    assert [(data["tool_name"], data["source"]) for data in failed] == [("Bash", "hook"), ("WebFetch", "stream")]
    result = client.result("t1")
    assert {data["session_id"] for data in told} == {result.session_id}
    # The next task of the same process has its own events, and none of the clearing between.
    assert names_of(client, "t2") == ["SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"]
    assert 'hook_events_total{event="PreToolUse",worker="marie"} 4.0' in metrics
    assert 'hook_events_filled_in_total{event="SessionStart",worker="marie"} 2.0' in metrics
    lines = [json.loads(line) for line in settings.layout.tool_use_log("marie").read_text().splitlines()]
    assert [(line["hook"], line["task_id"]) for line in lines][:2] == [("PreToolUse", "t1"), ("PostToolUse", "t1")]


async def test_rules_write_triggers_and_lines_and_the_users_own_hooks_run_too(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    mark = tmp_path / "own-hook"
    own = {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": f"echo ran >> {mark}"}]}]}
    (tmp_path / "home" / ".claude").mkdir()
    (tmp_path / "home" / ".claude" / "settings.json").write_text(json.dumps({"hooks": own}))
    write_rules(
        client,
        {
            "name": "tell",
            "event": "OnError",
            "action": {
                "type": "trigger",
                "path": "/shared/triggers/orchestrator/marie-${task_id}.trigger",
                "payload": {"error": "${error}", "tool": "${tool_name}"},
            },
        },
        {
            "name": "note",
            "event": "PreToolUse",
            "condition": {"type": "pattern", "pattern": "ec+ho"},
            "action": {"type": "log", "path": "/var/log/marie-notes.log", "format": "${tool_name}: ${tool_args}"},
        },
    )
    api.when("work", tool_use("Bash", {"command": "echo hi"}), tool_use("Bash", {"command": "false"}), reply("done"))
    settings = settings_of(WORKER_MODE="hooks")
    async with open_worker(settings):
        client.submit("t1", "work")
        await until(client.has_result("t1"), 40)
    assert mark.read_text() == "ran\nran\n"
    trigger = json.loads((client.shared / "triggers" / "orchestrator" / "marie-t1.trigger").read_text())
    assert trigger == {"error": "Exit code 1", "tool": "Bash"}
    assert (settings.layout.logs / "marie-notes.log").read_text() == 'Bash: {"command": "echo hi"}\n'


async def test_a_failed_and_a_timed_out_turn_are_errors(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("loop", tool_use("Bash", {"command": "true"}))
    api.when("endless", hang())
    async with open_worker(settings_of(WORKER_MODE="hybrid", MAX_CONCURRENT="2")):
        client.submit("t1", "loop for ever", max_turns=1)
        client.submit("t2", "endless", timeout=1)
        await until(client.has_result("t1"), 40)
        await until(client.has_result("t2"), 40)
    for task_id, kind in (("t1", "max_turns"), ("t2", "timeout")):
        told = hooks_of(client, task_id)
        errors = [data for data in told if data["hook"] == "OnError"]
        assert [error["reason"] for error in errors] == [kind]
        assert told[-1]["hook"] == "OnError"


@pytest.mark.parametrize("how", ["hang", "fail"])
async def test_a_hook_that_hangs_or_fails_costs_the_agent_no_more_than_its_timeout(
    api: MessagesApi, settings_of: Settings, client: Client, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    api.when("work", tool_use("Bash", {"command": "echo hi"}), reply("done"))

    async def wait_for_ever(hooks: SessionHooks, *arguments: object) -> dict[str, object]:
        if isinstance(payload := arguments[0], dict) and payload["hook_event_name"] not in WAITED_FOR:
            await anyio.sleep_forever()
        return {}

    def fail(hooks: SessionHooks, payload: object) -> None:
        raise RuntimeError("no hook today")

    monkeypatch.setattr(
        SessionHooks, "_callback" if how == "hang" else "_take", wait_for_ever if how == "hang" else fail
    )
    async with open_worker(settings_of(WORKER_MODE="hooks", HOOK_TIMEOUT="0.5")):
        client.submit("t1", "work", timeout=30)
        await until(client.has_result("t1"), 40)
    assert (client.result("t1").status, client.result("t1").output) == (TaskStatus.COMPLETED, "done")
    # The stream tells what the hooks did not.
    assert {(data["hook"], data["source"]) for data in hooks_of(client, "t1")} == {
        (hook, "stream")
        for hook in ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
    }


def run_claude(environ: dict[str, str], prompt: str) -> str:
    program = find_cli(ClaudeSettings(), environ)
    assert program is not None
    command = [str(program), "-p", prompt, "--allowedTools", "Bash"]
    ran = subprocess.run(
        command,
        env=environ,
        cwd=environ["WORKSPACE"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_a_session_of_ones_own_reports_by_the_installed_command(
    api: MessagesApi, claude_environ: dict[str, str], tmp_path: Path
) -> None:
    api.when("try", tool_use("Bash", {"command": "echo hi"}), tool_use("Bash", {"command": "false"}), reply("tried"))
    shared = tmp_path / "shared"
    shared.mkdir()
    program = [sys.executable, "-P", "-m", "orchestrator_service.cli"]
    settings = tmp_path / "home" / ".claude" / "settings.json"
    install_hooks(settings, hook_command(program, worker="me", shared=shared))
    assert run_claude({**claude_environ, "PYTHONPATH": str(REPOSITORY)}, "try").strip() == "tried"

    def told() -> set[str]:
        journals = list((shared / "events" / "me").glob("session-*.jsonl"))
        lines = [json.loads(line) for path in journals for line in path.read_text().splitlines()]
        return {line["data"]["hook"] for line in lines}

    # Those that Claude Code does not wait for may still be on their way.
    awaited = {"SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd"}
    wait_until(lambda: awaited <= told(), 20, "the events of the session")
    assert not (shared / "watcher-logs" / "me-watcher.log").exists()


async def test_a_session_of_ones_own_reports_over_http(
    api: MessagesApi, settings_of: Settings, claude_environ: dict[str, str], client: Client, tmp_path: Path
) -> None:
    async with open_worker(settings_of(WORKER_MODE="hooks", HOOK_TOKEN="s3cret", WARM_PROCESSES="0")) as worker:
        hook = {
            "type": "http",
            "url": f"http://127.0.0.1:{worker.http_port}/hooks/UserPromptSubmit",
            "headers": {"Authorization": "Bearer $HOOK_TOKEN"},
            "allowedEnvVars": ["HOOK_TOKEN"],
        }
        folder = tmp_path / "home" / ".claude"
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps({"hooks": {"UserPromptSubmit": [{"hooks": [hook]}]}}))
        own = {**claude_environ, "HOOK_TOKEN": "s3cret"}
        await anyio.to_thread.run_sync(run_claude, own, "hello there")
        journals = list((client.shared / "events" / "marie").glob("session-*.jsonl"))
    assert len(journals) == 1
    assert json.loads(journals[0].read_text())["data"]["prompt"] == "hello there"


@pytest.mark.parametrize("isolation", ["off", pytest.param("on", marks=needs_isolation)])
async def test_installed_hooks_leave_the_pools_sessions_alone(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path, isolation: str
) -> None:
    settings = tmp_path / "home" / ".claude" / "settings.json"
    program, mark = tmp_path / "codehornets", tmp_path / "mark"
    # Says that it ran, and with what the worker has told it.
    program.write_text(f'#!/bin/sh\necho "$CODEHORNETS_WORKER" >> {mark}\n')
    program.chmod(0o755)
    install_hooks(settings, hook_command([str(program)], worker="me", shared=client.shared))
    async with open_worker(settings_of(WORKER_MODE="hooks", AGENT_ISOLATION=isolation)):
        client.submit("t1", "hello")
        await until(client.has_result("t1"), 40)
        await until(mark.exists, 20, "the installed hook")
    assert set(mark.read_text().split()) == {"marie"}
    assert names_of(client, "t1") == ["SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"]
