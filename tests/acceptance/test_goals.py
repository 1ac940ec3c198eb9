"""Goals with the real Claude Code CLI: a scripted model that uses the team's tools."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.accounts import UsageBy, UsageSums
from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, LedgerUnavailable, NotKnown, Unavailable
from orchestrator_service.goals.limits import LimitReached
from orchestrator_service.goals.service import Goals, open_goals
from orchestrator_service.ledger.database import Database, open_database
from orchestrator_service.ledger.goals import begin_attempt
from orchestrator_service.ledger.usage import read_usage
from orchestrator_service.orders import GoalOrder, TaskOrder
from orchestrator_service.records import GoalRecord, GoalState, TaskState
from orchestrator_service.settings import GoalSettings
from tests.standin.messages_api import MessagesApi, Seen, Step, api_error, hang, reply, tool_use, unauthorized
from tests.team_desk import TeamDesk
from tests.waiting import async_wait_until as until

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

ME = Asker(name="me")


class Scene:
    """Goals over a desk in memory, and what they told."""

    def __init__(
        self, desk: TeamDesk, goals: Goals, events: list[tuple[str, dict[str, Any]]], database: Database
    ) -> None:
        self.desk, self.goals, self.events, self.database = desk, goals, events, database

    async def reach(self, goal: str, **limits: Any) -> GoalRecord:
        record = await self.goals.create(GoalOrder(goal=goal, **limits), ME)
        return await self.ended(record.goal_id)

    async def ended(self, goal_id: str) -> GoalRecord:
        await until(lambda: any(name == "goal_ended" and data["goal_id"] == goal_id for name, data in self.events), 60)
        return await self.goals.get(goal_id)

    async def usage(self) -> UsageSums:
        """Everything that was used, as the ledger has it."""
        _, total = await self.database.read(lambda db: read_usage(db, UsageBy.GOAL, "0000", "9999", 10))
        return total

    def told(self, name: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == name]


Open = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def environ(claude_environ: dict[str, str]) -> dict[str, str]:
    return {**claude_environ, "API_TOKEN": "a-secret-of-the-service"}


@pytest.fixture
def scene(tmp_path: Path, environ: dict[str, str]) -> Open:
    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[Scene]:
        events: list[tuple[str, dict[str, Any]]] = []
        async with open_database(tmp_path / "ledger.sqlite3") as database:
            desk = TeamDesk(database)
            tell = lambda name, data: events.append((name, data))  # noqa: E731
            async with open_goals(desk, database, GoalSettings(**settings), environ, tell) as goals:
                yield Scene(desk, goals, events, database)

    return make


def use(name: str, tool_input: dict[str, Any], say: str = "") -> Step:
    return tool_use(f"mcp__team__{name}", tool_input, say=say)


def answers(seen: Seen) -> list[Any]:
    """What the tools told the model last."""
    texts = [block["content"] for block in seen.tool_results]
    return [text if isinstance(text, str) else "".join(part["text"] for part in text) for text in texts]


async def test_a_goal_is_split_delegated_and_put_together(api: MessagesApi, scene: Open) -> None:
    api.when(
        "reach the moon",
        use("list_workers", {}, say="Let me see who is there."),
        use("submit_task", {"description": "plan the flight", "role": "coder", "title": "Plan"}),
        use(
            "submit_task",
            {"description": "dance: {{results.t1.output}}", "role": "choreographer", "dependencies": ["t1"]},
        ),
        use("wait_for_tasks", {"task_ids": ["t1", "t2"], "timeout_seconds": 60}),
        reply("We reach it like this (t1, t2)."),
    )
    async with scene() as stage:
        record = await stage.reach("please reach the moon")
        assert (record.state, record.output, record.error) == (
            GoalState.COMPLETED,
            "We reach it like this (t1, t2).",
            None,
        )
        assert record.task_ids == ["t1", "t2"]
        assert record.agent_cost_usd is not None and record.cost_usd == record.agent_cost_usd > 0
        assert record.ended_at is not None and record.submitted_by == "me"
        assert {task.goal_id for task in stage.desk.records.values()} == {record.goal_id}
        assert stage.desk.results["t2"].result is not None
        assert stage.desk.results["t2"].result.output == "echo: dance: echo: plan the flight"
        ends = {task.deadline for task in stage.desk.records.values()}
        assert len(ends) == 1 and None not in ends
        assert next(event for event, _ in stage.events) == "goal_started"
        assert stage.told("goal_says")[0]["text"] == "Let me see who is there."
        assert [data["tool"] for data in stage.told("goal_uses")] == [
            "list_workers",
            "submit_task",
            "submit_task",
            "wait_for_tasks",
        ]
    first, *_, last = api.requests
    assert "- marie: role choreographer; skills: dance; up" in first.system_text
    # The placeholder is Claude Code's own, and does nothing.
    tools = {tool["name"] for tool in first.body["tools"]} - {"DeferredToolPlaceholder"}
    assert tools == {
        f"mcp__team__{name}"
        for name in ("list_workers", "submit_task", "wait_for_tasks", "get_result", "cancel_task", "send_message")
    }
    waited = json.loads(answers(last)[0])
    assert waited["all_ended"] and [task["state"] for task in waited["tasks"]] == ["completed", "completed"]
    assert waited["tasks"][1]["output"] == "echo: dance: echo: plan the flight"


async def test_the_agent_sees_no_secret_of_the_service(api: MessagesApi, scene: Open) -> None:
    api.when("hold on", hang(reply("done")))
    async with scene() as stage:
        record = await stage.goals.create(GoalOrder(goal="hold on"), ME)
        await api.request_came(lambda seen: "hold on" in seen.prompt, 30)
        seen = _environment_of_agent(record.session_id or "")
        api.release()
        assert (await stage.ended(record.goal_id)).state is GoalState.COMPLETED
    assert "ANTHROPIC_API_KEY=sk-dummy-for-tests" in seen
    assert not [line for line in seen if "a-secret-of-the-service" in line or line.startswith(("API_TOKEN", "PYTEST"))]


def _agents(session_id: str) -> list[Path]:
    """The processes of the agent with this session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and session_id in (entry / "cmdline").read_text():
                found.append(entry)
        except OSError:
            continue
    return found


