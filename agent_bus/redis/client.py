"""Redis from the client's side: hand tasks in, wait for results, cancel, watch, and look after the dead letters.

Without asyncio, for the command line and for programs that have no loop of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from agent_bus.dead_letters import DeadLetterError
from agent_bus.errors import BusError, DeadLetterReason, QueueUnavailable
from agent_bus.gates import GateNotice
from agent_bus.messages import Heartbeat, Result, TaskStatus
from agent_bus.questions import Answer, AnswerFate, Question, fate_without_answer, is_question_id, read_question
from agent_bus.redis.connection import explain, failures, make_blocking_client
from agent_bus.redis.events import Subscription
from agent_bus.redis.gate_keys import find_closed_gates, open_gate_in
from agent_bus.redis.keys import (
    CONTROL_ALL_CHANNEL,
    INDEX_TTL_S,
    QUESTION_TTL_S,
    QUESTIONS,
    RESULTS,
    WorkerKeys,
    question_key,
    result_by_id,
)
from agent_bus.redis.survey import RedisBacklog, find_heartbeats, find_state, find_workers, look_at_queue
from agent_bus.redis.url import RedisAddress, RedisKind

_LONGEST_BLOCK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RedisLetter:
    """A dead letter in Redis."""

    name: str
    """Its entry in the stream of dead letters."""
    reason: str
    message: str
    task_id: str | None
    task: bytes
    """What was handed in."""
    entry: str
    """The entry that it had among the tasks."""
    attempts: int
    buried_at: str
    worker: str
    instance: str


class RedisClient:
    """A client of the team. Every method raises `QueueUnavailable` when Redis cannot be used; no text of an error
    holds a password."""

    def __init__(self, address: RedisAddress) -> None:
        """Connect with the first call (to a cluster: now).

        Raises:
            QueueUnavailable: it is a cluster and does not answer.
        """
        self._address = address
        self._failures = failures()
        with self._explained():
            self._redis: Any = make_blocking_client(address)

    @property
    def counts_listeners(self) -> bool:
        """Whether the number of those who heard a message is known: a node of a cluster knows its own alone."""
        return self._address.kind is not RedisKind.CLUSTER

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def submit(self, worker: str, task: dict[str, Any]) -> str:
        """Hand a task in and ring the worker's bell; returns its id, which is made up where the task has none."""
        keys = WorkerKeys(worker)
        body = json.dumps(task, ensure_ascii=False).encode("utf-8", "surrogatepass")
        with self._explained():
            if self._address.kind is RedisKind.CLUSTER:
                entry = self._redis.xadd(keys.tasks, {"task": body})
                self._redis.publish(keys.bell, b"")
            else:
                with self._redis.pipeline(transaction=False) as pipe:
                    pipe.xadd(keys.tasks, {"task": body})
                    pipe.publish(keys.bell, b"")
                    entry = pipe.execute()[0]
        return str(task.get("task_id") or f"{worker}-{entry.decode()}")

    def result(self, task_id: str, *, wait_s: float = 0.0) -> Result | None:
        """Return the task's result, waiting so many seconds for it; None when there is none by then.

        Raises:
            BusError: there is one, and it cannot be understood.
        """
        deadline = time.monotonic() + wait_s
        with self._explained():
            newest = self._redis.xrevrange(RESULTS, count=1)
            after = newest[0][0] if newest else b"0-0"
            while True:
                body = self._redis.get(result_by_id(task_id))
                if body is not None:
                    return _result(task_id, body)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                # Any new result is reason to look again.
                block_ms = max(1, int(1000 * min(left, _LONGEST_BLOCK_S)))
                if told := self._redis.xread({RESULTS: after}, count=1000, block=block_ms):
                    after = told[0][1][-1][0]

    def cancel(self, worker: str, task_id: str) -> int:
        """Ask for the end of a task, whether it waits or runs; returns how many heard it, see `counts_listeners`.

        One that waits ends when its turn comes, even if nobody heard; one that runs ends only if its worker did.
        """
        with self._explained():
            self._redis.set(WorkerKeys(worker).cancel(task_id), b"1", ex=INDEX_TTL_S)
        return self.control(worker, {"command": "cancel", "task_id": task_id})

    def ring(self, worker: str, message: bytes = b"") -> None:
        """Ring a worker's bell; the message may be empty, or name what is to be looked at.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        with self._explained():
            self._redis.publish(WorkerKeys(worker).bell, message)

    def control(self, worker: str | None, command: dict[str, Any]) -> int:
        """Send a command to all instances of a worker, or of all workers; returns how many subscribers heard it."""
        channel = CONTROL_ALL_CHANNEL if worker is None else WorkerKeys(worker).control
        with self._explained():
            return int(self._redis.publish(channel, json.dumps(command).encode()))

    # -- who is there, and what they do

    def heartbeats(self, worker: str | None = None) -> list[Heartbeat]:
        """Return the heartbeats of all living instances, of one worker or of all, by worker and instance."""
        with self._explained():
            return find_workers(self._redis)[1] if worker is None else find_heartbeats(self._redis, worker)

    def workers(self) -> tuple[list[str], list[Heartbeat]]:
        """Return the names of all workers that have left anything in Redis, and the heartbeats of those that live."""
        with self._explained():
            return find_workers(self._redis)

    def backlog(self, worker: str) -> RedisBacklog:
        """Return how much waits for the worker, what its instances run, and how many dead letters it has."""
        with self._explained():
            return look_at_queue(self._redis, worker)

    def find_task(self, task_id: str, worker: str | None = None) -> tuple[str, str] | None:
        """Return (worker, `waiting` or `running`) for a task without a result, or None; searches one worker or all."""
        with self._explained():
            for name in find_workers(self._redis)[0] if worker is None else [worker]:
                if (state := find_state(self._redis, name, task_id)) is not None:
                    return name, state
        return None

    # -- what agents ask of people

    def questions(self) -> list[Question]:
        """Return the questions of all workers that have no shared directory, the newest first."""
        found: list[Question] = []
        with self._explained():
            for name in self._redis.zrevrange(QUESTIONS, 0, -1):
                worker, _, question_id = name.decode("utf-8", "replace").partition("/")
                if is_question_id(question_id):
                    body = self._redis.get(question_key(worker, question_id))
                    if (question := read_question(body, question_id)) is not None:
                        found.append(question)
        return found

    def answer_question(self, worker: str, question_id: str, answer: Answer) -> AnswerFate:
        """Answer a question and wake its worker; the first answer counts."""
        with self._explained():
            lying = read_question(self._redis.get(question_key(worker, question_id)), question_id)
            if (fate := fate_without_answer(lying)) is not None:
                return fate
            body = answer.model_dump_json(exclude_none=True).encode()
            key = question_key(worker, question_id, answer=True)
            if not self._redis.set(key, body, nx=True, ex=QUESTION_TTL_S):
                return AnswerFate.TOO_LATE
        self.control(worker, {"command": "wake"})
        return AnswerFate.COUNTS

    @contextmanager
    def listen(self, worker: str | None = None) -> Iterator[Subscription]:
        """Hear the events of one worker or of all for the length of the block, missing none."""
        subscription = Subscription(self._redis, worker, self._explained)
        try:
            yield subscription
        finally:
            subscription.close()

    def watch(self, worker: str | None = None) -> Iterator[tuple[str, bytes]]:
        """Yield (worker, event as JSON) as they come, of one worker or of all, until the iterator is closed."""
        with self.listen(worker) as subscription:
            while True:
                if (heard := subscription.next(_LONGEST_BLOCK_S)) is not None:
                    yield heard

    # -- gates

    def closed_gates(self) -> dict[str, GateNotice]:
        """Return the notices of the gates that are closed, by id."""
        with self._explained():
            return find_closed_gates(self._redis)

    def open_gate(self, gate_id: str, notice: GateNotice, by: str) -> None:
        """Open a gate before its time, and tell everybody."""
        with self._explained():
            open_gate_in(self._redis, gate_id, notice, by)

    # -- dead letters

    def dead_letters(self, worker: str) -> list[RedisLetter]:
        """Return the worker's dead letters, oldest first."""
        with self._explained():
            rows = self._redis.xrange(WorkerKeys(worker).dead_letters)
        return [_letter(name, fields) for name, fields in rows]

    def find_dead_letter(self, worker: str, name: str) -> RedisLetter:
        """Return the letter of that name or task id; the newest where several share an id.

        Raises:
            DeadLetterError: there is none.
        """
        matches = [letter for letter in self.dead_letters(worker) if name in (letter.name, letter.task_id)]
        if not matches:
            raise DeadLetterError(f"No dead letter {name!r} in {WorkerKeys(worker).dead_letters}.")
        return matches[-1]

    def replay(self, worker: str, letter: RedisLetter) -> str:
        """Hand the letter's task in again; returns its entry. A failed result makes way, any other one does not.

        Raises:
            DeadLetterError: the task has a result that is not a failure, or the letter holds no task.
        """
        keys = WorkerKeys(worker)
        if not letter.task.lstrip().startswith(b"{"):
            raise DeadLetterError(f"Dead letter {letter.name} holds no task; hand it in anew and drop the letter.")
        with self._explained():
            if letter.task_id is not None and letter.reason != DeadLetterReason.DUPLICATE:
                result = self.result(letter.task_id)
                if result is not None and result.status is not TaskStatus.FAILED:
                    raise DeadLetterError(
                        f"Task {letter.task_id} has a result that is not a failure ({result.status.value}); "
                        "only a failed one makes way for a new run."
                    )
                self._redis.delete(result_by_id(letter.task_id))
            # The letter goes last: a crash in between leaves it where it is.
            entry = self._redis.xadd(keys.tasks, {"task": letter.task})
            self._redis.publish(keys.bell, b"")
            self._redis.xdel(keys.dead_letters, letter.name)
        return str(entry.decode())

    def drop(self, worker: str, letter: RedisLetter) -> None:
        """Delete the letter."""
        with self._explained():
            self._redis.xdel(WorkerKeys(worker).dead_letters, letter.name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise QueueUnavailable(explain(error, self._address)) from None


def _result(task_id: str, body: bytes) -> Result:
    try:
        return Result.model_validate_json(body)
    except ValidationError:
        raise BusError(f"{result_by_id(task_id)} in Redis is no result that this version understands.") from None


def _letter(name: bytes, fields: dict[bytes, bytes]) -> RedisLetter:
    def text(field: str) -> str:
        return fields.get(field.encode(), b"").decode("utf-8", "replace")

    attempts = text("attempts")
    return RedisLetter(
        name=name.decode(),
        reason=text("reason"),
        message=text("message"),
        task_id=text("task_id") or None,
        task=fields.get(b"task", b""),
        entry=text("entry"),
        attempts=int(attempts) if attempts.isdigit() else 0,
        buried_at=text("buried_at"),
        worker=text("worker"),
        instance=text("instance"),
    )
