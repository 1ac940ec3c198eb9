"""Where the questions of one worker lie: in the shared directory or, without one, in Redis."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread
from asyncinotify import Inotify, Mask

from agent_bus.errors import BusError
from agent_bus.layout import WorkerLayout
from agent_bus.ownership import is_alive
from agent_bus.question_files import BadAnswer, QuestionFiles
from agent_bus.questions import Answer, AnswerFate, Question
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.keys import WorkerKeys
from agent_bus.redis.questions import BadRedisAnswer, RedisQuestions

log = logging.getLogger(__name__)

_SETTLE_S: Final = 2.0
"""An answer that is written in place is half there for a moment."""
_LOOK_S: Final = 1.0
_BLIND_LOOK_S: Final = 0.25
_EVENTS_A_TURN: Final = 64


class NoPlace(BusError):
    """Questions cannot be put now; the text is one sentence."""


class QuestionPlace(Protocol):
    """The one interface to both."""

    look_s: float
    """How often to look for an answer, whatever is told, while a question is open."""

    async def put(self, question: Question) -> None:
        """Write a question, or what has become of it.

        Raises:
            NoPlace: it cannot be written.
            QueueUnavailable: it cannot be written now, and the place comes back by itself.
        """

    async def renew(self, question: Question) -> bool:
        """Write an open question again where the place has lost it; returns whether it had. Raises BusError."""

    async def answer_of(self, question_id: str) -> Answer | None:
        """Return the answer that was given; what lies in its place and is none is taken away. Raises NoPlace."""

    async def answer(self, question_id: str, answer: Answer) -> AnswerFate:
        """Take the answer's place, if it is free. Raises NoPlace."""

    async def forsaken(self) -> Sequence[Question]:
        """Return the open questions whose instance is dead. Raises NoPlace."""

    async def of_task(self, task_id: str) -> Sequence[Question]:
        """Return the open questions of a task. Raises NoPlace."""

    async def prune(self) -> None:
        """Remove what ended long ago."""

    def listen(self, on_news: Callable[[], None]) -> None:
        """Call `on_news` when an answer may be there, until `unlisten`."""

    def unlisten(self) -> None:
        """Stop that."""


