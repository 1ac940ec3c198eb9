"""The tools by which a model delegates to the team: what each takes, does and answers. Knows nothing of MCP.

They work on a few of the desk's questions, so that they run in the orchestrator, in a goal's agent and, over the HTTP
API, in a process of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from pydantic import BaseModel, ValidationError

from agent_bus.questions import Decision
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, NotKnown, OrchestratorError
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import (
    FINAL_STATES,
    QuestionRecord,
    Submission,
    TaskRecord,
    TaskResult,
    TaskSummary,
    WorkerRecord,
)
from orchestrator_service.team_tools.arguments import (
    AnswerQuestion,
    CancelTask,
    GetResult,
    ListQuestions,
    ListWorkers,
    SendMessage,
    SubmitTask,
    WaitForTasks,
)

MOST_OUTPUT: Final = 20_000
"""Characters of one task's output in one answer."""
MOST_OUTPUTS: Final = 60_000
"""Characters of all outputs in one answer: Claude Code refuses an answer of more than 25,000 tokens."""
_LEAST_OUTPUT: Final = 500
_MOST_QUESTIONS: Final = 20
_STEP_S: Final = 20.0
"""So often somebody who waits is told that the waiting goes on."""

Report = Callable[[float, float, str], Awaitable[None]]
"""Takes how many tasks have ended, of how many, and a sentence for people."""


class ToolRefused(Exception):
    """A tool that could not be used so; the text is one sentence for the model that asked."""


class TeamDesk(Protocol):
    """What of `desk.Desk` the tools need."""

    async def workers(self) -> list[WorkerRecord]:
        """See `Desk.workers`."""

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """See `Desk.submit`."""

    async def task(self, task_id: str) -> TaskRecord:
        """See `Desk.task`."""

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        """See `Desk.wait`."""

    async def result(self, task_id: str) -> TaskResult:
        """See `Desk.result`."""

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        """See `Desk.cancel`."""


