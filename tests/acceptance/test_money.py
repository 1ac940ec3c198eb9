"""What a task cost over all its attempts, with the real Claude Code CLI: each kind of interruption, each once.

The stand-in bills so many tokens an answer that what Claude Code asks for itself (a title) does not show, and not so
many that it would sum the conversation up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import run_process
from anyio.to_thread import run_sync

from agent_bus.gates import closed_gates
from agent_bus.messages import Result, TaskStatus
from service_kit.claude_transcripts import carried_usd, find_transcript
from tests.acceptance.conftest import Client
from tests.acceptance.test_goals_live import Team, tool_results
from tests.acceptance.test_goals_live import answer as told_by_tool
from tests.acceptance.test_supervision import stages, stop_family
from tests.standin.messages_api import MessagesApi, Seen, Step, api_error, hang, reply, tool_use
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until
from worker_service.agents.claude_command import find_cli
from worker_service.agents.leashed_process import descendants_of
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(150)]

Settings = Callable[..., WorkerSettings]
MANY = 20_000
QUICK = {"STUCK_AFTER": "3", "STUCK_INTERRUPT_AFTER": "0.5"}


def answer(text: str) -> Step:
    return reply(text, input_tokens=MANY, output_tokens=0)


def work() -> Step:
    return tool_use("Bash", {"command": "echo begun"}, say="I begin.", input_tokens=MANY, output_tokens=7)


def resumed(seen: Seen) -> bool:
    return "You were interrupted" in seen.prompt


def tokens(result: Result) -> int:
    return 0 if result.usage is None else int(result.usage["input_tokens"])


@pytest.fixture
async def price(api: MessagesApi, settings_of: Settings, client: Client) -> float:
    """What one answer costs when nothing is interrupted."""
    api.when("what does it cost", answer("so much"))
    async with open_worker(settings_of()):
        client.submit("price", "what does it cost")
        await until(client.has_result("price"), 60)
    result = client.result("price")
    assert result.cost_usd is not None and tokens(result) == MANY
    return result.cost_usd


def about(dollars: float) -> Any:
    return pytest.approx(dollars, rel=0.01)


async def test_one_attempt_costs_what_it_says(price: float) -> None:
    assert price > 0.01


async def test_an_attempt_that_was_interrupted_as_stuck_is_in_the_sum(
    api: MessagesApi, settings_of: Settings, client: Client, price: float
) -> None:
    api.when("write it", work(), hang())
    api.when(resumed, answer("finished"))
    async with open_worker(settings_of(**QUICK)) as worker:
        client.submit("t1", "please write it")
        await until(client.has_result("t1"), 60)
        await until(lambda: worker.metrics.registry.get_sample_value(*COST) not in (None, 0.0))
        told = worker.metrics.registry.get_sample_value(*COST)
    result = client.result("t1")
    assert (result.status, result.attempts, result.cost_is_partial) == (TaskStatus.COMPLETED, 2, False)
    # Both attempts' answers, and neither of them twice.
    assert tokens(result) == 2 * MANY
    assert result.cost_usd == about(2 * price) and told == about(2 * price)


COST = ("codehornets_agent_cost_usd_total", {"worker": "marie"})


async def test_an_attempt_that_met_a_limit_is_in_the_sum(
    api: MessagesApi, settings_of: Settings, client: Client, price: float
) -> None:
    soon = api_error(429, "rate_limit_error", "Wait", {"retry-after": "70"})
    api.when("limited", work(), soon)
    api.when(resumed, answer("finished"))
    async with open_worker(settings_of()):
        client.submit("t1", "limited work")
        gates = client.shared / "gates"
        await until(lambda: closed_gates(gates), 60, "the gate is closed")
        await until(lambda: not client.has_result("t1")() and released(client, "t1"), 60, "the task is parked")
        for path in gates.iterdir():
            path.unlink()
        await until(client.has_result("t1"), 60)
    result = client.result("t1")
    assert (result.status, result.attempts, tokens(result)) == (TaskStatus.COMPLETED, 1, 2 * MANY)
    assert (result.cost_usd, result.cost_is_partial) == (about(2 * price), False)


async def test_an_attempt_that_was_stopped_with_its_worker_is_in_the_sum(
    api: MessagesApi, settings_of: Settings, client: Client, price: float
) -> None:
    api.when("drained", work(), hang())
    api.when(resumed, answer("finished"))
    settings = settings_of(SHUTDOWN_GRACE="0")
    async with open_worker(settings):
        client.submit("t1", "drained work")
        await api.request_came(lambda seen: bool(seen.tool_results), 40)
    assert released(client, "t1")
    async with open_worker(settings_of()):
        await until(client.has_result("t1"), 60)
    result = client.result("t1")
    assert (result.status, result.attempts, tokens(result)) == (TaskStatus.COMPLETED, 1, 2 * MANY)
    assert (result.cost_usd, result.cost_is_partial) == (about(2 * price), False)


async def test_of_an_attempt_that_was_killed_the_tokens_are_known_and_the_cost_is_said_to_be_partial(
    api: MessagesApi, settings_of: Settings, client: Client, price: float
) -> None:
    api.when("freeze", work(), hang())
    api.when(resumed, answer("finished"))
    async with open_worker(settings_of(STUCK_KILL_AFTER="0.5", WARM_PROCESSES="0", **QUICK)):
        client.submit("t1", "freeze")
        await api.request_came(lambda seen: bool(seen.tool_results), 40)
        stop_family(os.getpid())
        await until(client.has_result("t1"), 60)
    assert stages(client, "t1") == ["noticed", "interrupted", "killed"]
    result = client.result("t1")
    assert (result.status, result.attempts, tokens(result)) == (TaskStatus.COMPLETED, 2, 2 * MANY)
    # The stream tells what a message used as it begins; the conversation, as it ended.
    assert result.usage and result.usage["output_tokens"] == 7
    assert (result.cost_usd, result.cost_is_partial) == (about(price), True)


def test_of_an_attempt_whose_worker_was_killed_the_tokens_are_known(
    api: MessagesApi, claude_environ: dict[str, str], client: Client
) -> None:
    api.when("crash", work(), hang())
    api.when(resumed, answer("finished"))
    first = start_worker(claude_environ)
    try:
        client.submit("t1", "crash in the middle")
        api.wait_for_request(lambda seen: bool(seen.tool_results), 60)
        begun = {event["data"]["session_id"] for event in client.events("t1") if event["event"] == "prompt"}
        (session_id,) = begun
        transcript = next((Path(claude_environ["HOME"]) / ".claude").glob(f"projects/*/{session_id}.jsonl"))
        # Claude Code writes it in batches; what was not written yet is lost with the process.
        wait_until(lambda: '"output_tokens":7,' in transcript.read_text(), 20, "the message is in the transcript")
        family = descendants_of(first.pid)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], 20, "the end of the family")
    second = start_worker(claude_environ)
    try:
        wait_until(client.has_result("t1"), 60)
    finally:
        second.terminate()
        assert second.wait(30) == 0
    result = client.result("t1")
    assert (result.status, result.attempts, tokens(result)) == (TaskStatus.COMPLETED, 2, 2 * MANY)
    assert result.usage and result.usage["output_tokens"] == 7
    assert result.cost_usd is not None and result.cost_is_partial


async def test_tasks_of_one_session_do_not_pay_for_each_other(
    api: MessagesApi, settings_of: Settings, client: Client, price: float
) -> None:
    """A process tells what its whole conversation cost; of that each task has its own part."""
    api.when("first", answer("one"))
    api.when("second", answer("two"))
    api.when("third", answer("three"))
    async with open_worker(settings_of()):
        for task_id, prompt in (("s1", "first"), ("s2", "second")):
            client.submit(task_id, prompt, session="talk")
            await until(client.has_result(task_id), 60)
    # Another process goes on with it, and carries over what it has read of the earlier ones.
    async with open_worker(settings_of()):
        client.submit("s3", "third", session="talk")
        await until(client.has_result("s3"), 60)
    for task_id in ("s1", "s2", "s3"):
        result = client.result(task_id)
        assert (result.cost_usd, tokens(result)) == (about(price), MANY), task_id
    assert len({client.result(task_id).session_id for task_id in ("s1", "s2", "s3")}) == 1


async def test_what_a_conversation_cost_elsewhere_is_not_the_tasks(
    api: MessagesApi, settings_of: Settings, client: Client, price: float, claude_environ: dict[str, str]
) -> None:
    """Somebody looks inside with `claude --resume`; that ends in good order, and the next process carries it over."""
    api.when("first", answer("one"))
    api.when("by hand", answer("two"))
    api.when("third", answer("three"))
    settings = settings_of()
    async with open_worker(settings):
        client.submit("s1", "first", session="talk")
        await until(client.has_result("s1"), 60)
    session_id = client.result("s1").session_id
    assert session_id is not None
    cli = find_cli(settings.claude, claude_environ)
    command = [str(cli), "-p", "--resume", session_id, "by hand"]
    await run_process(command, env=claude_environ, cwd=settings.workspace)
    transcript = find_transcript(claude_environ, session_id)
    # With what the first turn cost, where its process came to write that before it ended.
    assert transcript is not None and carried_usd(transcript) > 0.9 * price
    async with open_worker(settings):
        client.submit("s3", "third", session="talk")
        await until(client.has_result("s3"), 60)
    result = client.result("s3")
    assert (result.session_id, result.cost_usd, tokens(result)) == (session_id, about(price), MANY)


async def test_a_task_never_begins_again_when_its_budget_is_used_up(
    api: MessagesApi, settings_of: Settings, client: Client, price: float
) -> None:
    api.when("dear", work(), hang())
    api.when(resumed, answer("finished"))
    async with open_worker(settings_of(**QUICK)):
        client.submit("t1", "dear work", max_budget_usd=price * 1.0)
        client.submit("t2", "dear work", max_budget_usd=price * 9.0)
        for task_id in ("t1", "t2"):
            await until(client.has_result(task_id), 60)
    result = client.result("t1")
    assert result.error is not None and result.error.kind == "max_budget"
    assert result.cost_usd == about(price)
    assert (client.result("t2").status, client.result("t2").cost_usd) == (TaskStatus.COMPLETED, about(2 * price))


async def test_usage_by_task_worker_goal_and_day_is_the_sum_of_all_attempts(
    api: MessagesApi, settings_of: Settings, client: Client, price: float, claude_environ: dict[str, str]
) -> None:
    """A task of a goal is interrupted as stuck, another is not, and the goal's own agent costs as well."""
    team = [tool_use("mcp__team__submit_task", {"description": text, "worker": "marie"}) for text in ("stick", "plain")]
    both: dict[str, Any] = {"timeout_seconds": 90, "task_ids": []}

    def knows_both(seen: Seen) -> bool:
        if "reach it" in seen.prompt and len(tool_results(seen)) in (1, 2):
            both["task_ids"].append(told_by_tool(seen)["task_id"])
        return "reach it" in seen.prompt and len(tool_results(seen)) == 2

    api.when("reach it", *team, answer("reached"))
    api.when(knows_both, tool_use("mcp__team__wait_for_tasks", both))
    api.when("stick", work(), hang())
    api.when("plain", answer("plainly"))
    api.when(resumed, answer("finished"))
    names = ("PATH", "HOME", "SHARED_DIR")
    own = {name: text for name, text in claude_environ.items() if name.startswith(("ANTHROPIC_", "CLAUDE_"))}
    environ = {**own, **{name: claude_environ[name] for name in names}, "HTTP_PORT": "0", "HEARTBEAT_INTERVAL": "0.5"}
    async with open_worker(settings_of(**QUICK, MAX_CONCURRENT="2")):
        orchestrator = await run_sync(lambda: Team(client.shared, environ, []))
        try:
            await run_sync(up, orchestrator)
            goal = await run_sync(orchestrator.ask, "POST", "/goals", {"goal": "reach it"})
            record = await run_sync(orchestrator.ended, goal["goal_id"])
            assert record["state"] == "completed", record
            found = {by: await run_sync(orchestrator.ask, "GET", f"/usage?by={by}") for by in BY}
        finally:
            await run_sync(lambda: orchestrator.end(signal.SIGTERM))
    assert sorted(client.result(task_id).attempts for task_id in record["task_ids"]) == [1, 2]
    # The task that told the price is in no goal: the orchestrator has found its result.
    results = [client.result(task_id) for task_id in (*record["task_ids"], "price")]
    tasks_usd, agent_usd = sum(result.cost_usd or 0.0 for result in results), record["agent_cost_usd"]
    assert (tasks_usd, agent_usd) == (about(4 * price), about(price))
    rows = {by: {row["key"]: row for row in found[by]["rows"]} for by in BY}

    def used(by: str, key: str) -> tuple[float, int]:
        return rows[by][key]["cost_usd"], rows[by][key]["input_tokens"]

    def are(dollars: float | None, amount: int) -> tuple[Any, int]:
        return pytest.approx(dollars, abs=1e-5), amount

    # Of the goal's agent there are three small answers, with its tool calls, before the one that counts.
    own_tokens = MANY + 3 * 10
    total = found["day"]["total"]
    assert all(found[by]["total"] == total for by in BY)
    assert (total["cost_usd"], total["input_tokens"]) == are(tasks_usd + agent_usd, 4 * MANY + own_tokens)
    (day,) = rows["day"]
    assert used("day", day) == are(tasks_usd + agent_usd, 4 * MANY + own_tokens)
    assert used("goal", goal["goal_id"]) == are(tasks_usd + agent_usd - price, 3 * MANY + own_tokens)
    assert used("worker", "marie") == are(tasks_usd, 4 * MANY)
    assert used("worker", "orchestrator") == are(agent_usd, own_tokens)
    for result in results:
        assert used("task", result.task_id) == are(result.cost_usd, tokens(result))


BY = ("day", "task", "worker", "goal")


def up(team: Team) -> None:
    wait_until(lambda: {worker["state"] for worker in team.ask("GET", "/workers")} == {"up"}, 60, "marie is up")


def released(client: Client, task_id: str) -> bool:
    return any((client.shared / "tasks" / "marie" / "released").glob(f"*{task_id}*"))


def start_worker(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "worker_service"], env=environ, start_new_session=True)
