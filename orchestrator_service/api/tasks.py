"""Routes of tasks: hand in, look at, wait, cancel, retry, follow."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Annotated, Any, Final

import anyio
from fastapi import FastAPI, Query
from fastapi import Path as InPath
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.auth import asker
from orchestrator_service.api.bodies import fields_refused, parse, parse_submission, read_body, read_bytes
from orchestrator_service.api.described import API, BODY_PROBLEMS, PlainRoute, answer, answers, body, dump
from orchestrator_service.api.moments import Moment
from orchestrator_service.api.patience import wait_for
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.api.sse import LAST_EVENT_ID, Streams, position
from orchestrator_service.desk import Desk, Idempotency
from orchestrator_service.errors import FieldProblem
from orchestrator_service.orders import LONGEST_ID, TaskQuery, TaskSort
from orchestrator_service.records import Submission, TaskPage, TaskRecord, TaskResult, TaskState, TaskSummary
from orchestrator_service.settings import Role

LONGEST_WAIT_S: Final = 600
LONGEST_RESULT_WAIT_S: Final = 60
MOST_WAITED_FOR: Final = 500
"""So many ids fit into the 64 KiB that the server reads of a request's head."""

_SUMMARIES: Final = TypeAdapter(list[TaskSummary])
_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,198}[\x21-\x7e])?")

TaskName = Annotated[str, InPath(description="The id of the task.", examples=["task-7f3a9c"])]


