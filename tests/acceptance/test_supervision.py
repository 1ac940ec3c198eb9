"""Stuck tasks with the real Claude Code CLI: each signal noticed, and a healthy task beside each that is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from agent_bus.heartbeats import read_heartbeat
from agent_bus.messages import TaskStatus
from agent_bus.question_files import QuestionFiles
from agent_bus.questions import Answer, AnswerFate, Decision
from tests.acceptance.conftest import Client
from tests.integration.harness import fetch
from tests.standin.messages_api import MessagesApi, Step, hang, rate_limited, reply, slow, tool_use, unending
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until
from worker_service.agents.leashed_process import descendants_of
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(150)]

Settings = Callable[..., WorkerSettings]
QUICK = {"STUCK_AFTER": "3", "STUCK_LINGER": "3", "STUCK_REPEATS": "4", "STUCK_INTERRUPT_AFTER": "0.5"}
"""Limits for tasks that are stuck: long enough for their next attempt to be well on a busy machine."""
HEALTHY = {"STUCK_AFTER": "3", "STUCK_LINGER": "3", "STUCK_REPEATS": "4", "STUCK_INTERRUPT_AFTER": "0"}
"""Limits for tasks that are not: long enough for a busy machine, and nothing is forgiven."""
SLEEP = """python3 -c 'import time; time.sleep(600)'"""
BURN = """python3 -c 'import time
end = time.monotonic() + {seconds}
while time.monotonic() < end: pass'"""


def stages(client: Client, task_id: str) -> list[str]:
    return [str(event["data"]["stage"]) for event in stuck_events(client, task_id)]


def stuck_events(client: Client, task_id: str) -> list[dict[str, Any]]:
    return [event for event in client.events(task_id) if event["event"] == "task_stuck"]


def signals(client: Client, task_id: str) -> set[str]:
    return set(stuck_events(client, task_id)[0]["data"]["signals"])


def told_nothing(client: Client, task_id: str) -> bool:
    return not [event for event in client.events(task_id) if event["event"] in ("task_stuck", "task_unstuck")]


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


# -- the five signals


async def test_an_api_that_is_silent_is_noticed_and_the_task_goes_on_in_its_session(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("write it", tool_use("Bash", {"command": "echo begun"}, say="I begin."), hang())
    api.when(lambda seen: "You were interrupted" in seen.prompt, reply("finished after all"))
    async with open_worker(settings_of(**QUICK)) as worker:
        client.submit("t1", "please write it")
        await until(lambda: stages(client, "t1"), 40)
        await until(client.has_result("t1"), 40)
        assert worker.supervisor.stuck_tasks == []
        _, metrics = await fetch(worker.http_port, "/metrics")
    assert stages(client, "t1") == ["noticed", "interrupted"]
    assert signals(client, "t1") == {"stream_silence", "idle_cpu"}
    noticed = stuck_events(client, "t1")[0]["data"]
    assert noticed["signals"]["stream_silence"]["limit"] == 3
    assert noticed["signals"]["stream_silence"]["seconds"] >= 3
    assert noticed["next_stage_at"] and "silent" in noticed["message"]
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "finished after all", 2)
    sessions = {event["data"]["session_id"] for event in client.events("t1") if event["event"] == "prompt"}
    assert sessions == {result.session_id}
    assert "Why you were interrupted: The task seems stuck: its stream is silent" in api.requests[-1].prompt
    assert 'codehornets_tasks_stuck_total{stage="interrupted",worker="marie"} 1.0' in metrics
    assert 'codehornets_stuck_signals_total{signal="stream_silence",worker="marie"} 1.0' in metrics
    assert 'codehornets_stuck_tasks{worker="marie"} 0.0' in metrics