def _environment_of_agent(session_id: str) -> list[str]:
    (process,) = _agents(session_id)
    return (process / "environ").read_text().split("\0")


async def test_limits_come_back_as_errors_of_the_tool(api: MessagesApi, scene: Open) -> None:
    api.when(
        "two at most",
        use("submit_task", {"description": "one"}),
        use("submit_task", {"description": "two", "parent": "t1"}),
        use("submit_task", {"description": "two", "max_budget_usd": 50}),
        use("submit_task", {"description": "three"}),
        reply("That is all (t1, t2)."),
    )
    async with scene() as stage:
        record = await stage.reach("two at most", max_tasks=2, max_depth=1, max_budget_usd=4)
        assert (record.state, record.task_ids) == (GoalState.COMPLETED, ["t1", "t2"])
        # A quarter of the 4 USD is the agent's; a task that names no budget gets a tenth of the rest.
        budgets = [order.max_budget_usd for order in stage.desk.orders.values()]
        assert budgets == [pytest.approx(0.3), pytest.approx(3.0)]
    refused = [answers(seen)[0] for seen in api.requests if answers(seen) and seen.tool_results[0].get("is_error")]
    assert "depth 1" in refused[0] and "may have 2 tasks and has 2" in refused[1]


async def test_what_a_task_of_a_goal_asks_for_counts_for_the_goal(api: MessagesApi, scene: Open) -> None:
    api.when("go deep", use("submit_task", {"description": "one"}), hang(reply("done (t1, t2, t3)")))
    async with scene() as stage:
        created = await stage.goals.create(GoalOrder(goal="go deep", max_tasks=3, max_depth=2), ME)
        await api.request_came(lambda seen: answers(seen) != [], 30)
        assert await stage.goals.desk_for(TaskOrder(description="of nobody")) is None
        second = TaskOrder(description="two", parent="t1")
        desk = await stage.goals.desk_for(second)
        assert desk is not None
        await desk.submit(second, ME)
        with pytest.raises(LimitReached, match="depth 2, and t2 is at the last one"):
            await desk.submit(TaskOrder(description="deeper", parent="t2"), ME)
        await desk.submit(second, ME)
        with pytest.raises(LimitReached, match="may have 3 tasks"):
            await desk.submit(second, ME)
        api.release()
        assert (await stage.ended(created.goal_id)).task_ids == ["t1", "t2", "t3"]


