"""The tools by which a model delegates: what they take, answer and refuse."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agent_bus.messages import TaskError
from agent_bus.questions import Decision
from orchestrator_service.api import examples
from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, LedgerUnavailable
from orchestrator_service.records import QuestionRecord, TaskState
from orchestrator_service.team_tools.tools import MOST_OUTPUT, TOOLS, TeamTools, ToolRefused
from tests.team_desk import TeamDesk
from tests.waiting import async_wait_until as until


class Caller:
    """A model that uses the tools."""

    def __init__(self) -> None:
        self.desk = TeamDesk()
        self.tools = TeamTools(self.desk, Asker(name="eve", origin="mcp"))

    async def use(self, name: str, **arguments: Any) -> dict[str, Any]:
        answer = json.loads(await self.tools.call(name, arguments))
        assert isinstance(answer, dict)
        return answer

    async def refusal(self, name: str, **arguments: Any) -> str:
        with pytest.raises(ToolRefused) as refused:
            await self.tools.call(name, arguments)
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture
async def caller() -> Caller:
    return Caller()


def test_names_and_arguments() -> None:
    shapes = {tool.name: (list(tool.schema()["properties"]), tool.schema().get("required", [])) for tool in TOOLS}
    assert shapes == {
        "list_workers": ([], []),
        "submit_task": (
            [
                *("description", "role", "skills", "worker", "title", "dependencies", "priority", "timeout"),
                *("max_budget_usd", "session", "output_schema", "parent"),
            ],
            ["description"],
        ),
        "wait_for_tasks": (["task_ids", "timeout_seconds", "any"], ["task_ids"]),
        "get_result": (["task_id", "offset"], ["task_id"]),
        "cancel_task": (["task_id", "reason"], ["task_id"]),
        "send_message": (["to", "message", "conversation", "wait", "timeout_seconds"], ["to", "message"]),
    }
    for tool in TOOLS:
        schema = tool.schema()
        assert schema["type"] == "object" and schema["additionalProperties"] is False
        assert "title" not in schema
        assert tool.description and "\n" not in tool.description
    assert [tool.name for tool in TOOLS if tool.reads_only] == ["list_workers", "wait_for_tasks", "get_result"]


async def test_a_task_goes_out_as_it_was_asked_for(caller: Caller) -> None:
    assert [worker["name"] for worker in (await caller.use("list_workers"))["workers"]] == ["marie", "anga"]
    first = await caller.use("submit_task", description="plan", role="coder", title="The plan", worker="")
    assert first == {"task_id": "t1", "state": "completed", "title": "The plan"}
    await caller.use(
        "submit_task",
        description="do {{results.t1.output}}",
        skills=["python"],
        dependencies=["t1"],
        priority="high",
        timeout=60,
        max_budget_usd="0.5",
        session="s",
        output_schema={"type": "object"},
        parent="t1",
    )
    order = caller.desk.orders["t2"]
    assert (order.skills, order.dependencies, order.priority, order.timeout) == (["python"], ["t1"], 75, 60)
    assert (order.max_budget_usd, order.session, order.output_schema) == (0.5, "s", {"type": "object"})
    assert order.parent == "t1" and order.worker is None
    assert caller.desk.records["t2"].submitted_by == "eve" and caller.desk.records["t2"].origin == "mcp"
    waited = await caller.use("wait_for_tasks", task_ids=["t2", "t1", "t2"])
    assert waited["all_ended"] is True
    assert [(task["task_id"], task["output"]) for task in waited["tasks"]] == [
        ("t2", "echo: do echo: plan"),
        ("t1", "echo: plan"),
    ]


async def test_waiting_reports_who_has_ended(caller: Caller) -> None:
    caller.desk.answer = lambda _: None
    for text in ("one", "two"):
        await caller.use("submit_task", description=text)
    assert (await caller.use("wait_for_tasks", task_ids=["t1"], timeout_seconds=0))["all_ended"] is False
    told: list[tuple[float, float, str]] = []

    async def report(progress: float, total: float, sentence: str) -> None:
        told.append((progress, total, sentence))

    arguments = {"task_ids": ["t1", "t2"], "timeout_seconds": 600}
    waiting = asyncio.create_task(caller.tools.call("wait_for_tasks", arguments, report))
    await until(lambda: len(told) == 1)
    assert told == [(0.001, 2, "0 of 2 tasks have ended; waiting for t1 (sent), t2 (sent)")]
    await caller.desk.end("t2", TaskState.FAILED, "half", TaskError(kind="agent_died", message="It died."))
    await until(lambda: len(told) == 2)
    assert told[1] == (1.0, 2, "1 of 2 tasks have ended; waiting for t1 (sent)")
    await caller.desk.end("t1", TaskState.COMPLETED, "whole")
    answer = json.loads(await waiting)
    assert told[2] == (2.0, 2, "2 of 2 tasks have ended")
    assert answer["tasks"][1] == {
        "task_id": "t2",
        "state": "failed",
        "error": "agent_died: It died.",
        "output": "half",
    }
    assert "note" not in answer


async def test_waiting_for_any_of_them(caller: Caller) -> None:
    caller.desk.answer = lambda description: None if description == "slow" else "quick as that"
    for text in ("slow", "fast"):
        await caller.use("submit_task", description=text)
    answer = await caller.use("wait_for_tasks", task_ids=["t1", "t2"], any=True, timeout_seconds=600)
    assert [task["state"] for task in answer["tasks"]] == ["sent", "completed"]
    assert answer["all_ended"] is False and "go on waiting" in answer["note"]


async def test_a_long_output_comes_in_parts(caller: Caller) -> None:
    text = "".join(f"{number:07d} " for number in range(6_000))
    caller.desk.answer = lambda _: text
    await caller.use("submit_task", description="write a lot")
    (task,) = (await caller.use("wait_for_tasks", task_ids=["t1"]))["tasks"]
    assert task["output"] == text[:MOST_OUTPUT]
    assert task["note"] == (
        "This is the output from character 0 to 20000 of 48000; get_result with offset 20000 gives what follows."
    )
    parts = [(await caller.use("get_result", task_id="t1", offset=at))["output"] for at in (0, 20_000, 40_000)]
    assert "".join(parts) == text
    for _ in range(9):
        await caller.use("submit_task", description="write a lot")
    ids = [f"t{number}" for number in range(1, 11)]
    tasks = (await caller.use("wait_for_tasks", task_ids=ids))["tasks"]
    assert sum(len(task["output"]) for task in tasks) == 60_000


async def test_messages_go_on_in_one_conversation_a_worker(caller: Caller) -> None:
    answer = await caller.use("send_message", to="marie", message="how are you?")
    assert (answer["state"], answer["output"]) == ("completed", "echo: how are you?")
    await caller.use("send_message", to="marie", message="and now?", wait=False)
    await caller.use("send_message", to="anga", message="and you?", conversation="review")
    assert [order.session for order in caller.desk.orders.values()] == [
        "messages-eve-marie",
        "messages-eve-marie",
        "review",
    ]
    caller.desk.answer = lambda _: None
    late = await caller.use("send_message", to="marie", message="hm", timeout_seconds=0)
    assert late["state"] == "sent" and "wait_for_tasks" in late["note"]
    assert await caller.refusal("send_message", to="paul", message="hello") == (
        "to: there is no worker 'paul'; there are marie, anga."
    )


async def test_cancelling(caller: Caller) -> None:
    caller.desk.answer = lambda _: None
    await caller.use("submit_task", description="x")
    answer = await caller.use("cancel_task", task_id="t1", reason="changed my mind")
    assert answer == {"task_id": "t1", "state": "cancelled"}
    assert caller.desk.cancelled == {"t1": "changed my mind"}
    assert await caller.refusal("cancel_task", task_id="t1") == "Task t1 has ended."


async def test_what_is_wrong_comes_back_in_one_sentence(caller: Caller) -> None:
    assert await caller.refusal("fly") == (
        "There is no tool 'fly'; there are list_workers, submit_task, wait_for_tasks, get_result, cancel_task, "
        "send_message."
    )
    assert await caller.refusal("submit_task") == "description: Field required."
    assert await caller.refusal("wait_for_tasks", task_ids=["a"], timeout_seconds=601) == (
        "timeout_seconds: Input should be less than or equal to 600 (given: 601)."
    )
    assert (await caller.refusal("submit_task", description="x", colour="red")).startswith("colour: Extra inputs")
    assert await caller.refusal("submit_task", description="x", worker="paul") == (
        "worker: There is none; there are marie, anga."
    )
    assert (await caller.refusal("submit_task", description="x", worker="../etc")).startswith("worker: ")
    assert await caller.refusal("get_result", task_id="nobody") == "There is no task 'nobody'."
    assert await caller.refusal("wait_for_tasks", task_ids=["nobody"]) == "There is no task 'nobody'."

    async def broken(*_: object, **__: object) -> Any:
        raise LedgerUnavailable("The ledger cannot be written: the disk is full.")

    caller.desk.submit = broken  # type: ignore[method-assign]
    assert "the disk is full" in await caller.refusal("submit_task", description="x")


async def test_who_may_answer_has_two_tools_more_and_nobody_else_has_them() -> None:
    asked: list[tuple[str, Decision, str | None]] = []
    record = QuestionRecord.model_validate(examples.QUESTION)

    class Questions:
        async def questions(self, **_: Any) -> list[QuestionRecord]:
            return [record]

        async def answer_question(
            self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
        ) -> QuestionRecord:
            if question_id != record.question_id:
                raise Conflict(f"Question {question_id} was answered already.")
            asked.append((asker.name, decision, reason))
            return record

    may = TeamTools(TeamDesk(), Asker(name="anna", origin="mcp"), Questions())
    may_not = TeamTools(TeamDesk(), Asker(name="eve", origin="mcp"))
    assert [tool.name for tool in may.tools] == [*(tool.name for tool in TOOLS), "list_questions", "answer_question"]
    assert may_not.tools == TOOLS
    (shown,) = json.loads(await may.call("list_questions", {}))["questions"]
    assert shown["input"]["command"] == "npm publish"
    given = {"question_id": record.question_id, "decision": "deny", "reason": "not today"}
    await may.call("answer_question", given)
    assert asked == [("anna", Decision.DENY, "not today")]
    with pytest.raises(ToolRefused, match="answered already"):
        await may.call("answer_question", {**given, "question_id": "q-0"})
    with pytest.raises(ToolRefused, match="decision"):
        await may.call("answer_question", {**given, "decision": "allow all"})
    for name in ("list_questions", "answer_question"):
        with pytest.raises(ToolRefused, match="There is no tool"):
            await may_not.call(name, given)
    assert len(asked) == 1
