"""Goals with the real Claude Code CLI: a scripted model that uses the team's tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.desk import Asker
from orchestrator_service.goals import Goals, open_goals
from orchestrator_service.ledger.database import open_database
from orchestrator_service.orders import GoalOrder
from orchestrator_service.records import GoalRecord, GoalState
from orchestrator_service.settings import GoalSettings
from tests.standin.messages_api import MessagesApi, Seen, Step, reply, tool_use
from tests.team_desk import TeamDesk
from tests.waiting import async_wait_until as until

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

ME = Asker(name="me")


class Scene:
    """Goals over a desk in memory, and what they told."""

    def __init__(self, desk: TeamDesk, goals: Goals, events: list[tuple[str, dict[str, Any]]]) -> None:
        self.desk, self.goals, self.events = desk, goals, events

    async def reach(self, goal: str, **limits: Any) -> GoalRecord:
        record = await self.goals.create(GoalOrder(goal=goal, **limits), ME)
        return await self.ended(record.goal_id)

    async def ended(self, goal_id: str) -> GoalRecord:
        await until(lambda: any(name == "goal_ended" and data["goal_id"] == goal_id for name, data in self.events), 60)
        return await self.goals.get(goal_id)

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
                yield Scene(desk, goals, events)

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
