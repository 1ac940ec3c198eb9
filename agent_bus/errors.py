"""The errors of the bus. Catch `BusError` for any of them."""

from __future__ import annotations

from enum import StrEnum


class BusError(Exception):
    """Base of everything the bus raises on purpose; its text is one sentence for a person."""


class DeadLetterReason(StrEnum):
    """Why a file was set aside; the label of `codehornets_dead_letters_total`."""

    MALFORMED = "malformed"
    """Not UTF-8 text, or not the JSON object that a task must be."""
    INVALID_TASK = "invalid_task"
    """JSON, but a field is missing or has a wrong value."""
    TOO_LARGE = "too_large"
    NOT_A_FILE = "not_a_file"
    """A symlink, FIFO, socket, device or directory."""
    BAD_NAME = "bad_name"
    """The file's name is no text, or too long to be claimed."""
    FOREIGN_OWNER = "foreign_owner"
    UNREADABLE = "unreadable"
    WRONG_WORKER = "wrong_worker"
    DUPLICATE = "duplicate"
    """A task of this id runs, or has a result, already."""
    TASK_FILE_MISSING = "task_file_missing"
    """An empty trigger whose `tasks/NAME/ID.json` never came."""
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"


class TriggerRejected(BusError):
    """The file can never become a task; bury it. `reason` is the stable word, the text is for people."""

    def __init__(self, reason: DeadLetterReason, message: str, *, task_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.task_id = task_id


class ResultNotStored(BusError):
    """The result could not be written (a full disk, say); the task stays claimed and is to be tried again."""


class QueueUnavailable(BusError):
    """The queue's directories cannot be used; the text names the directory and the mend."""
