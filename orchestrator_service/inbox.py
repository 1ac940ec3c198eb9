"""The inbox: questions of agents to people, as the ledger has them, and the answers on their way back."""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import anyio

from agent_bus.questions import Answer, AnswerFate, Decision, Question, QuestionState, late_sentence
from orchestrator_service.core import Core
from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, LedgerUnavailable, NotKnown, Unavailable
from orchestrator_service.ledger import questions as rows
from orchestrator_service.records import QuestionRecord
from orchestrator_service.scheduling.step import Step
from orchestrator_service.transports.base import Transport

_LEDGER_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_MOST_REMEMBERED: Final = 10_000
_GRACE_S: Final = 60.0
"""So long after its end a question may still be on its way here from its worker."""


class Inbox:
    """Hears of questions, lists them, and carries answers to the workers that wait for them."""

    def __init__(self, core: Core, transports: Mapping[str, Transport]) -> None:
        self._core = core
        self._transports = transports
        self._heard: list[tuple[str, Question]] = []
        self._told: OrderedDict[str, QuestionState] = OrderedDict()
        """What was written down lately, so that what a rescan tells again costs nothing."""
        self._writing = False
        self.open = 0
        """How many wait for an answer, as far as the ledger knew when it was last looked at."""
        self._oldest: float | None = None

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest of them has waited, in seconds; 0 where none waits."""
        return 0.0 if self._oldest is None else max(0.0, time.time() - self._oldest)

    # -- what is heard

    def hear(self, transport: str, question: Question) -> None:
        """Write a question, or its end, down soon; what is known already changes nothing."""
        if self._told.get(question.question_id) in (question.state, *_ENDS):
            return
        self._heard.append((transport, question))
        if not self._writing:
            self._writing = True
            self._core.spawn(self._write(), "write questions")

    async def _write(self) -> None:
        failures = 0
        try:
            while self._heard:
                heard = list(self._heard)
                try:
                    await self._core.change(partial(_write_down, heard=heard))
                except LedgerUnavailable:
                    await anyio.sleep(_LEDGER_RETRY_S[min(failures, len(_LEDGER_RETRY_S) - 1)])
                    failures += 1
                    continue
                failures = 0
                del self._heard[: len(heard)]
                for _, question in heard:
                    self._remember(question.question_id, question.state)
                await self.count()
        finally:
            self._writing = False

    def _remember(self, question_id: str, state: QuestionState) -> None:
        self._told[question_id] = state
        self._told.move_to_end(question_id)
        while len(self._told) > _MOST_REMEMBERED:
            self._told.popitem(last=False)

    async def count(self) -> int:
        """Return how many questions are open. Raises LedgerUnavailable."""
        self.open, self._oldest = await self._core.database.read(rows.count_open)
        return self.open

    async def sweep(self) -> None:
        """Withdraw the questions that nothing waits for any more and whose worker could not say so."""

        def change(step: Step) -> None:
            for question_id, task_id, worker, why in rows.forsaken(step.connection, expired_before=step.now - _GRACE_S):
                _close(step, question_id, QuestionState.WITHDRAWN, task_id=task_id, worker=worker, reason=why)

        with suppress(LedgerUnavailable):
            if await self.count():
                await self._core.change(change)
                await self.count()

    # -- what is asked

    async def list(
        self, *, state: str = "open", worker: str | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[QuestionRecord]:
        """See `desk.Desk.questions`."""
        found = await self._core.database.read(
            lambda connection: rows.find_all(connection, state=state, worker=worker, task_id=task_id, limit=limit)
        )
        return [self._as_it_is_now(*one) for one in found]

    async def get(self, question_id: str) -> QuestionRecord:
        """See `desk.Desk.question`."""
        found, transport = await self._core.database.read(lambda connection: rows.find(connection, question_id))
        return self._as_it_is_now(found, transport)

    def _as_it_is_now(self, question: QuestionRecord, name: str) -> QuestionRecord:
        transport = self._transports.get(name)
        away = None if transport is None else transport.away()
        if away is None or question.state is not QuestionState.OPEN:
            return question
        told = f"It cannot be answered now ({away}); it stays open, and its time goes on."
        return question.model_copy(update={"unreachable": told})

    async def answer(
        self, question_id: str, decision: Decision, asker: Asker, reason: str | None = None
    ) -> QuestionRecord:
        """See `desk.Desk.answer_question`."""
        held = await self._core.database.read(lambda connection: rows.held(connection, question_id))
        if held.state is not QuestionState.OPEN:
            raise Conflict(await self._why_late(question_id))
        if held.task_has_ended:
            raise Conflict(f"Question {question_id} takes no answer any more: its task has ended.")
        transport = self._transports.get(held.transport)
        if transport is None:
            raise Unavailable(f"The worker {held.worker} is reached by {held.transport}, which is not set up here.")
        answer = Answer(decision=decision, reason=reason, by=asker.name)
        match await transport.answer(held.worker, question_id, answer):
            case AnswerFate.TOO_LATE:
                raise Conflict(await self._why_late(question_id))
            case AnswerFate.UNREACHABLE:
                raise Unavailable(
                    f"The worker {held.worker} cannot be reached now; look at question {question_id} again, and answer "
                    "it if it is open still."
                )

        def change(step: Step) -> None:
            task_id, goal_id = rows.task_of(step.connection, _wire_id(step.connection, question_id))
            _close(
                step,
                question_id,
                QuestionState.ALLOWED if decision is Decision.ALLOW else QuestionState.DENIED,
                task_id=task_id,
                goal_id=goal_id,
                worker=held.worker,
                decision=decision.value,
                by=asker.name,
                reason=reason,
            )

        # The worker acts on it by now: a ledger that cannot be written learns of it from the worker, later.
        with suppress(LedgerUnavailable):
            await self._core.change(change)
            await self.count()
        return await self.get(question_id)

    async def _why_late(self, question_id: str) -> str:
        found = await self.get(question_id)
        return late_sentence(Question.model_construct(**{**dict(found), "instance": ""}))


_ENDS: Final = tuple(state for state in QuestionState if state is not QuestionState.OPEN)


def _wire_id(connection: sqlite3.Connection, question_id: str) -> str:
    row = connection.execute("SELECT wire_id FROM questions WHERE question_id = ?", (question_id,)).fetchone()
    if row is None:
        raise NotKnown("question", question_id)
    return str(row[0])


def _write_down(step: Step, heard: list[tuple[str, Question]]) -> None:
    for transport, question in heard:
        task_id, goal_id = rows.task_of(step.connection, question.task_id)
        if rows.state_of(step.connection, question.question_id) is None:
            rows.insert(step.connection, question, task_id=task_id, transport=transport)
            data = {
                "question_id": question.question_id,
                "tool": question.tool,
                "input": question.input,
                "summary": question.summary,
                "reason": question.asked_because,
                "expires_at": question.expires_at,
                "policy": question.policy.value,
            }
            step.happened("permission_asked", data, task_id=task_id, worker=question.worker, goal_id=goal_id)
        if not question.is_open:
            _close(
                step,
                question.question_id,
                question.state,
                task_id=task_id,
                goal_id=goal_id,
                worker=question.worker,
                decision=None if question.decision is None else question.decision.value,
                by=question.answered_by,
                reason=question.reason,
                at=None if question.answered_at is None else question.answered_at.timestamp(),
            )


def _close(
    step: Step,
    question_id: str,
    state: QuestionState,
    *,
    task_id: str,
    worker: str,
    goal_id: str | None = None,
    decision: str | None = None,
    by: str | None = None,
    reason: str | None = None,
    at: float | None = None,
) -> None:
    closed = rows.close(
        step.connection, question_id, state, decision=decision, by=by, reason=reason, at=step.now if at is None else at
    )
    if not closed:
        return
    if state is QuestionState.WITHDRAWN:
        event, data = "permission_withdrawn", {"question_id": question_id, "why": reason}
    else:
        event = "permission_answered"
        data = {"question_id": question_id, "decision": decision, "by": by, "reason": reason}
    step.happened(event, data, task_id=task_id, worker=worker, goal_id=goal_id)