async def test_money_that_is_set_aside_is_not_given_twice(api: MessagesApi, scene: Open) -> None:
    api.when(
        "spend it",
        use("submit_task", {"description": "one", "max_budget_usd": 0.75}),
        use("submit_task", {"description": "two"}),
        use("cancel_task", {"task_id": "t1"}),
        use("submit_task", {"description": "three", "max_budget_usd": 9}),
        use("cancel_task", {"task_id": "t2"}),
        reply("Nothing came of it (t1, t2)."),
    )
    async with scene() as stage:
        stage.desk.answer = lambda _: None
        stage.desk.cost_usd = 0.25
        record = await stage.reach("spend it", max_budget_usd=1)
        assert (record.state, record.task_ids) == (GoalState.COMPLETED, ["t1", "t2"])
        assert [order.max_budget_usd for order in stage.desk.orders.values()] == [0.75, pytest.approx(0.5)]
        assert record.cost_usd == pytest.approx(0.5 + (record.agent_cost_usd or 0))
    refused = [answers(seen)[0] for seen in api.requests if answers(seen) and seen.tool_results[0].get("is_error")]
    assert len(refused) == 1 and "budget of 1 USD is used up" in refused[0]


async def test_an_agent_that_costs_too_much_is_ended_by_claude_code_itself(api: MessagesApi, scene: Open) -> None:
    dear = tool_use("mcp__team__list_workers", {}, input_tokens=1_000_000, output_tokens=1_000)
    api.when("cost a lot", dear)
    async with scene() as stage:
        record = await stage.reach("cost a lot", max_budget_usd=1)
        assert record.state is GoalState.FAILED and record.error is not None and record.error.kind == "max_budget"
        assert record.agent_cost_usd is not None and record.agent_cost_usd > 0.25


async def test_a_goal_whose_time_is_over_keeps_what_was_said_and_cancels_its_tasks(
    api: MessagesApi, scene: Open
) -> None:
    api.when(
        "take long",
        tool_use("mcp__team__submit_task", {"description": "endless"}, say="One part is under way."),
        use("wait_for_tasks", {"task_ids": ["t1"], "timeout_seconds": 600}),
    )
    async with scene() as stage:
        stage.desk.answer = lambda _: None
        record = await stage.reach("take long", timeout=8)
        assert record.state is GoalState.TIMED_OUT and record.output == "One part is under way."
        assert record.error is not None and record.error.message == "The goal was not reached within 8 seconds."
        assert stage.desk.cancelled == {"t1": "its goal is timed_out"}
        assert _agents(record.session_id or "") == []


async def test_cancelling_a_goal_ends_its_agent_and_its_tasks(api: MessagesApi, scene: Open) -> None:
    api.when(
        "stop me",
        use("submit_task", {"description": "endless"}, say="I began."),
        use("wait_for_tasks", {"task_ids": ["t1"], "timeout_seconds": 600}),
    )
    async with scene() as stage:
        stage.desk.answer = lambda _: None
        created = await stage.goals.create(GoalOrder(goal="stop me"), ME)
        await until(lambda: "t1" in stage.desk.records and len(stage.told("goal_uses")) == 2, 30)
        record = await stage.goals.cancel(created.goal_id, ME)
        assert record.state is GoalState.CANCELLED and record.ended_at is not None
        assert stage.desk.records["t1"].state is TaskState.CANCELLED
        await until(lambda: _agents(created.session_id or "") == [], 30)
        with pytest.raises(Conflict, match="has ended already: it is cancelled"):
            await stage.goals.cancel(created.goal_id, ME)
        further = stage.desk.orders["t1"].model_copy(update={"parent": "t1"})
        desk = await stage.goals.desk_for(further)
        assert desk is not None
        with pytest.raises(Conflict, match="The goal has ended"):
            await desk.submit(further, ME)
        with pytest.raises(NotKnown):
            await stage.goals.cancel("goal-nobody-knows", ME)


async def test_an_agent_that_wants_to_end_while_tasks_run_is_reminded(api: MessagesApi, scene: Open) -> None:
    api.when("hurry", use("submit_task", {"description": "slow"}), reply("I do not wait."))
    api.when("have not ended: t1", use("cancel_task", {"task_id": "t1", "reason": "not needed"}), reply("Done (t1)."))
    async with scene() as stage:
        stage.desk.answer = lambda _: None
        record = await stage.reach("hurry up")
        assert (record.state, record.output) == (GoalState.COMPLETED, "Done (t1).")
        assert stage.desk.cancelled == {"t1": "not needed"}


