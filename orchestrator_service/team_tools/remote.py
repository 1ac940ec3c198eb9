"""The desk behind the HTTP API, as far as the team's tools need it; for a process that is not the orchestrator."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Final, TypeVar

from agent_bus.messages import is_task_id
from agent_bus.questions import Decision
from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiAway, ApiPlace, ApiRefused, Call
from orchestrator_service.client.streams import ApiClient
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, NotKnown, OrchestratorError, Unavailable
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import QuestionRecord, Submission, TaskRecord, TaskResult, TaskSummary, WorkerRecord

T = TypeVar("T")

_NO_QUESTION: Final = f"q-{'0' * 16}"
_NOT_KNOWN: Final = 404
_KINDS: Final[dict[int, type[OrchestratorError]]] = {409: Conflict, 429: Unavailable, 503: Unavailable}


class RemoteDesk:
    """A `team_tools.TeamDesk` over HTTP; an async context manager. Who asks is whom the token stands for."""

    def __init__(self, place: ApiPlace) -> None:
        self._client = ApiClient(place)

    async def __aenter__(self) -> RemoteDesk:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def workers(self) -> list[WorkerRecord]:
        """Return all workers."""
        return await self._ask(api_calls.workers())

    async def submit(
        self, order: TaskOrder | GraphOrder, asker: Asker, idempotency: Idempotency | None = None
    ) -> Submission:
        """Hand in a task or a graph."""
        return await self._ask(
            api_calls.submit(order, key=uuid.uuid4().hex if idempotency is None else idempotency.key)
        )

    async def task(self, task_id: str) -> TaskRecord:
        """Return a task."""
        return await self._ask(api_calls.task(_checked(task_id)))

    async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
        """Return the tasks once all (or any) of them have ended, or as they are when the time is over."""
        return await self._ask(api_calls.wait(task_ids, timeout_s, any_of=any_of))

    async def result(self, task_id: str) -> TaskResult:
        """Return what came of a task."""
        return await self._ask(api_calls.result(_checked(task_id)))

    async def cancel(self, task_id: str, asker: Asker, reason: str = "") -> TaskSummary:
        """End a task."""
        return await self._ask(api_calls.cancel(_checked(task_id), reason))

    async def questions(
        self, *, state: str = "open", worker: str | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[QuestionRecord]:
        """Return the questions of agents."""
        return await self._ask(api_calls.questions(state, worker=worker, task_id=task_id, limit=limit))

    async def answer_question(
        self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
    ) -> QuestionRecord:
        """Answer one."""
        allow = decision is Decision.ALLOW
        return await self._ask(api_calls.answer_question(question_id, allow=allow, reason=reason))

    async def may_answer(self) -> bool:
        """Tell whether the token may answer: a question that nobody has asked is then not known, and not forbidden."""
        try:
            await self._client.ask(api_calls.answer_question(_NO_QUESTION, allow=False))
        except ApiRefused as refusal:
            return refusal.status == _NOT_KNOWN
        except ApiAway:
            return False
        return False

    async def _ask(self, call: Call[T]) -> T:
        try:
            try:
                return await self._client.ask(call)
            except ApiAway:
                # A connection that was kept open may be gone when it is used again, and an orchestrator that was
                # started anew may have another port; every question here may be asked twice.
                self._client.place = self._client.place.now()
                return await self._client.ask(call)
        except ApiAway as error:
            raise Unavailable(f"{error}. It may be tried again.") from error
        except ApiRefused as refusal:
            raise _KINDS.get(refusal.status, OrchestratorError)(str(refusal)) from refusal


def _checked(task_id: str) -> str:
    """Return the id. Raises NotKnown for what can be no id."""
    if not is_task_id(task_id):
        raise NotKnown("task", task_id)
    return task_id