async def test_silent_hooks_count_where_hooks_are_bridged_and_what_there_was_is_kept(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("sleep", tool_use("Bash", {"command": SLEEP}, say="Let me wait for it.", input_tokens=50))
    # Long enough for Claude Code to say by itself that the command still runs, which is no sign of life.
    async with open_worker(settings_of(WORKER_MODE="hooks", **{**QUICK, "STUCK_AFTER": "5"})):
        client.submit("t1", "sleep on it", max_attempts=1)
        await until(client.has_result("t1"), 60)
    assert signals(client, "t1") == {"stream_silence", "hook_silence", "idle_cpu"}
    silences = stuck_events(client, "t1")[0]["data"]["signals"]
    assert abs(silences["stream_silence"]["seconds"] - silences["hook_silence"]["seconds"]) < 1.5
    assert stages(client, "t1") == ["noticed", "interrupted"]
    result = client.result("t1")
    assert result.status is TaskStatus.FAILED and result.error is not None
    assert (result.error.kind, result.output) == ("stuck", "Let me wait for it.")
    assert "stream and hooks are silent" in result.error.message
    assert result.session_id and result.cost_usd and result.usage and result.usage["input_tokens"] == 50


async def test_the_silence_of_the_cpu_begins_when_the_work_ends(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    done = tmp_path / "burnt"
    command = f"{BURN.format(seconds=4)}; touch {done}; {SLEEP}"
    api.when("burn", tool_use("Bash", {"command": command}))
    async with open_worker(settings_of(**QUICK)):
        client.submit("t1", "burn it", max_attempts=1)
        await until(client.has_result("t1"), 60)
    noticed = stuck_events(client, "t1")[0]
    assert noticed["data"]["signals"]["stream_silence"]["seconds"] > 4
    assert moment(noticed) >= done.stat().st_mtime + 2.9
    assert stages(client, "t1") == ["noticed", "interrupted"]
    assert client.result("t1").status is TaskStatus.FAILED


async def test_an_answer_whose_turn_does_not_end_is_noticed_and_kept(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    """A Stop hook of the user's that hangs; without its end Claude Code gives no result."""
    settings = settings_of(**{**QUICK, "STUCK_AFTER": "600"})
    write_stop_hook(settings, SLEEP)
    api.when("answer", reply("The answer is 42."))
    async with open_worker(settings):
        client.submit("t1", "answer me")
        await until(client.has_result("t1"), 60)
    assert (signals(client, "t1"), stages(client, "t1")) == ({"lingering"}, ["noticed", "interrupted"])
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "The answer is 42.", 1)
    assert result.cost_usd and result.usage


async def test_a_stream_that_is_open_behind_a_whole_answer_is_noticed(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("answer", unending("The answer is 42."))
    async with open_worker(settings_of(**{**QUICK, "STUCK_AFTER": "600"})):
        client.submit("t1", "answer me", max_attempts=1)
        await until(client.has_result("t1"), 60)
    assert signals(client, "t1") == {"lingering"}
    result = client.result("t1")
    assert (result.status, result.output) == (TaskStatus.COMPLETED, "The answer is 42.")
    assert result.usage and result.usage["input_tokens"] == 10


async def test_the_same_call_over_and_over_is_noticed_and_ends(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("loop", tool_use("Bash", {"command": "echo no luck; false"}, say="Once more."))
    async with open_worker(settings_of(**{**QUICK, "STUCK_AFTER": "600"})):
        client.submit("t1", "loop", on_interrupt="fail")
        await until(client.has_result("t1"), 60)
    first = stuck_events(client, "t1")[0]["data"]
    assert first["signals"] == {"repeated_tool": {"count": 4, "limit": 4}}
    assert stages(client, "t1") == ["noticed", "interrupted"]
    result = client.result("t1")
    assert result.error is not None and result.error.kind == "stuck" and "Bash" in result.error.message
    assert result.attempts == 1 and result.output.startswith("Once more.\nOnce more.")


# -- a healthy task beside each


async def test_a_slow_answer_is_left_alone(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    text = " ".join(f"word-{number}" for number in range(24))
    api.when("think", slow(text, chunk_delay_s=0.5))
    async with open_worker(settings_of(**HEALTHY)):
        client.submit("t1", "think about it")
        await until(client.has_result("t1"), 90)
    assert (client.result("t1").output, client.result("t1").attempts) == (text, 1)
    assert told_nothing(client, "t1")


async def test_a_build_that_says_nothing_is_left_alone(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("build", tool_use("Bash", {"command": BURN.format(seconds=12)}), reply("built"))
    async with open_worker(settings_of(WORKER_MODE="hooks", **HEALTHY)):
        client.submit("t1", "build it")
        await until(client.has_result("t1"), 90)
    assert client.result("t1").output == "built"
    assert told_nothing(client, "t1")


async def test_a_wait_that_was_announced_is_left_alone(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("busy", rate_limited(retry_after_s=8), reply("at last"))
    async with open_worker(settings_of(**HEALTHY)):
        client.submit("t1", "busy")
        await until(client.has_result("t1"), 90)
    assert client.result("t1").output == "at last"
    assert [event for event in client.events("t1") if event["event"] == "api_retry"]
    assert told_nothing(client, "t1")


async def test_a_question_that_waits_for_a_person_is_left_alone(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere.txt"
    api.when("ask", tool_use("Write", {"file_path": str(outside), "content": "x"}), reply("written"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", WORKER_MODE="hooks", **HEALTHY)) as worker:
        client.submit("t1", "ask first", on_question="wait")
        await until(lambda: [event for event in client.events("t1") if event["event"] == "permission_asked"], 60)
        (ward,) = worker.supervisor._wards.values()
        asked_at = ward.look_at
        # Looked at again and again, for three times as long as silence may last.
        await until(lambda: ward.look_at > asked_at + 9, 60)
        (event,) = [event for event in client.events("t1") if event["event"] == "permission_asked"]
        questions = QuestionFiles(client.shared / "questions" / "marie")
        fate = questions.answer(event["data"]["question_id"], Answer(decision=Decision.ALLOW, by="anna"))
        assert fate is AnswerFate.COUNTS
        await until(client.has_result("t1"), 60)
    assert client.result("t1").output == "written"
    assert told_nothing(client, "t1")


async def test_calls_in_a_row_that_use_no_cpu_are_left_alone_where_hooks_are_bridged(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    wait = tool_use("Bash", {"command": "python3 -c 'import time; time.sleep(1)'; date +%N"})
    api.when("wait", *[wait] * 8, reply("waited"))
    async with open_worker(settings_of(**{**HEALTHY, "STUCK_AFTER": "5"}, WORKER_MODE="hooks")):
        client.submit("t1", "wait often")
        await until(client.has_result("t1"), 90)
    assert client.result("t1").output == "waited"
    hooks = [moment(event) for event in client.events("t1") if event["event"] == "hook"]
    assert hooks[-1] - hooks[0] > 5
    assert told_nothing(client, "t1")


async def test_a_stop_hook_that_works_is_left_alone(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    settings = settings_of(**HEALTHY)
    write_stop_hook(settings, BURN.format(seconds=9))
    api.when("answer", reply("The answer is 42."))
    async with open_worker(settings):
        client.submit("t1", "answer me")
        await until(client.has_result("t1"), 90)
    assert client.result("t1").status is TaskStatus.COMPLETED
    assert told_nothing(client, "t1")


async def test_calls_whose_answers_change_are_left_alone(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    look = tool_use("Bash", {"command": "echo x >> lines; wc -l lines"})
    api.when("poll", *[look] * 12, reply("polled"))
    async with open_worker(settings_of(**HEALTHY)):
        client.submit("t1", "poll")
        await until(client.has_result("t1"), 90)
    assert client.result("t1").output == "polled"
    assert told_nothing(client, "t1")


async def test_what_waits_frozen_is_not_watched(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    async with open_worker(settings_of(**{**QUICK, "STUCK_AFTER": "0.1", "STUCK_LINGER": "0.1"})) as worker:
        await until(lambda: worker.agent.processes().get("frozen"), 40)
        supervisor = worker.supervisor
        assert supervisor._timer is None and supervisor.stuck_tasks == []
        _, metrics = await fetch(worker.http_port, "/metrics")
    assert 'codehornets_tasks_stuck_total{stage="noticed",worker="marie"} 0.0' in metrics


async def test_it_can_be_turned_off_for_a_worker_and_for_a_task(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("wait", tool_use("Bash", {"command": "python3 -c 'import time; time.sleep(4)'"}), reply("waited"))
    async with open_worker(settings_of(**{**QUICK, "STUCK_AFTER": "0"})):
        client.submit("t1", "wait", stuck_after=1)
        await until(client.has_result("t1"), 60)
    async with open_worker(settings_of(**QUICK)):
        client.submit("t2", "wait", stuck_after=0)
        await until(client.has_result("t2"), 60)
    for task_id in ("t1", "t2"):
        assert client.result(task_id).output == "waited"
        assert told_nothing(client, task_id)


# -- stages


async def test_one_that_moves_again_is_told_and_goes_on(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("pause", hang(reply("here I am")))
    settings = settings_of(**{**QUICK, "STUCK_INTERRUPT_AFTER": "120"})
    async with open_worker(settings) as worker:
        client.submit("t1", "pause")
        await until(lambda: stages(client, "t1"), 60)
        beat = read_heartbeat(settings.layout.heartbeat("marie"))
        assert beat is not None and beat.stuck_tasks == ["t1"]
        table = await run_sync(codehornets, client, "status")
        assert "busy, 1 stuck" in table and "t1 (stuck)" in table
        (told,) = json.loads(await run_sync(codehornets, client, "status", "--json"))
        assert told["stuck_tasks"] == ["t1"]
        api.release()
        await until(client.has_result("t1"), 60)
        assert worker.supervisor.stuck_tasks == []
        beat = read_heartbeat(settings.layout.heartbeat("marie"))
        assert beat is not None and beat.stuck_tasks == []
    assert (client.result("t1").output, stages(client, "t1")) == ("here I am", ["noticed"])


async def test_a_task_that_writes_again_is_unstuck(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    text = " ".join(["word"] * 20)
    api.when("pause", hang(slow(text, chunk_delay_s=0.2)))
    async with open_worker(settings_of(**{**QUICK, "STUCK_AFTER": "2", "STUCK_ACTION": "tell"})):
        client.submit("t1", "pause")
        await until(lambda: stages(client, "t1"), 60)
        api.release()
        await until(client.has_result("t1"), 60)
    unstuck = [event["data"] for event in client.events("t1") if event["event"] == "task_unstuck"]
    assert len(unstuck) == 1 and unstuck[0]["after_seconds"] > 0
    assert stuck_events(client, "t1")[0]["data"]["next_stage_at"] is None


async def test_one_that_hears_nothing_is_killed_and_its_output_kept(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("freeze", tool_use("Bash", {"command": "echo begun"}, say="I begin."), hang())
    async with open_worker(settings_of(STUCK_KILL_AFTER="0.5", WARM_PROCESSES="0", **QUICK)) as worker:
        client.submit("t1", "freeze", max_attempts=1)
        await api.request_came(lambda seen: bool(seen.tool_results), 40)
        stop_family(os.getpid())
        await until(client.has_result("t1"), 60)
        assert not worker.agent.processes().get("busy")
    assert stages(client, "t1") == ["noticed", "interrupted", "killed"]
    result = client.result("t1")
    assert result.error is not None and (result.error.kind, result.output) == ("stuck", "I begin.")
    assert result.session_id and result.usage and result.usage["input_tokens"] >= 10


@dataclass(frozen=True)
class Stuck:
    """A way of being stuck, and what is seen of it."""

    steps: tuple[Step, ...]
    signals: frozenset[str]
    settings: dict[str, str]


NO_SILENCE = {"STUCK_AFTER": "600"}
WAYS = {
    "stream_silence": Stuck((hang(),), frozenset({"stream_silence", "idle_cpu"}), {}),
    "hook_silence": Stuck(
        (tool_use("Bash", {"command": SLEEP}),),
        frozenset({"stream_silence", "hook_silence", "idle_cpu"}),
        {"WORKER_MODE": "hooks"},
    ),
    "idle_cpu": Stuck(
        (tool_use("Bash", {"command": f"{BURN.format(seconds=5)}; {SLEEP}"}),),
        frozenset({"stream_silence", "idle_cpu"}),
        {},
    ),
    "lingering": Stuck((unending("An answer."),), frozenset({"lingering"}), NO_SILENCE),
    "repeated_tool": Stuck((tool_use("Bash", {"command": "echo no luck"}),), frozenset({"repeated_tool"}), NO_SILENCE),
}


@pytest.mark.parametrize("way", WAYS)
async def test_each_stage_comes_for_each_signal_and_the_task_goes_on_in_its_session(
    api: MessagesApi, settings_of: Settings, client: Client, way: str
) -> None:
    """Claude Code hears nothing from the notice on: it is interrupted in vain, killed, and begun again."""
    stuck = WAYS[way]
    api.when("do it", *stuck.steps)
    api.when(lambda seen: "You were interrupted" in seen.prompt, reply("finished after all"))
    patience = {"STUCK_INTERRUPT_AFTER": "6", "STUCK_KILL_AFTER": "0.5", "WARM_PROCESSES": "0"}
    async with open_worker(settings_of(**{**QUICK, **patience, **stuck.settings})) as worker:
        client.submit("t1", "do it")
        await until(lambda: stages(client, "t1"), 60)
        (ward,) = worker.supervisor._wards.values()
        if way == "repeated_tool":
            # It is interrupted only if it goes round once more.
            await until(lambda: ward.watch.rounds > ward.rounds_then, 20)
        stop_family(os.getpid())
        await until(client.has_result("t1"), 60)
        assert worker.supervisor.stuck_tasks == []
    # The next attempt may be slow to begin, and seem stuck for a moment.
    assert (stages(client, "t1")[:3], signals(client, "t1")) == (["noticed", "interrupted", "killed"], stuck.signals)
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "finished after all", 2)
    sessions = {event["data"]["session_id"] for event in client.events("t1") if event["event"] == "prompt"}
    assert sessions == {result.session_id}


# -- beside everything else that may end a task


async def test_a_person_may_cancel_one_that_is_stuck_even_while_it_is_being_ended(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    api.when("freeze", hang())
    async with open_worker(settings_of(STUCK_KILL_AFTER="20", WARM_PROCESSES="0", **QUICK)):
        client.submit("t1", "freeze")
        await api.request_came(lambda seen: seen.prompt == "freeze", 40)
        stop_family(os.getpid())
        await until(lambda: "interrupted" in stages(client, "t1"), 40)
        client.cancel("t1")
        await until(client.has_result("t1"), 60)
    assert client.result("t1").status is TaskStatus.CANCELLED


async def test_a_timeout_holds_for_one_that_is_stuck(api: MessagesApi, settings_of: Settings, client: Client) -> None:
    api.when("hang", hang())
    async with open_worker(settings_of(**{**QUICK, "STUCK_INTERRUPT_AFTER": "100"})):
        client.submit("t1", "hang", timeout=12)
        await until(client.has_result("t1"), 60)
    assert (client.result("t1").status, stages(client, "t1")) == (TaskStatus.TIMED_OUT, ["noticed"])


def test_a_worker_killed_while_a_task_is_stuck_leaves_it_to_the_next_one(
    api: MessagesApi, claude_environ: dict[str, str], client: Client
) -> None:
    api.when("hang", tool_use("Bash", {"command": "echo step-one"}), hang())
    environ = {**claude_environ, **QUICK, "STUCK_INTERRUPT_AFTER": "100"}
    first = start_worker(environ)
    try:
        client.submit("t1", "hang")
        wait_until(lambda: stages(client, "t1"), 60)
        family = descendants_of(first.pid)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], 20, "the end of the family")
    assert not client.result_path("t1").exists()
    api.when(lambda seen: "You were interrupted" in seen.prompt, reply("done"))
    second = start_worker(environ)
    try:
        wait_until(client.has_result("t1"), 60)
    finally:
        second.terminate()
        assert second.wait(30) == 0
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "done", 2)
    assert [path.name for path in client.result_path("t1").parent.glob("*.json")] == ["t1.json"]


def codehornets(client: Client, *arguments: str) -> str:
    command = [sys.executable, "-m", "orchestrator_service.cli", *arguments, "--shared-dir", str(client.shared)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def start_worker(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "worker_service"], env=environ, start_new_session=True)


def write_stop_hook(settings: WorkerSettings, command: str) -> None:
    """Give the workspace a Stop hook, as a project of the user's may have."""
    folder = settings.workspace / ".claude"
    folder.mkdir()
    hook = {"hooks": [{"type": "command", "command": command, "timeout": 600}]}
    (folder / "settings.json").write_text(json.dumps({"hooks": {"Stop": [hook]}}))


def stop_family(pid: int) -> None:
    """Stop every Claude below `pid`, so that it hears nothing."""
    stopped = 0
    for child in descendants_of(pid):
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if command[0].endswith(b"claude"):
            os.kill(child, signal.SIGSTOP)
            stopped += 1
    assert stopped
