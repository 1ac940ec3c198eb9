"""Asking people: a question is put, waited for, and comes to its end in one of four ways, each exactly once."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import anyio

from agent_bus.errors import BusError, QueueUnavailable
from agent_bus.messages import OnQuestion, utc_now
from agent_bus.questions import (
    Answer,
    AnswerFate,
    Decision,
    Question,
    QuestionState,
    shown_input,
    summarize,
)
from worker_service.agents.base import Run, StopCause, Verdict, Wish
from worker_service.metrics import Metrics
from worker_service.questions.forsaken import A_FILE, NOBODY, Forsaken
from worker_service.questions.places import QuestionPlace
from worker_service.task_clock import TaskClock

log = logging.getLogger(__name__)

_LONGEST_WAIT_S: Final = 30 * 86_400.0
"""What a task may last at most: nobody waits for longer, whatever the policy."""
_CLOSE_S: Final = 5.0
_WRITE_AGAIN_S: Final = 0.5
_WHY: Final = {
    StopCause.CANCEL: "the task was cancelled",
    StopCause.TIMEOUT: "the task's time was over",
    StopCause.SHUTDOWN: "its worker was stopped",
    StopCause.STUCK: "the task was stuck",
}


@dataclass(frozen=True, kw_only=True)
class AskingSettings:
    """What holds for tasks that say nothing else."""

    worker: str
    instance: str
    policy: OnQuestion = OnQuestion.DENY
    timeout_s: float = 300.0


@dataclass(slots=True)
class _Open:
    question: Question
    run: Run
    news: asyncio.Event = field(default_factory=asyncio.Event)
    abandoned: bool = False
    """Whether its run is over, however that came about."""
    given: Answer | None = None
    """What a person said to the same call before, to a process that died before it heard."""


class Asking:
    """Puts the questions of one worker's agents and waits for the answers."""

    def __init__(
        self,
        settings: AskingSettings,
        place: QuestionPlace,
        metrics: Metrics,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Use a place; `on_change` is called whenever the number of open questions has changed."""
        self._settings = settings
        self._place = place
        self._metrics = metrics
        self.on_change = on_change
        self._open: dict[str, _Open] = {}
        self.forsaken = Forsaken(place, metrics, worker=settings.worker)
        """What others left."""
        self._unwritten: dict[str, Question] = {}
        """Ends that the place did not take, by question."""
        self._unwritten_came = asyncio.Event()

    @property
    def open(self) -> int:
        """How many questions wait for a person."""
        return len(self._open)

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest open question has waited, in seconds; 0 where none is open."""
        now = utc_now()
        return max((_age_s(each.question, now) for each in self._open.values()), default=0.0)

    @property
    def time_used(self) -> float:
        """How much of its time the question nearest to its policy's decision has used, 0 to 1."""
        now = utc_now()
        used = (
            _age_s(question, now) / max(0.001, (question.expires_at - question.asked_at).total_seconds())
            for question in (each.question for each in self._open.values())
            if question.expires_at is not None
        )
        return min(1.0, max(used, default=0.0))

    def look(self) -> None:
        """Look for answers now: somebody says that there may be some."""
        for each in self._open.values():
            each.news.set()

    def abandon(self, run: Run) -> None:
        """Withdraw what is still asked for a run that is over."""
        for each in self._open.values():
            if each.run is run:
                each.abandoned = True
                each.news.set()
        self.forsaken.drop(run.task.task_id)

    # -- one question

    async def ask(self, run: Run, clock: TaskClock, wish: Wish) -> Verdict:
        """Put a question and return what came of it. The run's clock stands still meanwhile; never raises."""
        each = _Open(self._make(run, wish), run)
        question = each.question
        each.given = self.forsaken.given(question.task_id, wish.tool, wish.input)
        began = time.monotonic()
        # It counts as open before anybody can see it: its run may end while it is being put there.
        self._register(each)
        told = False
        ended: Question | None = None
        try:
            try:
                await self._place.put(question)
            except QueueUnavailable as error:
                # It waits here, and is put there as soon as that can be done.
                log.warning("nobody can see a question yet: %s", error, extra={"action": "question_unwritten"})
            except BusError as error:
                log.error("no person can be asked: %s", error, extra={"action": "question_lost"})
                self._unregister(question)
                return Verdict(False, f"Permission to use {wish.tool} was denied: no person could be asked ({error}).")
            self._tell(each)
            told = True
            with clock.stopped():
                ended = await self._until_decided(each, began)
        finally:
            if ended is None and question.question_id in self._open:
                # Cancelled: the agent has given up the call, or its run is at its end.
                if not told:
                    self._tell(each)
                with anyio.CancelScope(shield=True):
                    ended = await self._withdraw(each)
            self._metrics.question_wait.observe(time.monotonic() - began)
        return self._verdict(ended, wish)

    def _make(self, run: Run, wish: Wish) -> Question:
        policy = run.task.on_question or self._settings.policy
        timeout_s = run.task.question_timeout or self._settings.timeout_s
        now = utc_now()
        return Question(
            question_id=f"q-{os.urandom(8).hex()}",
            task_id=run.task.task_id,
            worker=self._settings.worker,
            instance=self._settings.instance,
            tool=wish.tool,
            input=shown_input(wish.input),
            summary=summarize(wish.tool, wish.input),
            asked_because=wish.because,
            asked_at=now,
            expires_at=None if policy is OnQuestion.WAIT else now + timedelta(seconds=timeout_s),
            policy=policy,
        )

    def _register(self, each: _Open) -> None:
        if not self._open:
            self._place.listen(self.look)
        self._open[each.question.question_id] = each

    def _unregister(self, question: Question) -> None:
        self._open.pop(question.question_id, None)
        if not self._open:
            self._place.unlisten()

    def _tell(self, each: _Open) -> None:
        question = each.question
        each.run.emit(
            "permission_asked",
            {
                "question_id": question.question_id,
                "tool": question.tool,
                "input": question.input,
                "summary": question.summary,
                "reason": question.asked_because,
                "expires_at": None if question.expires_at is None else question.expires_at.isoformat(),
                "policy": question.policy.value,
            },
        )
        self._metrics.questions.inc()
        log.info(
            "task %s asks: %s",
            question.task_id,
            question.summary,
            extra={"action": "question_asked", "task_id": question.task_id, "question_id": question.question_id},
        )
        self.on_change()

    async def _until_decided(self, each: _Open, began: float) -> Question:
        question = each.question
        wait_s = _LONGEST_WAIT_S
        if question.expires_at is not None:
            wait_s = (question.expires_at - question.asked_at).total_seconds()
        end = began + wait_s
        if each.given is not None:
            with suppress(BusError):
                await self._place.answer(question.question_id, each.given)
            return await self._answered(each, each.given)
        while True:
            each.news.clear()
            if each.abandoned:
                return await self._withdraw(each)
            with suppress(BusError):
                if (answer := await self._place.answer_of(question.question_id)) is not None:
                    return await self._answered(each, answer)
                if await self._place.renew(question):
                    log.info(
                        "a question of task %s was lost and is put again",
                        question.task_id,
                        extra={"action": "question_renewed", "question_id": question.question_id},
                    )
                    # A heartbeat tells of open questions, whoever listens.
                    self.on_change()
            left = end - time.monotonic()
            if left <= 0:
                return await self._expired(each)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._place.look_s)):
                    await each.news.wait()

    async def _answered(self, each: _Open, answer: Answer) -> Question:
        state = QuestionState.ALLOWED if answer.decision is Decision.ALLOW else QuestionState.DENIED
        return await self._end(each, state, answer.decision, answer.by or A_FILE, answer.reason)

    async def _expired(self, each: _Open) -> Question:
        question = each.question
        reason = f"nobody answered within {self._waited_s(question):g} s"
        with suppress(BusError):
            fate = await self._place.answer(
                question.question_id, Answer(decision=Decision.DENY, by=NOBODY, reason=reason)
            )
            if fate is AnswerFate.TOO_LATE:
                # Somebody was faster, by a hair: theirs counts.
                answer = await self._place.answer_of(question.question_id)
                if answer is not None and answer.by != NOBODY:
                    return await self._answered(each, answer)
        return await self._end(each, QuestionState.EXPIRED, Decision.DENY, NOBODY, reason)

    def _waited_s(self, question: Question) -> float:
        return (question.expires_at or utc_now()).timestamp() - question.asked_at.timestamp()

    async def _withdraw(self, each: _Open) -> Question:
        cause = each.run.stop_cause
        why = "the agent waits for it no more" if cause is None else _WHY[cause]
        with anyio.move_on_after(_CLOSE_S), suppress(BusError):
            # From here on an answer is told that it is late.
            await self._place.answer(each.question.question_id, Answer(decision=Decision.DENY, by=NOBODY, reason=why))
        return await self._end(each, QuestionState.WITHDRAWN, None, None, why)

    async def _end(
        self, each: _Open, state: QuestionState, decision: Decision | None, by: str | None, reason: str | None
    ) -> Question:
        question = each.question.model_copy(
            update={
                "state": state,
                "decision": decision,
                "answered_by": by,
                "answered_at": utc_now(),
                "reason": reason,
            }
        )
        self._unregister(question)
        written = False
        with anyio.move_on_after(_CLOSE_S):
            try:
                await self._place.put(question)
                written = True
            except BusError as error:
                log.warning("the end of a question is not written: %s", error, extra={"action": "question_unwritten"})
        if not written:
            self._unwritten[question.question_id] = question
            self._unwritten_came.set()
        if state is QuestionState.WITHDRAWN:
            each.run.emit("permission_withdrawn", {"question_id": question.question_id, "why": reason})
        else:
            told = {"question_id": question.question_id, "decision": decision, "by": by, "reason": reason}
            each.run.emit("permission_answered", told)
        self._metrics.question_ends.labels(self._settings.worker, state.value).inc()
        log.info(
            "question of task %s %s by %s",
            question.task_id,
            state.value,
            by,
            extra={"action": "question_ended", "task_id": question.task_id, "question_id": question.question_id},
        )
        self.on_change()
        return question

    def _verdict(self, question: Question, wish: Wish) -> Verdict:
        reason = question.reason
        match question.state:
            case QuestionState.ALLOWED:
                return Verdict(True, reason or "")
            case QuestionState.DENIED:
                said = f": {reason}" if reason else ", without a reason"
                return Verdict(False, f"{question.answered_by} denied the permission to use {wish.tool}{said}")
            case QuestionState.EXPIRED if question.policy is OnQuestion.FAIL:
                message = (
                    f"Claude asked for permission to use {wish.tool} ({question.summary}), and {reason}; the task's "
                    "on_question is fail."
                )
                return Verdict(False, message, ends_task=True)
            case QuestionState.EXPIRED:
                return Verdict(
                    False,
                    f"Permission to use {wish.tool} was denied: {reason}. Do what can be done without it, and say "
                    "what is left.",
                )
            case _:
                return Verdict(False, f"Permission to use {wish.tool} was denied: {reason}.")

    async def write_ends_forever(self) -> None:
        """Write the ends that the place did not take when they came; until then the rows look open."""
        while True:
            await self._unwritten_came.wait()
            self._unwritten_came.clear()
            while self._unwritten:
                await anyio.sleep(_WRITE_AGAIN_S)
                for question_id, question in list(self._unwritten.items()):
                    with suppress(BusError):
                        decision = question.decision or Decision.DENY
                        by = question.answered_by or NOBODY
                        await self._place.answer(question_id, Answer(decision=decision, by=by, reason=question.reason))
                        await self._place.put(question)
                        del self._unwritten[question_id]


def _age_s(question: Question, now: datetime) -> float:
    return max(0.0, (now - question.asked_at).total_seconds())