class CancelOrder(BaseModel):
    """Why a task or goal is to end."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    reason: Annotated[str, Field(max_length=500)] = ""


class Order(StrEnum):
    """In which order tasks are listed."""

    ASC = "asc"
    DESC = "desc"


def _states(given: object) -> object:
    if isinstance(given, list) and all(isinstance(part, str) for part in given):
        return [word.strip() for part in given for word in part.split(",") if word.strip()]
    return given


Name = Annotated[str, Field(max_length=200)]


class TaskFilters(BaseModel):
    """Which tasks a list is to hold, as the query says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Annotated[
        list[TaskState],
        BeforeValidator(_states),
        Field(description="Any of these states; repeat it, or divide by commas.", examples=[["running"]]),
    ] = []
    worker: Annotated[Name | None, Field(description="Sent to this worker, or meant for it.")] = None
    goal: Annotated[Name | None, Field(description="The tasks of this goal.")] = None
    graph: Annotated[Name | None, Field(description="The tasks of this graph.")] = None
    schedule: Annotated[Name | None, Field(description="What this schedule brought.")] = None
    submitted_by: Annotated[Name | None, Field(description="Handed in by the token of this name.")] = None
    since: Annotated[
        Moment | None, Field(description="Handed in at this moment or later, such as 2026-03-02T09:00Z.")
    ] = None
    until: Annotated[Moment | None, Field(description="Handed in before this moment.")] = None
    q: Annotated[
        Name | None, Field(description="In the id, title or description, whatever its case.", examples=["slogan"])
    ] = None
    sort: Annotated[
        TaskSort, Field(description="By what; what lacks it comes last. The default is the time of handing in.")
    ] = TaskSort.SUBMITTED
    order: Annotated[Order, Field(description="`desc` shows the newest, dearest, longest … first.")] = Order.DESC
    cursor: Annotated[str | None, Field(max_length=2000, description="`next_cursor` of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=500, description="Tasks on a page.")] = 50
    count: Annotated[bool, Field(description="Whether to tell in `total` how many there are on all pages.")] = False

    def query(self) -> TaskQuery:
        """Return it as the desk takes it."""
        return TaskQuery(
            states=tuple(self.state),
            worker=self.worker,
            goal_id=self.goal,
            graph_id=self.graph,
            schedule=self.schedule,
            submitted_by=self.submitted_by,
            since=self.since,
            until=self.until,
            text=self.q,
            sort=self.sort,
            oldest_first=self.order is Order.ASC,
            cursor=self.cursor,
            limit=self.limit,
            count=self.count,
        )


class WaitQuery(BaseModel):
    """For which tasks to wait, and how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[
        list[Annotated[str, Field(max_length=LONGEST_ID)]],
        Field(min_length=1, max_length=MOST_WAITED_FOR, description="A task; repeat it.", examples=[["task-7f3a9c"]]),
    ]
    timeout: Annotated[float, Field(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False, description="Seconds.")] = 30.0
    any: Annotated[bool, Field(description="Whether the end of one of them is enough.")] = False


class ResultQuery(BaseModel):
    """How long to wait for a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait: Annotated[
        float, Field(ge=0, le=LONGEST_RESULT_WAIT_S, allow_inf_nan=False, description="Seconds to wait for the end.")
    ] = 0.0


class TaskEventsQuery(BaseModel):
    """From where to follow a task, and whether to go on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[
        str | None, Field(max_length=200, description="The `id` of the last event that was seen; a header wins.")
    ] = None
    follow: Annotated[bool, Field(description="Whether to go on live until the task has ended.")] = True


_IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "1 to 200 printable ASCII characters; the same key with the same body is carried out once.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 200,
        "pattern": r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
    },
    "example": "order-4711",
}
_SUBMISSION_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [{"$ref": "#/components/schemas/TaskOrder"}, {"$ref": "#/components/schemas/GraphOrder"}]
                },
                "examples": {
                    "task": {"summary": "One task", "value": examples.TASK_ORDER},
                    "graph": {"summary": "Tasks that need each other", "value": examples.GRAPH_ORDER},
                },
            }
        },
    },
    "parameters": [_IDEMPOTENCY_KEY],
}


TASKS: Final = f"{API}/tasks"


def add_task_routes(app: FastAPI, desk: Desk, streams: Streams, closing: anyio.Event) -> None:
    """Add the routes of tasks to `app`."""

    async def create(request: Request) -> Response:
        """Accept a task, or a graph of tasks where the body has `tasks`: durably, all of it or nothing."""
        who = asker(request, Role.SUBMIT)
        key = request.headers.get("idempotency-key")
        if key is not None and not _KEY.fullmatch(key):
            message = "Allowed are 1 to 200 printable ASCII characters."
            raise fields_refused([FieldProblem("Idempotency-Key", key, message)], ProblemKind.REQUEST_REFUSED)
        content = await read_body(request)
        order = parse_submission(content)
        once = None if key is None else Idempotency(key=key, digest=hashlib.sha256(content).hexdigest())
        submission = await desk.submit(order, who, once)
        place = (
            f"{API}/tasks?graph={submission.graph_id}"
            if submission.graph_id is not None
            else f"{API}/tasks/{submission.tasks[0].task_id}"
        )
        return answer(submission, 200 if submission.repeated else 201, Location=place)

    app.router.add_api_route(
        TASKS,
        create,
        methods=["POST"],
        route_class_override=PlainRoute,
        tags=["tasks"],
        summary="Hand in a task or a graph",
        status_code=201,
        response_model=Submission,
        responses={
            200: {
                "model": Submission,
                "description": "The same idempotency key had brought it before.",
                "content": {"application/json": {"example": {**examples.SUBMISSION, "repeated": True}}},
            },
            **answers(
                201, "Accepted.", examples.SUBMISSION, *BODY_PROBLEMS, ProblemKind.CONFLICT, ProblemKind.REQUEST_REFUSED
            ),
        },
        openapi_extra=_SUBMISSION_BODY,
    )

    @app.get(
        f"{API}/tasks",
        tags=["tasks"],
        summary="List tasks",
        response_model=TaskPage,
        responses=answers(200, "A page of tasks.", examples.TASK_PAGE, ProblemKind.REQUEST_REFUSED),
    )
    async def listed(filters: Annotated[TaskFilters, Query()]) -> Response:
        """Return tasks that all filters let through, a page at a time."""
        return answer(await desk.tasks(filters.query()))

    @app.get(
        f"{API}/tasks/wait",
        tags=["tasks"],
        summary="Wait for tasks",
        response_model=list[TaskSummary],
        responses=answers(
            200, "The tasks as they are now.", examples.WAITED, ProblemKind.REQUEST_REFUSED, ProblemKind.NOT_KNOWN
        ),
    )
    async def waited(request: Request, query: Annotated[WaitQuery, Query()]) -> Response:
        """Answer once all of the tasks (or one of them) have ended, or when the time is over."""
        work = desk.wait(query.id, query.timeout, any_of=query.any)
        return dump(_SUMMARIES, await wait_for(work, request, closing))

    @app.get(
        f"{API}/tasks/{{task_id}}",
        tags=["tasks"],
        summary="Look at a task",
        response_model=TaskRecord,
        responses=answers(200, "The task.", examples.TASK_RECORD, ProblemKind.NOT_KNOWN),
    )
    async def shown(task_id: TaskName) -> Response:
        """Return all that is known of a task but its result."""
        return answer(await desk.task(task_id))

    @app.get(
        f"{API}/tasks/{{task_id}}/result",
        tags=["tasks"],
        summary="Get what came of a task",
        response_model=TaskResult,
        responses=answers(
            200,
            "The result of its last try.",
            examples.TASK_RESULT,
            ProblemKind.NOT_KNOWN,
            ProblemKind.CONFLICT,
            ProblemKind.REQUEST_REFUSED,
        ),
    )
    async def result(request: Request, task_id: TaskName, query: Annotated[ResultQuery, Query()]) -> Response:
        """Return the result; a task that has not ended, and does not within `wait` seconds, gives status 409."""
        if query.wait:
            await wait_for(desk.wait([task_id], query.wait), request, closing)
        return answer(await desk.result(task_id))

    @app.post(
        f"{API}/tasks/{{task_id}}/cancel",
        tags=["tasks"],
        summary="Cancel a task",
        response_model=TaskSummary,
        responses=answers(
            200,
            "Ended, or its worker was told to end it.",
            examples.CANCELLED,
            *BODY_PROBLEMS,
            ProblemKind.NOT_KNOWN,
            ProblemKind.CONFLICT,
        ),
        openapi_extra=body(CancelOrder, examples.CANCEL_ORDER, required=False),
    )
    async def cancel(request: Request, task_id: TaskName) -> Response:
        """End a task: at once if no worker has it, else as soon as its worker does."""
        who = asker(request, Role.SUBMIT)
        return answer(await desk.cancel(task_id, who, await read_reason(request)))

    @app.post(
        f"{API}/tasks/{{task_id}}/retry",
        tags=["tasks"],
        summary="Try a task again",
        response_model=TaskSummary,
        responses=answers(200, "It is open again.", examples.RETRIED, ProblemKind.NOT_KNOWN, ProblemKind.CONFLICT),
    )
    async def retry(request: Request, task_id: TaskName) -> Response:
        """Try a task again that failed, ran out of time or was cancelled; what failed with it comes back too."""
        return answer(await desk.retry(task_id, asker(request, Role.SUBMIT)))

    @app.get(
        f"{API}/tasks/{{task_id}}/events",
        tags=["tasks", "events"],
        summary="Follow a task",
        response_class=Response,
        responses=answers(
            200,
            "Its events, oldest first.",
            examples.STREAM,
            ProblemKind.NOT_KNOWN,
            ProblemKind.REQUEST_REFUSED,
            media_type="text/event-stream",
        )
        | {204: {"description": "The client was here before, and nothing more will come."}},
        openapi_extra={"parameters": [LAST_EVENT_ID]},
    )
    async def events(request: Request, task_id: TaskName, query: Annotated[TaskEventsQuery, Query()]) -> Response:
        """Send what happened to a task and what its agent says and does, then live until it has ended."""
        after = position(request)
        return await streams.open(desk.task_events(task_id, after, follow=query.follow), resumed=after is not None)


async def read_reason(request: Request) -> str:
    """Return the reason that the body gives, which may be left out with all of the body.

    Raises:
        RequestRefused: the body is wrong.
    """
    if "content-type" in request.headers:
        content = await read_body(request)
        return parse(content, CancelOrder).reason if content else ""
    # Without a type a body is no mistake as long as it is empty, as `curl -X POST` sends it.
    return "" if not await read_bytes(request) else parse(await read_body(request), CancelOrder).reason
