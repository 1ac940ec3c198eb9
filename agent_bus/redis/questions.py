"""Questions over Redis: the equal of `questions/NAME/` for workers that have no shared directory.

A question is a key, its answer another one that can be set once (`SET NX`), and both expire. A worker that waits is
woken by the command `wake` on its control channel, and looks from time to time all the same.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

from pydantic import ValidationError

from agent_bus.commands import Command, CommandName
from agent_bus.errors import BusError
from agent_bus.questions import (
    Answer,
    AnswerFate,
    Question,
    encode_question,
    fate_without_answer,
    is_question_id,
    read_question,
)
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.keys import QUESTION_TTL_S, QUESTIONS, WorkerKeys, question_key

_PAGE: Final = 200


class BadRedisAnswer(BusError):
    """What lies in the place of an answer is none; the text is one sentence."""


class RedisQuestions:
    """Questions of any worker; every method raises `QueueUnavailable` while Redis cannot be used."""

    def __init__(self, caller: RedisCaller) -> None:
        self._caller = caller

    async def put(self, question: Question) -> None:
        """Write a question, or what has become of it."""
        name = f"{question.worker}/{question.question_id}"
        key = question_key(question.worker, question.question_id)
        await self._caller.command("SET", key, encode_question(question), "EX", QUESTION_TTL_S)
        await self._caller.command("ZADD", QUESTIONS, question.asked_at.timestamp(), name)
        await self._caller.command("ZREMRANGEBYSCORE", QUESTIONS, "-inf", time.time() - QUESTION_TTL_S)
        await self._caller.command("EXPIRE", QUESTIONS, QUESTION_TTL_S)

    async def answer_of(self, worker: str, question_id: str) -> Answer | None:
        """Return the answer that was given, or None while there is none.

        Raises:
            BadRedisAnswer: what is there is none.
        """
        body = await self._caller.command("GET", question_key(worker, question_id, answer=True))
        if body is None:
            return None
        try:
            return Answer.model_validate_json(body)
        except ValidationError as error:
            raise BadRedisAnswer(error.errors(include_url=False, include_input=False)[0]["msg"]) from None

    async def drop_answer(self, worker: str, question_id: str) -> None:
        """Take away what lies in the answer's place, so that a good one can come."""
        await self._caller.command("DEL", question_key(worker, question_id, answer=True))

    async def answer(self, worker: str, question_id: str, answer: Answer) -> AnswerFate:
        """Give an answer, and wake the worker; the first one counts."""
        if (fate := fate_without_answer(await self.read(worker, question_id))) is not None:
            return fate
        key = question_key(worker, question_id, answer=True)
        body = answer.model_dump_json(exclude_none=True).encode()
        if not await self._caller.command("SET", key, body, "NX", "EX", QUESTION_TTL_S):
            return AnswerFate.TOO_LATE
        await self._caller.command("PUBLISH", WorkerKeys(worker).control, Command(name=CommandName.WAKE).encode())
        return AnswerFate.COUNTS

    async def renew(self, question: Question) -> bool:
        """Write an open question again if Redis has lost it; returns whether it had."""
        if await self._caller.command("EXISTS", question_key(question.worker, question.question_id)):
            return False
        await self.put(question)
        return True

    async def read(self, worker: str, question_id: str) -> Question | None:
        """Return a question, or None when there is none or it cannot be understood."""
        return read_question(await self._caller.command("GET", question_key(worker, question_id)), question_id)

    async def all(self) -> AsyncIterator[Question]:
        """Yield every question that is there, the newest first."""
        start = 0
        while names := await self._caller.command("ZREVRANGE", QUESTIONS, start, start + _PAGE - 1):
            start += len(names)
            for name in names:
                worker, _, question_id = name.decode("utf-8", "replace").partition("/")
                if is_question_id(question_id) and (question := await self.read(worker, question_id)) is not None:
                    yield question