async def test_a_goal_goes_on_in_the_same_conversation_when_there_are_goals_again(
    api: MessagesApi, scene: Open, environ: dict[str, str]
) -> None:
    api.when("long way", use("submit_task", {"description": "first"}), use("wait_for_tasks", {"task_ids": ["t1"]}))
    api.when("You were interrupted", use("wait_for_tasks", {"task_ids": ["t1"]}), reply("I went on (t1)."))
    async with scene() as stage:
        stage.desk.answer = lambda _: None
        created = await stage.goals.create(GoalOrder(goal="the long way"), ME)
        await until(lambda: len(stage.told("goal_uses")) == 2, 30)
    assert _agents(created.session_id or "") == []
    async with scene() as stage:
        assert (await stage.goals.get(created.goal_id)).state is GoalState.RUNNING
        await stage.desk.adopt("t1", created.goal_id)
        await stage.goals.take_up()
        await until(lambda: stage.told("goal_uses") != [], 30)
        await stage.desk.end("t1", TaskState.COMPLETED, "here it is")
        record = await stage.ended(created.goal_id)
        assert (record.state, record.output) == (GoalState.COMPLETED, "I went on (t1).")
        assert record.session_id == created.session_id
        started = stage.told("goal_started")
        # It was stopped in good order the first time, so that is not counted.
        assert [(data["attempt"], data["resumed"]) for data in started] == [(1, True)]
    last = api.requests[-1]
    assert "the long way" in str(last.body["messages"][0]) and "t1: sent" in last.prompt
    assert "here it is" in answers(last)[0]


async def test_a_goal_that_comes_while_others_are_taken_up_has_one_agent(api: MessagesApi, scene: Open) -> None:
    api.when("only once", reply("Done once."))
    async with scene() as stage:
        created, _ = await asyncio.gather(
            stage.goals.create(GoalOrder(goal="do it only once"), ME), stage.goals.take_up()
        )
        await stage.goals.take_up()
        record = await stage.ended(created.goal_id)
        assert (record.state, record.output) == (GoalState.COMPLETED, "Done once.")
        assert [data["attempt"] for data in stage.told("goal_started")] == [1]


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_the_cost_of_an_agent_is_counted_once_over_all_its_processes(
    api: MessagesApi, scene: Open, how: str
) -> None:
    each = reply("So far.", input_tokens=100_000, output_tokens=0)
    api.when("count me", use("submit_task", {"description": "slow"}), each)
    api.when("have not ended: t1", hang())
    async with scene() as stage:
        stage.desk.answer = lambda _: None
        created = await stage.goals.create(GoalOrder(goal="count me", max_budget_usd=8), ME)
        await api.request_came(lambda seen: "have not ended" in seen.prompt, 30)
        first = (await stage.goals.get(created.goal_id)).agent_cost_usd or 0
        api.when("You were interrupted", each)
        if how == "killed":
            for process in _agents(created.session_id or ""):
                os.kill(int(process.name), 9)
            await until(lambda: len(stage.told("goal_started")) == 2, 30)
            await stage.desk.end("t1", TaskState.COMPLETED)
            record, usage = await stage.ended(created.goal_id), await stage.usage()
    if how == "stopped":
        async with scene() as stage:
            await stage.desk.adopt("t1", created.goal_id)
            await stage.desk.end("t1", TaskState.COMPLETED)
            await stage.goals.take_up()
            record, usage = await stage.ended(created.goal_id), await stage.usage()
    assert record.state is GoalState.COMPLETED
    assert first > 0 and record.agent_cost_usd == pytest.approx(2 * first, rel=0.01)
    # Two answers, and the call of a tool before the first one; what was cut off had not begun to be answered.
    assert (usage.input_tokens, usage.cost_usd) == (200_010, pytest.approx(record.agent_cost_usd, abs=1e-5))


async def test_an_agent_that_goes_on_may_not_spend_its_budget_again(api: MessagesApi, scene: Open) -> None:
    dear = tool_use("mcp__team__list_workers", {}, input_tokens=100_000, output_tokens=0)
    api.when("count me", dear, hang())
    async with scene() as stage:
        created = await stage.goals.create(GoalOrder(goal="count me", max_budget_usd=2.4), ME)
        await api.request_came(lambda seen: answers(seen) != [], 30)
    async with scene() as stage:
        first = (await stage.goals.get(created.goal_id)).agent_cost_usd or 0
        assert 0.3 < first < 0.6
        api.when("You were interrupted", dear)
        await stage.goals.take_up()
        record = await stage.ended(created.goal_id)
    assert record.error is not None and record.error.kind == "max_budget"
    assert record.agent_cost_usd == pytest.approx(2 * first, rel=0.01)


