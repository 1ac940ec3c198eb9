"""What dead instances left open: their questions are withdrawn, and answers that nobody heard are kept for the next."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from agent_bus.errors import BusError
from agent_bus.messages import utc_now
from agent_bus.questions import Answer, AnswerFate, Decision, Question, QuestionState
from worker_service.metrics import Metrics
from worker_service.questions.places import QuestionPlace

log = logging.getLogger(__name__)

NOBODY: Final = "nobody"
"""Who answered where it was the policy, or the end of whoever asked."""
A_FILE: Final = "somebody"
"""Who answered where the answer does not say."""
_TIDY_S: Final = 600.0
_TIDY_AGAIN_S: Final = 2.0
_LONGEST_AGAIN_S: Final = 30.0
"""What could not be done is tried again after so long: at first, and when the place has been away for a while."""


class Forsaken:
    """Withdraws the questions of one worker that whoever asked them waits for no more."""

    def __init__(self, place: QuestionPlace, metrics: Metrics, *, worker: str) -> None:
        self._place = place
        self._metrics = metrics
        self._worker = worker
        self._given: dict[tuple[str, str, str], Answer] = {}
        """Answers to calls whose process died before it heard them, by task, tool and input."""
        self._kept_from: set[str] = set()
        """Questions whose answers were kept: each holds once, though two may come upon its question."""
        self._wanted = asyncio.Event()

    def given(self, task_id: str, tool: str, tool_input: dict[str, Any]) -> Answer | None:
        """Take, once, what a person said to the same call, to a process that died before it heard."""
        return self._given.pop(_call(task_id, tool, tool_input), None)

    def drop(self, task_id: str) -> None:
        """Forget the answers to a task whose run is over."""
        for call in [call for call in self._given if call[0] == task_id]:
            del self._given[call]

    async def withdraw_of_task(self, task_id: str) -> None:
        """Withdraw the open questions of a task that is begun anew: whoever asked them is gone."""
        try:
            await self._withdraw(await self._place.of_task(task_id))
        except BusError:
            self._wanted.set()

    async def tidy_forever(self) -> None:
        """Withdraw at the start, and from time to time, what dead instances left open; forget what is old."""
        again_s = _TIDY_AGAIN_S
        while True:
            self._wanted.clear()
            if await self.withdraw_all():
                again_s = _TIDY_AGAIN_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TIDY_S):
                        await self._wanted.wait()
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _LONGEST_AGAIN_S)

    async def withdraw_all(self) -> bool:
        """Withdraw the open questions of instances that are dead, and remove what ended long ago.

        Returns False when the place could not be used, so that some may still be open.
        """
        try:
            await self._withdraw(await self._place.forsaken())
            await self._place.prune()
        except BusError as error:
            log.info("questions cannot be tidied now: %s", error, extra={"action": "questions_untidied"})
            return False
        return True

    async def _withdraw(self, questions: Sequence[Question]) -> None:
        for question in questions:
            why = "the worker that asked has ended"
            nobody = Answer(decision=Decision.DENY, by=NOBODY, reason=why)
            if await self._place.answer(question.question_id, nobody) is AnswerFate.TOO_LATE:
                given = await self._place.answer_of(question.question_id)
                if given is not None and given.by != NOBODY:
                    why = f"{why}; {given.by or A_FILE}'s answer holds if it asks for the same again"
                    self._keep(question, given)
            ended = {"state": QuestionState.WITHDRAWN, "answered_at": utc_now(), "reason": why}
            await self._place.put(question.model_copy(update=ended))
            self._metrics.question_ends.labels(self._worker, QuestionState.WITHDRAWN.value).inc()
            log.info(
                "a question of task %s is withdrawn: %s",
                question.task_id,
                why,
                extra={"action": "question_ended", "task_id": question.task_id, "question_id": question.question_id},
            )

    def _keep(self, question: Question, given: Answer) -> None:
        if question.question_id not in self._kept_from:
            self._kept_from.add(question.question_id)
            self._given[_call(question.task_id, question.tool, question.input)] = given


def _call(task_id: str, tool: str, tool_input: dict[str, Any]) -> tuple[str, str, str]:
    """Return what makes one call the same as another; one whose input was shown shortened is like no other."""
    return task_id, tool, json.dumps(tool_input, sort_keys=True, default=str)