class QuestionDesk(Protocol):
    """What of `desk.Desk` those need that may answer the questions of agents."""

    async def questions(
        self, *, state: str = "open", worker: str | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[QuestionRecord]:
        """See `Desk.questions`."""

    async def answer_question(
        self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
    ) -> QuestionRecord:
        """See `Desk.answer_question`."""


class AnsweringDesk(TeamDesk, QuestionDesk, Protocol):
    """Both."""


class TeamTools:
    """The tools, for one who asks."""

    def __init__(self, desk: TeamDesk, asker: Asker, questions: QuestionDesk | None = None) -> None:
        """Work at `desk` for `asker`, and at `questions` where that may answer the questions of agents."""
        self._desk = desk
        self._asker = asker
        self._questions = questions
        self.tools = TOOLS if questions is None else (*TOOLS, *ANSWERING_TOOLS)
        """Those that there are for this one."""

    async def call(self, name: str, arguments: dict[str, Any], report: Report | None = None) -> str:
        """Use a tool; returns its answer as JSON.

        Raises:
            ToolRefused: there is no such tool, an argument is wrong, or what is asked for cannot be done.
        """
        known = {tool.name: tool for tool in self.tools}
        tool = known.get(name)
        if tool is None:
            raise ToolRefused(f"There is no tool {name[:100]!r}; there are {', '.join(known)}.")
        try:
            asked = tool.arguments.model_validate(arguments)
            answer = await tool.use(self, asked, report)
        except ValidationError as error:
            raise ToolRefused(_sentence(error)) from error
        except OrchestratorError as error:
            raise ToolRefused(str(error)) from error
        return json.dumps(answer, ensure_ascii=False)

    async def list_workers(self, _: ListWorkers, __: Report | None) -> dict[str, Any]:
        """Tell who is there."""
        return {"workers": [_worker(worker) for worker in await self._desk.workers()]}

    async def submit_task(self, asked: SubmitTask, _: Report | None) -> dict[str, Any]:
        """Hand in a task."""
        order = TaskOrder.model_validate(asked.model_dump(exclude_none=True))
        return _accepted(await self._desk.submit(order, self._asker))

    async def wait_for_tasks(self, asked: WaitForTasks, report: Report | None) -> dict[str, Any]:
        """Wait for tasks and tell what came of those that have ended."""
        tasks = await self._wait(list(dict.fromkeys(asked.task_ids)), asked.timeout_seconds, asked.any, report)
        ended = [task for task in tasks if task.state in FINAL_STATES]
        most = max(_LEAST_OUTPUT, min(MOST_OUTPUT, MOST_OUTPUTS // max(1, len(ended))))
        told = [await self._told(task, most) for task in tasks]
        answer: dict[str, Any] = {"all_ended": len(ended) == len(tasks), "tasks": told}
        if len(ended) < len(tasks):
            answer["note"] = "Some tasks have not ended: go on waiting for them, or cancel what is not needed any more."
        return answer

    async def get_result(self, asked: GetResult, _: Report | None) -> dict[str, Any]:
        """Tell what came of a task, from a given place of its output on."""
        result = await self._desk.result(asked.task_id)
        return {"task_id": result.task_id, "state": result.state.value, **_outcome(result, MOST_OUTPUT, asked.offset)}

    async def cancel_task(self, asked: CancelTask, _: Report | None) -> dict[str, Any]:
        """End a task."""
        task = await self._desk.cancel(asked.task_id, self._asker, asked.reason)
        return _state(task)

    async def send_message(self, asked: SendMessage, report: Report | None) -> dict[str, Any]:
        """Say something to a worker in a conversation that goes on from message to message."""
        names = [worker.name for worker in await self._desk.workers()]
        if asked.to not in names:
            there = f"there are {', '.join(names)}" if names else "there are none now"
            raise ToolRefused(f"to: there is no worker {asked.to[:100]!r}; {there}.")
        order = TaskOrder(
            description=asked.message,
            worker=asked.to,
            title=f"Message to {asked.to}",
            session=asked.conversation or self._conversation(asked.to),
        )
        submission = await self._desk.submit(order, self._asker)
        if not asked.wait:
            return _accepted(submission)
        task_id = submission.tasks[0].task_id
        (task,) = await self._wait([task_id], asked.timeout_seconds, False, report)
        told = await self._told(task, MOST_OUTPUT)
        if task.state not in FINAL_STATES:
            told["note"] = "There is no answer yet: wait for it with wait_for_tasks."
        return told

    async def list_questions(self, asked: ListQuestions, _: Report | None) -> dict[str, Any]:
        """Tell what waits for a person."""
        assert self._questions is not None
        found = await self._questions.questions(state="open", worker=asked.worker, limit=_MOST_QUESTIONS)
        return {"questions": [_question(question) for question in found]}

    async def answer_question(self, asked: AnswerQuestion, _: Report | None) -> dict[str, Any]:
        """Pass a person's answer on."""
        decision = Decision(asked.decision)
        assert self._questions is not None
        return _question(await self._questions.answer_question(asked.question_id, decision, self._asker, asked.reason))

    def _conversation(self, worker: str) -> str:
        # One conversation lives at one worker, so each worker has its own with whoever asks.
        return f"messages-{self._asker.goal_id or self._asker.name}-{worker}"

    async def _wait(
        self, task_ids: list[str], timeout_s: float, any_of: bool, report: Report | None
    ) -> list[TaskSummary]:
        """Wait, and report each task that ends and from time to time that the waiting goes on."""
        end = time.monotonic() + timeout_s
        progress = 0.0
        tasks = {task.task_id: task for task in await self._desk.wait(task_ids, 0, any_of=True)}
        while True:
            open_ids = [task_id for task_id, task in tasks.items() if task.state not in FINAL_STATES]
            left = end - time.monotonic()
            if report is not None:
                progress = await _report(report, list(tasks.values()), progress)
            if not open_ids or left <= 0 or (any_of and len(open_ids) < len(tasks)):
                return [tasks[task_id] for task_id in task_ids]
            for task in await self._desk.wait(open_ids, min(left, _STEP_S), any_of=True):
                tasks[task.task_id] = task

    async def _told(self, task: TaskSummary, most: int) -> dict[str, Any]:
        told = _state(task)
        if task.state in FINAL_STATES:
            try:
                told |= _outcome(await self._desk.result(task.task_id), most, 0)
            except (NotKnown, Conflict) as error:
                told["error"] = str(error)
        return told


class Tool:
    """One tool, as a model is told of it."""

    def __init__(
        self,
        arguments: type[BaseModel],
        use: Callable[[TeamTools, Any, Report | None], Awaitable[dict[str, Any]]],
        *,
        reads_only: bool,
    ) -> None:
        self.name = use.__name__
        self.arguments = arguments
        self.use = use
        self.description = " ".join((arguments.__doc__ or "").split())
        self.reads_only = reads_only
        """Whether it changes nothing."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its arguments."""
        schema = self.arguments.model_json_schema()
        schema.pop("description", None)
        untitled: dict[str, Any] = _untitled(schema)
        return untitled


TOOLS: Final = (
    Tool(ListWorkers, TeamTools.list_workers, reads_only=True),
    Tool(SubmitTask, TeamTools.submit_task, reads_only=False),
    Tool(WaitForTasks, TeamTools.wait_for_tasks, reads_only=True),
    Tool(GetResult, TeamTools.get_result, reads_only=True),
    Tool(CancelTask, TeamTools.cancel_task, reads_only=False),
    Tool(SendMessage, TeamTools.send_message, reads_only=False),
)
ANSWERING_TOOLS: Final = (
    Tool(ListQuestions, TeamTools.list_questions, reads_only=True),
    Tool(AnswerQuestion, TeamTools.answer_question, reads_only=False),
)
"""For those alone that may answer the questions of agents; no agent of the team has them."""


async def _report(report: Report, tasks: list[TaskSummary], before: float) -> float:
    ended = sum(task.state in FINAL_STATES for task in tasks)
    waiting = [f"{task.task_id} ({task.state.value})" for task in tasks if task.state not in FINAL_STATES]
    rest = f"; waiting for {', '.join(waiting[:5])}{' …' if len(waiting) > 5 else ''}" if waiting else ""
    # Progress must grow from one report to the next (MCP says so), a mere sign of life included.
    progress = max(float(ended), before + 0.001)
    await report(progress, len(tasks), f"{ended} of {len(tasks)} tasks have ended{rest}")
    return progress


def _worker(worker: WorkerRecord) -> dict[str, Any]:
    return {
        "name": worker.name,
        "role": worker.role,
        "skills": worker.skills,
        "state": worker.state,
        "status": worker.status,
        "slots": worker.slots,
        "in_flight": worker.in_flight,
        "waiting": worker.waiting,
    }


def _question(question: QuestionRecord) -> dict[str, Any]:
    return question.model_dump(mode="json", exclude_none=True)


def _accepted(submission: Submission) -> dict[str, Any]:
    return _state(submission.tasks[0])


def _state(task: TaskSummary) -> dict[str, Any]:
    told: dict[str, Any] = {"task_id": task.task_id, "state": task.state.value}
    if task.title is not None:
        told["title"] = task.title
    if task.worker is not None:
        told["worker"] = task.worker
    if task.state not in FINAL_STATES and task.waits_for is not None:
        told["waits_for"] = task.waits_for.message
    return told


def _outcome(result: TaskResult, most: int, offset: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if result.error is not None:
        told["error"] = f"{result.error.kind}: {result.error.message}"
    if result.result is None:
        return told
    output = result.result.output or ""
    told["output"] = output[offset : offset + most]
    if result.result.structured_output is not None and offset == 0:
        text = json.dumps(result.result.structured_output, ensure_ascii=False)
        # Its text is the output as well, so what is too long for here can be read there.
        told["structured_output"] = result.result.structured_output if len(text) <= most else f"{text[:most]} …"
    if offset + most < len(output):
        told["note"] = (
            f"This is the output from character {offset} to {offset + most} of {len(output)}; "
            f"get_result with offset {offset + most} gives what follows."
        )
    return told


def _sentence(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the arguments"
    given = json.dumps(first["input"], default=str, ensure_ascii=False)
    shown = "" if first["type"] == "missing" else f" (given: {given[:80]}{' …' if len(given) > 80 else ''})"
    more = f"; {len(problems) - 1} more arguments are wrong" if len(problems) > 1 else ""
    return f"{where}: {first['msg']}{shown}{more}."


def _untitled(schema: Any) -> Any:
    """Leave out the titles that pydantic makes of names: a model pays for each word of a schema."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    kept = {key: _untitled(value) for key, value in schema.items() if key not in ("title", "properties")}
    if isinstance(properties, dict):
        kept["properties"] = {name: _untitled(value) for name, value in properties.items()}
    return kept
