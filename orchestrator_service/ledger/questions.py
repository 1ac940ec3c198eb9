"""The rows of questions: what was asked, and who answered."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from agent_bus.questions import Question, QuestionState
from orchestrator_service.errors import NotKnown
from orchestrator_service.ledger.rows import moment
from orchestrator_service.records import QuestionRecord

_COLUMNS: Final = (
    "question_id, task_id, worker, tool, input, summary, asked_because, policy, asked_at, expires_at, state, decision,"
    " answered_by, answered_at, reason"
)
_ANSWERED: Final = tuple(state.value for state in QuestionState if state is not QuestionState.OPEN)


@dataclass(frozen=True, slots=True)
class Held:
    """Where a question is answered, and whether it still can be."""

    worker: str
    transport: str
    state: QuestionState
    task_has_ended: bool


def record(row: tuple[Any, ...]) -> QuestionRecord:
    """Return a question as it is told, from a row of the columns above."""
    names = [name.strip() for name in _COLUMNS.split(",")]
    fields = dict(zip(names, row, strict=True))
    for name in ("asked_at", "expires_at", "answered_at"):
        fields[name] = moment(fields[name])
    fields["input"] = json.loads(fields["input"])
    return QuestionRecord.model_validate(fields)


def find(connection: sqlite3.Connection, question_id: str) -> tuple[QuestionRecord, str]:
    """Return a question, and the transport by which its worker is reached. Raises NotKnown."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, transport FROM questions WHERE question_id = ?", (question_id,)
    ).fetchone()
    if row is None:
        raise NotKnown("question", question_id)
    return record(row[:-1]), row[-1]


def find_all(
    connection: sqlite3.Connection, *, state: str, worker: str | None, task_id: str | None, limit: int
) -> list[tuple[QuestionRecord, str]]:
    """Return the newest questions, newest first, each with its worker's transport.

    `state` is `open`, `answered` (whatever came of it) or `all`.
    """
    wanted: list[str] = []
    values: list[Any] = []
    if state == "open":
        wanted.append("state = 'open'")
    elif state == "answered":
        wanted.append(f"state IN ({', '.join('?' * len(_ANSWERED))})")
        values += _ANSWERED
    for column, value in (("worker", worker), ("task_id", task_id)):
        if value is not None:
            wanted.append(f"{column} = ?")
            values.append(value)
    where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, transport FROM questions{where} ORDER BY asked_at DESC, question_id LIMIT ?",
        (*values, limit),
    )
    return [(record(row[:-1]), row[-1]) for row in rows]


def held(connection: sqlite3.Connection, question_id: str) -> Held:
    """Return where a question is answered. Raises NotKnown."""
    row = connection.execute(
        "SELECT q.worker, q.transport, q.state, r.ended_at IS NOT NULL FROM questions AS q"
        " LEFT JOIN runs AS r ON r.wire_id = q.wire_id WHERE q.question_id = ?",
        (question_id,),
    ).fetchone()
    if row is None:
        raise NotKnown("question", question_id)
    worker, transport, state, ended = row
    return Held(worker, transport, QuestionState(state), bool(ended))


def insert(connection: sqlite3.Connection, question: Question, *, task_id: str, transport: str) -> None:
    """Write a question down that is not known yet, as open."""
    connection.execute(
        "INSERT INTO questions (question_id, wire_id, task_id, worker, transport, tool, input, summary, asked_because,"
        " policy, asked_at, expires_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')",
        (
            question.question_id,
            question.task_id,
            task_id,
            question.worker,
            transport,
            question.tool,
            json.dumps(question.input, default=str),
            question.summary,
            question.asked_because,
            question.policy.value,
            question.asked_at.timestamp(),
            None if question.expires_at is None else question.expires_at.timestamp(),
        ),
    )


def state_of(connection: sqlite3.Connection, question_id: str) -> QuestionState | None:
    """Return where a question is, or None for one that is not known."""
    row = connection.execute("SELECT state FROM questions WHERE question_id = ?", (question_id,)).fetchone()
    return None if row is None else QuestionState(row[0])


def task_of(connection: sqlite3.Connection, wire_id: str) -> tuple[str, str | None]:
    """Return the task whose run this is, and its goal; the run's own id where the ledger knows none."""
    row = connection.execute(
        "SELECT t.task_id, t.goal_id FROM runs AS r JOIN tasks AS t ON t.seq = r.seq WHERE r.wire_id = ?", (wire_id,)
    ).fetchone()
    return (wire_id, None) if row is None else (row[0], row[1])


def close(
    connection: sqlite3.Connection,
    question_id: str,
    state: QuestionState,
    *,
    decision: str | None,
    by: str | None,
    reason: str | None,
    at: float,
) -> bool:
    """Write down what came of an open question; False when it is not open."""
    done = connection.execute(
        "UPDATE questions SET state = ?, decision = ?, answered_by = ?, reason = ?, answered_at = ?"
        " WHERE question_id = ? AND state = 'open'",
        (state.value, decision, by, reason, at, question_id),
    )
    return done.rowcount > 0


def forsaken(connection: sqlite3.Connection, *, expired_before: float) -> list[tuple[str, str, str, str]]:
    """Return (question id, task id, worker, why) of the open questions that nothing waits for any more."""
    rows = connection.execute(
        "SELECT q.question_id, q.task_id, q.worker, r.ended_at IS NOT NULL FROM questions AS q"
        " LEFT JOIN runs AS r ON r.wire_id = q.wire_id"
        " WHERE q.state = 'open' AND (r.ended_at IS NOT NULL OR q.expires_at < ?)",
        (expired_before,),
    ).fetchall()
    return [
        (question_id, task_id, worker, "the task has ended" if ended else "its time is over and its worker is silent")
        for question_id, task_id, worker, ended in rows
    ]


def count_open(connection: sqlite3.Connection) -> tuple[int, float | None]:
    """Return how many questions are open, and when the oldest of them was asked."""
    number, oldest = connection.execute("SELECT COUNT(*), MIN(asked_at) FROM questions WHERE state = 'open'").fetchone()
    return int(number), oldest


def prune(connection: sqlite3.Connection, before: float) -> None:
    """Forget questions that came to their end before a moment."""
    connection.execute("DELETE FROM questions WHERE state <> 'open' AND answered_at < ?", (before,))
