"""Questions as files: `questions/NAME/ID.json` by the worker, `ID.answer.json` by whoever answers.

The answer's name can be given once (`link`), to whichever answer comes first. A worker that ends a question takes the
name itself, so that an answer which comes later is told that it is late.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agent_bus.errors import BusError, TriggerRejected
from agent_bus.files import publish_once, read_untrusted, remove_stale, write_atomic, write_new
from agent_bus.layout import is_worker_name
from agent_bus.questions import Answer, AnswerFate, Question, encode_question, is_question_id

QUESTION_SUFFIX: Final = ".json"
ANSWER_SUFFIX: Final = ".answer.json"
KEPT_S: Final = 7 * 86_400.0
"""How long a question that has ended lies there for whoever wants to look."""
_MOST_QUESTION_BYTES: Final = 1_048_576
_MOST_ANSWER_BYTES: Final = 65_536


class BadAnswer(BusError):
    """What lies in the place of an answer is none; the text is one sentence."""


class QuestionFiles:
    """The questions of one worker in a shared directory."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is `WorkerLayout.questions`; it is made with the first question."""
        self.directory = directory

    # -- for the worker that asks

    def put(self, question: Question) -> None:
        """Write a question, or what has become of it.

        Raises:
            OSError: it cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(question.question_id), encode_question(question))

    def answer_of(self, question_id: str, *, owners: frozenset[int] | None) -> Answer | None:
        """Return the answer that was given, or None while there is none.

        Args:
            question_id: Which question.
            owners: User ids whose answers are accepted; None accepts any.

        Raises:
            BadAnswer: what is there is no answer, or nobody's whose answer counts.
        """
        path = self.answer_path(question_id)
        try:
            body, _ = read_untrusted(os.fspath(path), max_bytes=_MOST_ANSWER_BYTES, owners=owners)
            return Answer.model_validate_json(body)
        except FileNotFoundError:
            return None
        except TriggerRejected as error:
            raise BadAnswer(str(error).replace("a trigger must", "an answer must")) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadAnswer(f"{where + ': ' if where else ''}{first['msg']}") from None

    def answer_age_s(self, question_id: str) -> float:
        """Return for how many seconds what lies in the answer's place has been as it is."""
        try:
            return time.time() - self.answer_path(question_id).lstat().st_mtime
        except OSError:
            return 0.0

    def is_no_file(self, question_id: str) -> bool:
        """Tell whether what lies in the answer's place is a link, a directory or the like: it will never be more."""
        try:
            return not stat.S_ISREG(self.answer_path(question_id).lstat().st_mode)
        except OSError:
            return False

    def drop_answer(self, question_id: str) -> None:
        """Take away what lies in the answer's place, so that a good one can come."""
        path = self.answer_path(question_id)
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()

    # -- for everybody

    def answer(self, question_id: str, answer: Answer) -> AnswerFate:
        """Give an answer; the first one counts.

        Raises:
            OSError: it cannot be written.
        """
        target = self.answer_path(question_id)
        staged = f"{self.directory}/.{target.name}.{os.urandom(6).hex()}.tmp"
        try:
            write_new(staged, answer.model_dump_json(exclude_none=True).encode())
        except FileNotFoundError:
            return AnswerFate.TOO_LATE
        return AnswerFate.COUNTS if publish_once(staged, os.fspath(target)) else AnswerFate.TOO_LATE

    def read(self, question_id: str) -> Question | None:
        """Return a question, or None when there is none or it cannot be understood."""
        try:
            body, _ = read_untrusted(os.fspath(self._path(question_id)), max_bytes=_MOST_QUESTION_BYTES, owners=None)
            question = Question.model_validate_json(body)
        except (OSError, TriggerRejected, ValidationError):
            return None
        return question if question.question_id == question_id else None

    def all(self) -> Iterator[Question]:
        """Yield every question that is there."""
        try:
            names = os.listdir(self.directory)
        except OSError:
            return
        for name in names:
            if (question_id := question_of(name)) is not None and (question := self.read(question_id)) is not None:
                yield question

    def prune(self, *, older_than_s: float = KEPT_S) -> None:
        """Remove what ended long ago, and what writers that were killed left half done."""
        remove_stale(self.directory)
        ended_before = time.time() - older_than_s
        for question in list(self.all()):
            with suppress(OSError):
                path = self._path(question.question_id)
                if not question.is_open and path.lstat().st_mtime < ended_before:
                    path.unlink()
                    self.answer_path(question.question_id).unlink(missing_ok=True)

    def answer_path(self, question_id: str) -> Path:
        """Return where the answer to a question lies."""
        return self.directory / f"{question_id}{ANSWER_SUFFIX}"

    def _path(self, question_id: str) -> Path:
        return self.directory / f"{question_id}{QUESTION_SUFFIX}"


def question_of(name: str) -> str | None:
    """Return which question a file of this name is; None for an answer and for anything else."""
    question_id = name.removesuffix(QUESTION_SUFFIX)
    return question_id if name.endswith(QUESTION_SUFFIX) and is_question_id(question_id) else None


def all_question_files(shared: Path) -> Iterator[QuestionFiles]:
    """Yield the questions of each worker that has asked any on the shared directory `shared`."""
    with suppress(OSError):
        for name in sorted(os.listdir(shared / "questions")):
            if is_worker_name(name):
                yield QuestionFiles(shared / "questions" / name)
