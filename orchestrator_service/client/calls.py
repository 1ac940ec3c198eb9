"""What can be asked of the HTTP API, each question as one record, and a caller that costs little to start.

The questions know nothing of how they are carried: `ask` here takes the standard library, which is there in a third
of the time that httpx takes; `streams.ApiClient` carries the same ones, and streams, for programs that go on.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError

from agent_bus.heartbeats import is_alive, read_heartbeat
from orchestrator_service.accounts import GateRecord, Usage
from orchestrator_service.errors import FieldProblem
from orchestrator_service.records import (
    Budget,
    GoalRecord,
    Invariant,
    QuestionRecord,
    ScheduleRecord,
    Submission,
    TaskPage,
    TaskRecord,
    TaskResult,
    TaskSummary,
    Told,
    WorkerRecord,
)

T = TypeVar("T")

PREFIX: Final = "/api/v1"
USUAL_TIMEOUT_S: Final = 30.0
_CONNECT_S: Final = 5.0
_LONGEST_SHOWN: Final = 3


class ApiError(Exception):
    """A question to the API without the answer that was hoped for; the text is one sentence for a person."""


class ApiAway(ApiError):
    """Nobody answers there, or somebody else does."""

    def __init__(self, sentence: str, *, sent: bool = False) -> None:
        super().__init__(sentence)
        self.sent = sent
        """Whether the question may have arrived: then it is not known whether it was carried out."""


class ApiRefused(ApiError):
    """The orchestrator said no, as a problem document tells."""

    def __init__(self, status: int, detail: str, problems: Sequence[FieldProblem] = ()) -> None:
        self.status, self.detail, self.problems = status, detail, tuple(problems)
        super().__init__(detail)

    @property
    def passes(self) -> bool:
        """Whether the same question may be answered later: it is busy, stopping, or lacks something just now."""
        return self.status in (429, 503)


def living_port(heartbeat: Path) -> int | None:
    """Return the port of the orchestrator whose heartbeat this is; None unless it lives, as far as can be seen."""
    beat = read_heartbeat(heartbeat)
    if beat is None or beat.component != "orchestrator" or not is_alive(beat):
        return None
    return beat.http_port or None


def local_url(port: int) -> str:
    """Return the URL of an API on this machine."""
    return f"http://127.0.0.1:{port}"


@dataclass(frozen=True, kw_only=True)
class ApiPlace:
    """Where an API is, and what opens it."""

    url: str
    """Such as `http://127.0.0.1:8700`, without a path behind it unless the API lies below one."""
    token: str | None = field(default=None, repr=False)
    source: str = "--api"
    """What named it, for sentences."""
    heartbeat: Path | None = None
    """The orchestrator's sign of life by which it was found; None where somebody named it."""

    @property
    def discovered(self) -> bool:
        """Whether nobody named it: then a command may do without it."""
        return self.heartbeat is not None

    def now(self) -> ApiPlace:
        """Return where it is now: an orchestrator that was started anew may have another port."""
        if self.heartbeat is None or (port := living_port(self.heartbeat)) is None:
            return self
        return replace(self, url=local_url(port))

    @property
    def headers(self) -> dict[str, str]:
        """What every question carries."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One question."""

    method: str
    path: str
    """Behind `/api/v1`."""
    read: Callable[[bytes], T]
    """Makes the answer of its body."""
    query: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = USUAL_TIMEOUT_S
    """How long the answer may take."""

    @property
    def target(self) -> str:
        """Path and query."""
        return PREFIX + self.path + (f"?{urlencode(self.query)}" if self.query else "")

    @property
    def all_headers(self) -> dict[str, str]:
        """What the question carries beside the token."""
        return {
            "Accept": "application/json",
            **({} if self.body is None else {"Content-Type": "application/json"}),
            **self.headers,
        }


def _of(kind: type[T] | Any) -> Callable[[bytes], T]:
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    return adapter.validate_json


def _get(path: str, kind: type[T] | Any, query: Sequence[tuple[str, str]] = ()) -> Call[T]:
    return Call(method="GET", path=path, read=_of(kind), query=query)


def _post(path: str, kind: type[T] | Any, content: object = None) -> Call[T]:
    return Call(method="POST", path=path, read=_of(kind), body=None if content is None else encode(content))


def encode(content: object) -> bytes:
    """Return an order as JSON: a record as far as it was filled in, anything else as it is."""
    if isinstance(content, BaseModel):
        return content.model_dump_json(exclude_unset=True).encode()
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def segment(name: str) -> str:
    """Return a name as part of a path."""
    return quote(name, safe="")


