"""Questions of agents to people: may I use this tool? The records, and nothing of where they lie.

The worker that asks is the only one that writes a question, from its asking to its end. Whoever answers writes an
answer into a place of its own that can be taken once; so of two answers, or of an answer and the end of the question,
one counts, and the other is told so.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agent_bus.messages import OnQuestion, utc_now

QUESTION_ID_PATTERN: Final = r"^q-[0-9a-f]{16}$"
LONGEST_REASON: Final = 2000
"""Characters of what a person says with an answer."""
LONGEST_INPUT_TEXT: Final = 10_000
"""Characters of each text of a tool's input that a question shows; what is left out is said."""
LONGEST_SUMMARY: Final = 300
_MOST_INPUT_BYTES: Final = 60_000
_DECIDED_WITHIN: Final = timedelta(seconds=5)
"""So long after its time a question may still be answered: the clocks of two hosts differ by less."""
_QUESTION_ID = re.compile(QUESTION_ID_PATTERN)
_TOLD_FIRST: Final = ("command", "file_path", "notebook_path", "url", "path", "query", "pattern", "plan", "prompt")


class Decision(StrEnum):
    """What a person says."""

    ALLOW = "allow"
    """This one call runs. Nothing else is allowed by it."""
    DENY = "deny"
    """It does not, and the agent hears the reason."""


class QuestionState(StrEnum):
    """Where a question is."""

    OPEN = "open"
    ALLOWED = "allowed"
    DENIED = "denied"
    EXPIRED = "expired"
    """Nobody answered in time; the policy has decided."""
    WITHDRAWN = "withdrawn"
    """Nothing waits for an answer any more: the task has ended, or its worker was stopped."""


class Question(BaseModel):
    """One question: `questions/NAME/ID.json`, or its equal in Redis. Only its worker writes it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    question_id: Annotated[str, StringConstraints(pattern=QUESTION_ID_PATTERN)]
    task_id: str
    worker: str
    instance: str
    """The process that waits for the answer; with its end the question means nothing."""
    tool: str
    input: dict[str, Any] = Field(default_factory=dict)
    """What the tool would be given; long texts are cut and say so."""
    summary: str
    """One line for a person."""
    asked_because: str | None = None
    """Why Claude Code asks, where it says so."""
    asked_at: datetime
    expires_at: datetime | None = None
    """When the policy decides; None means never."""
    policy: OnQuestion = OnQuestion.DENY
    state: QuestionState = QuestionState.OPEN
    decision: Decision | None = None
    answered_by: str | None = None
    answered_at: datetime | None = None
    reason: str | None = None
    """What the person said, or why it was withdrawn."""

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer."""
        return self.state is QuestionState.OPEN

    @property
    def is_answerable(self) -> bool:
        """Whether it is open and in time: past that its worker has decided, even where it could not write so yet."""
        return self.is_open and (self.expires_at is None or utc_now() < self.expires_at + _DECIDED_WITHIN)


class Answer(BaseModel):
    """What a person says to a question: `questions/NAME/ID.answer.json`, or its equal in Redis."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    decision: Decision
    reason: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None
    by: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who answers; None means whoever may write here."""


class AnswerFate(StrEnum):
    """What became of an answer that was given."""

    COUNTS = "counts"
    """It is the one that counts."""
    TOO_LATE = "too_late"
    """There was another one before it, or nothing waits for it any more."""
    UNREACHABLE = "unreachable"
    """It could not be handed over now; nothing was changed."""


def fate_without_answer(question: Question | None) -> AnswerFate | None:
    """Return what becomes of an answer in Redis, judged by the question alone; None where its place decides.

    Where there is no question Redis may have lost it, and its worker puts it there again.
    """
    if question is None:
        return AnswerFate.UNREACHABLE
    return None if question.is_answerable else AnswerFate.TOO_LATE


def is_question_id(text: str) -> bool:
    """Tell whether `text` may name a question (and so a file)."""
    return _QUESTION_ID.match(text) is not None and "\n" not in text


def encode_question(question: Question) -> bytes:
    """Return the question as JSON; what JSON cannot hold (half a character) becomes a question mark."""
    try:
        return question.model_dump_json().encode()
    except ValueError:
        return json.dumps(question.model_dump(), default=str, ensure_ascii=False).encode("utf-8", "replace")


def read_question(body: bytes | None, question_id: str) -> Question | None:
    """Return the question that these bytes are, or None where they are none."""
    try:
        question = None if body is None else Question.model_validate_json(body)
    except ValidationError:
        return None
    return question if question is not None and question.question_id == question_id else None


def shown_input(given: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's input for people: long texts cut with a word of how much is missing, all of it bounded."""
    cut: dict[str, Any] = _cut(given)
    if len(json.dumps(cut, default=str)) <= _MOST_INPUT_BYTES:
        return cut
    # Many fields, or deep ones: their beginning as one text, so that it can be seen that there is more.
    text = json.dumps(given, default=str, ensure_ascii=False)
    return {"shortened": _cut(text)}


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_INPUT_TEXT:
        return f"{value[:LONGEST_INPUT_TEXT]}… ({len(value) - LONGEST_INPUT_TEXT:,} more characters are not shown)"
    if isinstance(value, dict):
        return {str(key)[:200]: _cut(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_cut(part) for part in value]
    return value


def summarize(tool: str, given: dict[str, Any]) -> str:
    """Return one line that says what a tool would do; nothing in it moves a terminal's cursor."""
    told = next((str(given[key]) for key in _TOLD_FIRST if given.get(key)), "")
    if not told and isinstance(asked := given.get("questions"), list):
        told = "; ".join(str(each.get("question", "")) for each in asked if isinstance(each, dict))
    if not told and given:
        told = json.dumps(given, default=str, ensure_ascii=False)
    line = f"{tool}: {told}" if told else tool
    line = " ".join("".join(each if each.isprintable() else " " for each in line).split())
    return line if len(line) <= LONGEST_SUMMARY else f"{line[: LONGEST_SUMMARY - 1]}…"


def late_sentence(question: Question) -> str:
    """Say why a question takes no answer any more."""
    name = f"Question {question.question_id}"
    match question.state:
        case QuestionState.ALLOWED | QuestionState.DENIED:
            return f"{name} was answered already: {question.answered_by or 'somebody'} {question.state.value} it."
        case QuestionState.EXPIRED:
            return f"{name} takes no answer any more: nobody answered in time, and it was denied."
        case QuestionState.WITHDRAWN:
            return f"{name} takes no answer any more: {question.reason or 'it was withdrawn'}."
        case _ if not question.is_answerable:
            return f"{name} takes no answer any more: nobody answered in time."
        case _:
            return f"{name} was answered already, and its worker has not heard it yet."
