"""The hooks of one process: what belongs to a task, what is filled in, and that nothing is told twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import AssistantMessage, ResultMessage, SystemMessage, ToolResultBlock, ToolUseBlock, UserMessage

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Task
from worker_service.agents.base import Run
from worker_service.agents.claude_hooks import SessionHooks
from worker_service.hooks.bridge import HookBridge, HookSettings
from worker_service.metrics import Metrics

CALL = ToolUseBlock(id="t1", name="Bash", input={"command": "ls"})


class Told:
    """A process's hooks, and what they told."""

    def __init__(self, shared: Path) -> None:
        layout = WorkerLayout.under(shared, "marie")
        self.metrics = Metrics("marie")
        self.events: list[dict[str, Any]] = []
        self.elsewhere: list[str] = []
        settings = HookSettings(worker="marie", layout=layout, rules=shared / "none.json")
        self.bridge = HookBridge(settings, self.metrics, lambda event, data, task_id: self.elsewhere.append(event))
        self.hooks = SessionHooks(self.bridge)

    def begin(self, task_id: str = "7", reason: str = "startup") -> None:
        run = Run(task=Task(task_id=task_id, description="do it"), emit=lambda _, data: self.events.append(data))
        self.hooks.begin(run, "s1", reason)

    async def hook(self, name: str, **fields: Any) -> None:
        payload: Any = {"hook_event_name": name, "session_id": "s1", **fields}
        assert await self.hooks._callback(payload, None, {"signal": None}) == {}

    def result(self, *, is_error: bool = False) -> None:
        self.hooks.observe(
            ResultMessage(
                subtype="success",
                duration_ms=1,
                duration_api_ms=1,
                is_error=is_error,
                num_turns=1,
                session_id="s1",
                result="done",
            )
        )

    def names(self) -> list[tuple[str, str]]:
        return [(data["hook"], data["source"]) for data in self.events]


@pytest.fixture
def told(shared: Path) -> Told:
    return Told(shared)


async def test_the_pools_housekeeping_is_nobodys(told: Told) -> None:
    await told.hook("SessionEnd", reason="clear")
    await told.hook("UserPromptSubmit", prompt="/clear")
    told.hooks.observe(UserMessage(content=[ToolResultBlock(tool_use_id="t1", content="x")]))
    told.hooks.end("other")
    assert told.events == [] and told.elsewhere == []


async def test_with_all_hooks_nothing_is_filled_in(told: Told) -> None:
    told.begin()
    await told.hook("UserPromptSubmit", prompt="do it")
    told.hooks.observe(AssistantMessage(content=[CALL], model="m"))
    await told.hook("PreToolUse", tool_name="Bash", tool_use_id="t1", tool_input=CALL.input)
    await told.hook("PostToolUse", tool_name="Bash", tool_use_id="t1", tool_input=CALL.input, tool_response="x")
    told.hooks.observe(UserMessage(content=[ToolResultBlock(tool_use_id="t1", content="x")]))
    await told.hook("Stop")
    told.result()
    told.hooks.end("clear")
    assert told.names() == [
        ("SessionStart", "stream"),
        ("UserPromptSubmit", "hook"),
        ("PreToolUse", "hook"),
        ("PostToolUse", "hook"),
        ("Stop", "hook"),
        ("SessionEnd", "stream"),
    ]


async def test_without_hooks_the_stream_tells_and_a_late_hook_is_not_told_again(told: Told) -> None:
    told.begin()
    told.hooks.observe(AssistantMessage(content=[CALL], model="m"))
    told.hooks.observe(UserMessage(content=[ToolResultBlock(tool_use_id="t1", content="no", is_error=True)]))
    await told.hook("PreToolUse", tool_name="Bash", tool_use_id="t1", tool_input={})
    await told.hook("PostToolUseFailure", tool_name="Bash", tool_use_id="t1", tool_input={}, error="no")
    told.result()
    assert told.names()[1:] == [
        ("PreToolUse", "stream"),
        ("PostToolUseFailure", "stream"),
        ("UserPromptSubmit", "stream"),
        ("Stop", "stream"),
    ]
    assert told.events[2]["error"] == "no"


async def test_a_turn_that_failed_has_no_stop(told: Told) -> None:
    told.begin()
    told.result(is_error=True)
    assert [name for name, _ in told.names()] == ["SessionStart", "UserPromptSubmit"]


async def test_a_permission_that_nobody_can_give_is_a_notification(told: Told) -> None:
    told.begin()
    await told.hook("PermissionRequest", tool_name="WebFetch", tool_input={"url": "x"})
    told.hooks.observe(SystemMessage(subtype="task_notification", data={"summary": "build done"}))
    assert told.names()[1:] == [("Notification", "stream"), ("Notification", "stream")]
    assert "WebFetch" in told.events[1]["message"] and told.events[2]["message"] == "build done"


async def test_the_next_task_has_events_of_its_own(told: Told) -> None:
    for number in ("1", "2"):
        told.begin(number)
        await told.hook("PreToolUse", tool_name="Bash", tool_use_id="t1", tool_input={})
        told.hooks.end("clear")
    assert [name for name, _ in told.names()] == ["SessionStart", "PreToolUse", "SessionEnd"] * 2


async def test_events_wait_for_nothing_and_are_all_worked_on_in_the_end(told: Told, shared: Path) -> None:
    told.begin()
    for number in range(100):
        await told.hook("PreToolUse", tool_name="Bash", tool_use_id=f"t{number}", tool_input={})
    log = shared / "watcher-logs" / "marie-tool-use.log"
    assert not log.exists() and len(told.events) == 101
    told.bridge.close()
    assert len(log.read_text().splitlines()) == 100


async def test_an_event_that_cannot_be_told_costs_no_answer(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.begin()

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(told.bridge, "take", fail)
    await told.hook("PreToolUse", tool_name="Bash", tool_use_id="t1", tool_input={})