def submit(order: object, *, key: str) -> Call[Submission]:
    """Hand in a task or a graph.

    Args:
        order: An `orders.TaskOrder`, an `orders.GraphOrder`, or one of them as JSON would have it.
        key: Makes it safe to ask a second time.
    """
    return Call(
        method="POST", path="/tasks", read=_of(Submission), body=encode(order), headers={"Idempotency-Key": key}
    )


def tasks(query: Sequence[tuple[str, str]] = ()) -> Call[TaskPage]:
    """List tasks; the query as `GET /tasks` has it."""
    return _get("/tasks", TaskPage, query)


def task(task_id: str) -> Call[TaskRecord]:
    """Tell all of a task."""
    return _get(f"/tasks/{segment(task_id)}", TaskRecord)


def result(task_id: str, *, wait_s: float = 0.0) -> Call[TaskResult]:
    """Tell what came of a task, waiting up to a minute; refused with 409 while it has not ended."""
    query = [("wait", f"{wait_s:g}")] if wait_s else []
    path = f"/tasks/{segment(task_id)}/result"
    return Call(method="GET", path=path, read=_of(TaskResult), query=query, timeout_s=USUAL_TIMEOUT_S + wait_s)


def wait(task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> Call[list[TaskSummary]]:
    """Tell the tasks once all (or any) of them have ended, or as they are when the time is over (600 s at most)."""
    query = [*(("id", task_id) for task_id in task_ids), ("timeout", f"{timeout_s:g}"), ("any", str(any_of).lower())]
    return Call(
        method="GET",
        path="/tasks/wait",
        read=_of(list[TaskSummary]),
        query=query,
        timeout_s=USUAL_TIMEOUT_S + timeout_s,
    )


def cancel(task_id: str, reason: str = "") -> Call[TaskSummary]:
    """End a task."""
    return _post(f"/tasks/{segment(task_id)}/cancel", TaskSummary, {"reason": reason} if reason else {})


def retry(task_id: str) -> Call[TaskSummary]:
    """Try a task again."""
    return _post(f"/tasks/{segment(task_id)}/retry", TaskSummary)


def workers() -> Call[list[WorkerRecord]]:
    """List the workers."""
    return _get("/workers", list[WorkerRecord])


def pause(worker: str) -> Call[Told]:
    """Hold a worker's tasks back."""
    return _post(f"/workers/{segment(worker)}/pause", Told)


def resume(worker: str) -> Call[Told]:
    """End a pause."""
    return _post(f"/workers/{segment(worker)}/resume", Told)


def schedules() -> Call[list[ScheduleRecord]]:
    """List what recurs."""
    return _get("/schedules", list[ScheduleRecord])


def create_schedule(order: object) -> Call[ScheduleRecord]:
    """Make a task recur."""
    return _post("/schedules", ScheduleRecord, order)


def set_schedule_paused(name: str, paused: bool) -> Call[ScheduleRecord]:
    """Hold a schedule, or let it go on."""
    return _post(f"/schedules/{segment(name)}/{'pause' if paused else 'resume'}", ScheduleRecord)


def delete_schedule(name: str) -> Call[None]:
    """Forget a schedule."""
    return Call(method="DELETE", path=f"/schedules/{segment(name)}", read=lambda body: None)


def goals(limit: int = 50) -> Call[list[GoalRecord]]:
    """List the newest goals."""
    return _get("/goals", list[GoalRecord], [("limit", str(limit))])


def create_goal(order: object) -> Call[GoalRecord]:
    """Begin to work on a goal."""
    return _post("/goals", GoalRecord, order)


def goal(goal_id: str) -> Call[GoalRecord]:
    """Tell all of a goal."""
    return _get(f"/goals/{segment(goal_id)}", GoalRecord)


def cancel_goal(goal_id: str) -> Call[GoalRecord]:
    """End a goal and its tasks."""
    return _post(f"/goals/{segment(goal_id)}/cancel", GoalRecord)


def questions(
    state: str = "open", *, worker: str | None = None, task_id: str | None = None, limit: int = 100
) -> Call[list[QuestionRecord]]:
    """List the questions of agents, newest first; `state` is `open`, `answered` or `all`."""
    query = [("state", state), ("limit", str(limit))]
    query += [(name, value) for name, value in (("worker", worker), ("task", task_id)) if value is not None]
    return _get("/questions", list[QuestionRecord], query)


def question(question_id: str) -> Call[QuestionRecord]:
    """Tell all of a question."""
    return _get(f"/questions/{segment(question_id)}", QuestionRecord)


def answer_question(question_id: str, *, allow: bool, reason: str | None = None) -> Call[QuestionRecord]:
    """Answer a question; refused with 409 where another answer came first."""
    verb = "approve" if allow else "deny"
    return _post(f"/questions/{segment(question_id)}/{verb}", QuestionRecord, {"reason": reason} if reason else {})


def budget() -> Call[Budget]:
    """Tell what may be spent today and what is."""
    return _get("/budget", Budget)


def usage(query: Sequence[tuple[str, str]] = ()) -> Call[Usage]:
    """Tell cost and tokens; the query as `GET /usage` has it."""
    return _get("/usage", Usage, query)


def gates() -> Call[list[GateRecord]]:
    """Tell the gates that are closed."""
    return _get("/gates", list[GateRecord])


def open_gate(gate_id: str) -> Call[GateRecord]:
    """End the wait behind a gate."""
    return _post(f"/gates/{segment(gate_id)}/open", GateRecord)


def invariants() -> Call[list[Invariant]]:
    """Tell the rules and whether they hold."""
    return _get("/invariants", list[Invariant])


def counts() -> Call[dict[str, int]]:
    """Tell how many tasks there are in each state."""
    return _get("/counts", dict[str, int])


def ask(place: ApiPlace, call: Call[T]) -> T:
    """Ask, and return the answer.

    Raises:
        ApiAway: nobody answers there.
        ApiRefused: the orchestrator said no.
    """
    parts = urlsplit(place.url)
    host, sent = parts.hostname or "", False
    connection = (
        HTTPSConnection(host, parts.port, timeout=_CONNECT_S, context=ssl.create_default_context())
        if parts.scheme == "https"
        else HTTPConnection(host, parts.port, timeout=_CONNECT_S)
    )
    try:
        connection.connect()
        connection.sock.settimeout(call.timeout_s)
        sent = True
        headers = {**place.headers, **call.all_headers}
        connection.request(call.method, parts.path.rstrip("/") + call.target, call.body, headers)
        response = connection.getresponse()
        status, kind, body = response.status, response.headers.get("Content-Type", ""), response.read()
    except (OSError, HTTPException) as error:
        raise away(place, error, sent=sent) from None
    finally:
        connection.close()
    return understand(place, call, status, kind, body)


def away(place: ApiPlace, error: Exception, *, sent: bool) -> ApiAway:
    """Return the error that says that nobody answers."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ApiAway(f"The API at {place.url} does not answer: {reason} ({place.source} names it)", sent=sent)


def understand(place: ApiPlace, call: Call[T], status: int, kind: str, body: bytes) -> T:
    """Return what an answer says.

    Raises:
        ApiAway: it is no answer of an orchestrator.
        ApiRefused: it is a problem document.
    """
    if 200 <= status < 300:
        try:
            return call.read(body)
        except ValidationError:
            raise ApiAway(
                f"What answers at {place.url} is no orchestrator that this version understands ({place.source} names "
                "it)",
                sent=True,
            ) from None
    refuse(place, status, kind, body)


def refuse(place: ApiPlace, status: int, kind: str, body: bytes) -> NoReturn:
    """Raise what a status other than 2xx says: ApiRefused for a problem document, else ApiAway."""
    if "problem+json" not in kind:
        raise ApiAway(
            f"What answers at {place.url} is no orchestrator: status {status} without a reason ({place.source} names "
            "it)",
            sent=status >= 500,
        )
    try:
        document = json.loads(body)
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    detail = str(document.get("detail") or document.get("title") or f"status {status}").rstrip(".")
    listed = document.get("errors")
    problems = [
        FieldProblem(str(each.get("field", "")), each.get("value"), str(each.get("message", "")))
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict)
    ]
    raise ApiRefused(status, _with_fields(_with_mend(status, detail), problems), problems)


def _with_mend(status: int, detail: str) -> str:
    if status in (401, 403):
        return f"{detail}; give a token with --token-file, API_TOKEN or API_TOKEN_FILE"
    return detail


def _with_fields(detail: str, problems: Sequence[FieldProblem]) -> str:
    told = [f"{each.field}: {each.message}" if each.field else each.message for each in problems[:_LONGEST_SHOWN]]
    told = [text.rstrip(".") for text in told if text.rstrip(".") not in detail]
    more = len(problems) - _LONGEST_SHOWN
    return "; ".join((detail, *told, *([f"and {more} more"] if more > 0 else [])))
