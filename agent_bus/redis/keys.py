"""Every key and channel in Redis, in one place. The keys that only scripts touch are named in `lua/common.lua`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GROUP: Final = "workers"
"""The consumer group of every task stream."""
WAITING: Final = "waiting"
"""The consumer that holds what was read and is not run yet; no instance may be called so."""

RESULTS: Final = "codehornets:results"
TASKS_PREFIX: Final = "codehornets:tasks:"
DEAD_LETTERS_PREFIX: Final = "codehornets:dead-letters:"
HEARTBEAT_PREFIX: Final = "codehornets:heartbeat:"
GATE_PREFIX: Final = "codehornets:gate:"
GATES_CHANNEL: Final = "codehornets:gates"
CONTROL_ALL_CHANNEL: Final = "control:all"
HOOKS_PREFIX: Final = "hooks:"
QUESTIONS: Final = "codehornets:questions"
"""The questions of all workers that have no shared directory, as `WORKER/ID`, by when they were asked."""
QUESTION_PREFIX: Final = "codehornets:question:"

DAY_S: Final = 86_400
INDEX_TTL_S: Final = 30 * DAY_S
"""How long an index, a note or a conversation that nobody touches is kept."""
RESULT_TTL_S: Final = 7 * DAY_S
"""How long a result is found by its task's id, and so how long an id counts as used."""
MOST_RESULTS: Final = 10_000
"""So many results the stream keeps, or a few more."""
MOST_DEAD_LETTERS: Final = 10_000
QUESTION_TTL_S: Final = 31 * DAY_S
"""How long a question is kept: longer than any task may last."""
ACTIVATION_TTL_S: Final = 60
"""The same message within this time is the same task, heard by another replica."""


@dataclass(frozen=True)
class WorkerKeys:
    """The keys and channels of one worker."""

    worker: str

    @property
    def tasks(self) -> str:
        """The stream of its tasks."""
        return f"{TASKS_PREFIX}{self.worker}"

    @property
    def dead_letters(self) -> str:
        """The stream of what was set aside."""
        return f"{DEAD_LETTERS_PREFIX}{self.worker}"

    @property
    def bell(self) -> str:
        """The channel that wakes it."""
        return f"activate:{self.worker}"

    @property
    def control(self) -> str:
        """The channel of commands for it alone."""
        return f"control:{self.worker}"

    @property
    def hooks(self) -> str:
        """The channel of its events."""
        return f"{HOOKS_PREFIX}{self.worker}"

    @property
    def ids(self) -> str:
        """The hash from the id of each task that was taken and has no result to its entry."""
        return f"{{{self.tasks}}}:ids"

    def cancel(self, task_id: str) -> str:
        """Return the key that asks for the end of a waiting task."""
        return f"{{{self.tasks}}}:cancel:{task_id}"

    def heartbeat(self, instance: str) -> str:
        """Return where an instance's heartbeat is, while it lives."""
        return f"{HEARTBEAT_PREFIX}{self.worker}:{instance}"


def result_by_id(task_id: str) -> str:
    """Return where the result of a task is found by its id."""
    return f"{{{RESULTS}}}:by-id:{task_id}"


def gate(fingerprint: str) -> str:
    """Return where the gate of a credential is."""
    return f"{GATE_PREFIX}{fingerprint}"


def question_key(worker: str, question_id: str, *, answer: bool = False) -> str:
    """Return where a question of a worker is, or the answer to it."""
    key = f"{QUESTION_PREFIX}{worker}:{question_id}"
    return f"{key}:answer" if answer else key
