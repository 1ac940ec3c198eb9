"""The desk behind the HTTP API, as far as the team's tools need it; for a process that is not the orchestrator."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from agent_bus.messages import is_task_id
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, NotKnown, OrchestratorError, Unavailable
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import Submission, TaskRecord, TaskResult, TaskSummary, WorkerRecord

T = TypeVar("T")

_PREFIX: Final = "/api/v1"
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 30.0
_TRIES: Final = 2
"""A connection that was kept open may be gone when it is used again; every request here may be sent twice."""

_WORKERS: Final = TypeAdapter(list[WorkerRecord])
_SUMMARIES: Final = TypeAdapter(list[TaskSummary])


class RemoteDesk:
    """A `team_tools.TeamDesk` over HTTP; an async context manager. Who asks is whom the token stands for."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            # A proxy in the environment is for the web, not for the machine itself.
            trust_env=False,
        )

    async def __aenter__(self) -> RemoteDesk:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def workers(self) -> list[WorkerRecord]:
        """Return all workers."""
        return await self._ask(_WORKERS, "GET", "/workers")

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """Hand in a task or a graph."""
        key = uuid.uuid4().hex if idempotency is None else idempotency.key
        body = order.model_dump_json(exclude_unset=True).encode()
        return await self._ask(
            TypeAdapter(Submission), "POST", "/tasks", content=body, headers={"Idempotency-Key": key}
        )

    async def task(self, task_id: str) -> TaskRecord:
        """Return a task."""
        return await self._ask(TypeAdapter(TaskRecord), "GET", f"/tasks/{_segment(task_id)}")

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        """Return the tasks once all (or any) of them have ended, or as they are when the time is over."""
        query = [*(("id", task_id) for task_id in task_ids), ("timeout", f"{timeout_s:g}")]
        query.append(("any", "true" if any_of else "false"))
        timeout = httpx.Timeout(_ANSWER_S + timeout_s, connect=_CONNECT_S)
        return await self._ask(_SUMMARIES, "GET", "/tasks/wait", params=query, timeout=timeout)

    async def result(self, task_id: str) -> TaskResult:
        """Return what came of a task."""
        return await self._ask(TypeAdapter(TaskResult), "GET", f"/tasks/{_segment(task_id)}/result")

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        """End a task."""
        path = f"/tasks/{_segment(task_id)}/cancel"
        body = json.dumps({"reason": reason} if reason else {}).encode()
        return await self._ask(TypeAdapter(TaskSummary), "POST", path, content=body)

    async def _ask(self, shape: TypeAdapter[T], method: str, path: str, **given: Any) -> T:
        headers = {"Accept": "application/json", **given.pop("headers", {})}
        if "content" in given:
            headers["Content-Type"] = "application/json"
        answer = await self._send(method, _PREFIX + path, headers=headers, **given)
        if answer.status_code >= 400:
            raise _refusal(answer)
        try:
            return shape.validate_json(answer.content)
        except ValidationError as error:
            raise Unavailable(
                f"What answers at {self._url} is no orchestrator that this version understands."
            ) from error

    async def _send(self, method: str, path: str, **given: Any) -> httpx.Response:
        for tries_left in reversed(range(_TRIES)):
            try:
                return await self._http.request(method, path, **given)
            except httpx.HTTPError as error:
                if not tries_left:
                    reason = str(error) or type(error).__name__
                    raise Unavailable(
                        f"The orchestrator at {self._url} does not answer: {reason}. It may be tried again."
                    ) from error
        raise AssertionError("unreachable")


def _refusal(answer: httpx.Response) -> OrchestratorError:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return Unavailable(f"The orchestrator answered with status {answer.status_code} and no reason.")
    detail = str(problem.get("detail") or problem.get("title") or f"status {answer.status_code}")
    for each in problem.get("errors") or []:
        told = f"{each.get('field')}: {each.get('message')}" if each.get("field") else str(each.get("message"))
        if str(each.get("message")).rstrip(".") not in detail:
            detail = f"{detail.rstrip('.')}; {told}"
    kinds: dict[int, type[OrchestratorError]] = {409: Conflict, 503: Unavailable}
    return kinds.get(answer.status_code, OrchestratorError)(detail)


def _segment(task_id: str) -> str:
    """Return an id as part of a path. Raises NotKnown for what can be no id, and would be another path."""
    if not is_task_id(task_id):
        raise NotKnown("task", task_id)
    return quote(task_id, safe="")