class FileQuestions:
    """Questions in `questions/NAME/`; inotify tells of answers for as long as one is waited for."""

    def __init__(self, layout: WorkerLayout, *, instance: str, owners: frozenset[int] | None) -> None:
        """Accept answers of these `owners` (user ids; None accepts any)."""
        self._files = QuestionFiles(layout.questions)
        self._inflight = layout.inflight
        self._instance = instance
        self._owners = owners
        self._inotify: Inotify | None = None
        self._complained: set[str] = set()
        self.look_s = _BLIND_LOOK_S

    async def put(self, question: Question) -> None:
        """See `QuestionPlace`."""
        try:
            self._files.put(question)
        except OSError as error:
            raise _no_place(self._files.directory, error) from error
        if not question.is_open:
            self._complained.discard(question.question_id)

    async def renew(self, question: Question) -> bool:
        """See `QuestionPlace`: what is on a disk stays there."""
        return False

    async def answer_of(self, question_id: str) -> Answer | None:
        """See `QuestionPlace`."""
        try:
            return self._files.answer_of(question_id, owners=self._owners)
        except BadAnswer as error:
            if self._files.answer_age_s(question_id) >= _SETTLE_S or self._files.is_no_file(question_id):
                if question_id not in self._complained:
                    self._complained.add(question_id)
                    _complain(str(self._files.answer_path(question_id)), error)
                self._files.drop_answer(question_id)
            return None
        except OSError as error:
            raise _no_place(self._files.directory, error) from error

    async def answer(self, question_id: str, answer: Answer) -> AnswerFate:
        """See `QuestionPlace`."""
        try:
            return self._files.answer(question_id, answer)
        except OSError as error:
            raise _no_place(self._files.directory, error) from error

    async def forsaken(self) -> Sequence[Question]:
        """See `QuestionPlace`."""
        # A week of questions takes its time to read, which the loop has not.
        return await anyio.to_thread.run_sync(self._forsaken)

    def _forsaken(self) -> list[Question]:
        return [
            question
            for question in self._files.all()
            if question.is_open
            and question.instance != self._instance
            and not is_alive(self._inflight, question.instance)
        ]

    async def of_task(self, task_id: str) -> Sequence[Question]:
        """See `QuestionPlace`."""
        return [question for question in self._files.all() if question.is_open and question.task_id == task_id]

    async def prune(self) -> None:
        """See `QuestionPlace`."""
        await anyio.to_thread.run_sync(self._files.prune)

    def listen(self, on_news: Callable[[], None]) -> None:
        """See `QuestionPlace`."""
        if self._inotify is not None:
            return
        try:
            inotify = Inotify()
        except OSError:
            self.look_s = _BLIND_LOOK_S
            return
        try:
            self._files.directory.mkdir(parents=True, exist_ok=True)
            inotify.add_watch(self._files.directory, Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.CREATE | Mask.ONLYDIR)
        except OSError:
            inotify.close()
            self.look_s = _BLIND_LOOK_S
            return
        # The library opens it so that a read without events would block.
        os.set_blocking(inotify.fd, False)

        def read() -> None:
            with suppress(OSError, ValueError):
                for _ in range(_EVENTS_A_TURN):
                    if inotify.sync_get() is None:
                        break
            on_news()

        asyncio.get_running_loop().add_reader(inotify.fd, read)
        self._inotify, self.look_s = inotify, _LOOK_S

    def unlisten(self) -> None:
        """See `QuestionPlace`."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None


class RedisPlace:
    """Questions in Redis. The command `wake` tells that an answer is there, see `Asking.look`."""

    def __init__(self, caller: RedisCaller, *, worker: str, instance: str, hears: Callable[[], bool]) -> None:
        """Use the worker's own connection; `hears` tells whether commands are heard now."""
        self._questions = RedisQuestions(caller)
        self._caller = caller
        self._keys = WorkerKeys(worker)
        self._worker = worker
        self._instance = instance
        self._hears = hears

    @property
    def look_s(self) -> float:
        """See `QuestionPlace`."""
        return _LOOK_S if self._hears() else _BLIND_LOOK_S

    @look_s.setter
    def look_s(self, value: float) -> None:
        raise AttributeError("it follows from the connection")

    async def put(self, question: Question) -> None:
        """See `QuestionPlace`."""
        await self._questions.put(question)

    async def renew(self, question: Question) -> bool:
        """See `QuestionPlace`."""
        return await self._questions.renew(question)

    async def answer_of(self, question_id: str) -> Answer | None:
        """See `QuestionPlace`."""
        try:
            return await self._questions.answer_of(self._worker, question_id)
        except BadRedisAnswer as error:
            # Whoever sets a key sets it whole: there is nothing to wait for.
            _complain(f"the answer to {question_id} in Redis", error)
            await self._questions.drop_answer(self._worker, question_id)
            return None

    async def answer(self, question_id: str, answer: Answer) -> AnswerFate:
        """See `QuestionPlace`."""
        return await self._questions.answer(self._worker, question_id, answer)

    async def forsaken(self) -> Sequence[Question]:
        """See `QuestionPlace`."""
        found: list[Question] = []
        async for question in self._questions.all():
            foreign = question.worker == self._worker and question.instance != self._instance
            if not (foreign and question.is_open):
                continue
            if not await self._caller.command("EXISTS", self._keys.heartbeat(question.instance)):
                found.append(question)
        return found

    async def of_task(self, task_id: str) -> Sequence[Question]:
        """See `QuestionPlace`."""
        return [
            question
            async for question in self._questions.all()
            if question.worker == self._worker and question.is_open and question.task_id == task_id
        ]

    async def prune(self) -> None:
        """See `QuestionPlace`: keys expire by themselves."""

    def listen(self, on_news: Callable[[], None]) -> None:
        """See `QuestionPlace`."""

    def unlisten(self) -> None:
        """See `QuestionPlace`."""


def _no_place(directory: Path, error: OSError) -> NoPlace:
    return NoPlace(f"{directory} cannot be used: {error.strerror or error}")


def _complain(what: str, error: BusError) -> None:
    log.warning("%s is no answer and was removed: %s", what, error, extra={"action": "answer_refused"})