async def test_an_agent_that_dies_is_started_again_and_not_for_ever(api: MessagesApi, scene: Open) -> None:
    api.when(lambda seen: True, hang())
    async with scene() as stage:
        created = await stage.goals.create(GoalOrder(goal="die"), ME)
        for attempt in (1, 2, 3):
            await until(lambda n=attempt: len(stage.told("goal_started")) == n, 30)
            await api.request_came(lambda seen: seen.kind == "main", 30, count=attempt)
            for process in _agents(created.session_id or ""):
                os.kill(int(process.name), 9)
        record = await stage.ended(created.goal_id)
        assert record.state is GoalState.FAILED and record.error is not None
        assert (record.error.kind, record.error.message[-23:]) == ("agent_died", "It was started 3 times.")


async def test_a_program_that_is_no_claude_code_fails_the_goal(scene: Open, tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 3\n")
    program.chmod(0o755)
    async with scene(cli=program) as stage:
        record = await stage.reach("anything")
        assert record.state is GoalState.FAILED and record.error is not None
        assert record.error.message == ("The Claude process of the goal is gone: out of order. It was started 3 times.")


async def test_something_unforeseen_ends_the_goal_and_no_other(api: MessagesApi, scene: Open) -> None:
    async def broken() -> Any:
        raise RuntimeError("a bug")

    async with scene() as stage:
        whole, stage.desk.workers = stage.desk.workers, broken  # type: ignore[method-assign]
        record = await stage.reach("anything")
        assert record.error is not None and record.error.kind == "internal_error"
        stage.desk.workers = whole  # type: ignore[method-assign]
        assert (await stage.reach("anything else")).output == "You said: anything else"


async def test_a_goal_outlasts_a_ledger_that_cannot_be_written_for_a_while(
    api: MessagesApi, scene: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_service.goals.run._LEDGER_PAUSE_S", 0.01)
    troubles = iter((True, True, False))

    def begin(*given: Any) -> int:
        if next(troubles, False):
            raise LedgerUnavailable("The disk is full.")
        return begin_attempt(*given)

    monkeypatch.setattr("orchestrator_service.goals.run.rows.begin_attempt", begin)
    async with scene() as stage:
        assert (await stage.reach("anything")).output == "You said: anything"


async def test_a_key_that_is_refused_fails_the_goal(api: MessagesApi, scene: Open) -> None:
    api.when("locked out", unauthorized())
    async with scene() as stage:
        record = await stage.reach("locked out")
        assert record.state is GoalState.FAILED and record.error is not None
        assert record.error.kind == "authentication_failed"


async def test_a_limit_that_outlasts_claude_code_pauses_the_goal(
    api: MessagesApi, scene: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_service.goals.run.BUSY_PAUSE_S", 0.01)
    api.when("crowded", api_error(429, "rate_limit_error", "slow down", {"retry-after": "3600"}))
    api.when("Go on.", reply("There was room after all."))
    async with scene() as stage:
        record = await stage.reach("crowded place")
        assert (record.state, record.output) == (GoalState.COMPLETED, "There was room after all.")
        assert "busy" in stage.told("goal_waits")[0]["message"]


async def test_more_goals_than_places_wait_for_one(api: MessagesApi, scene: Open) -> None:
    api.when("one at a time", hang(reply("done")))
    async with scene(max_running=1) as stage:
        goals = [await stage.goals.create(GoalOrder(goal=f"one at a time {n}"), ME) for n in (1, 2)]
        await until(lambda: stage.told("goal_waits") != [], 30)
        await api.request_came(lambda seen: seen.kind == "main", 30)
        assert [data["goal_id"] for data in stage.told("goal_waits")] == [goals[1].goal_id]
        assert len(stage.told("goal_started")) == 1
        api.release()
        assert [(await stage.ended(goal.goal_id)).state for goal in goals] == [GoalState.COMPLETED] * 2
        assert [goal.goal_id for goal in await stage.goals.list()] == [goals[1].goal_id, goals[0].goal_id]
        with pytest.raises(Conflict, match="There is a goal"):
            await stage.goals.create(GoalOrder(goal="again", goal_id=goals[0].goal_id), ME)


async def test_without_claude_code_or_a_login_a_goal_is_refused(scene: Open, environ: dict[str, str]) -> None:
    async with scene(cli=Path("/nowhere/claude")) as stage:
        with pytest.raises(Unavailable, match="/nowhere/claude cannot be run: name it in CLAUDE_CLI"):
            await stage.goals.create(GoalOrder(goal="x"), ME)
    del environ["ANTHROPIC_API_KEY"]
    async with scene() as stage:
        with pytest.raises(Unavailable, match="ANTHROPIC_API_KEY"):
            await stage.goals.create(GoalOrder(goal="x"), ME)
        assert await stage.goals.list() == []
