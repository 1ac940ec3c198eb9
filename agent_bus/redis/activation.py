"""What a message on the channel `activate:NAME` means: nothing, a task's path, its id, or the whole task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent_bus.errors import TriggerRejected
from agent_bus.messages import is_task_id
from agent_bus.trigger_reader import TaskBody, read_body

_LONGEST_PATH_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Nothing:
    """Only the bell."""


@dataclass(frozen=True, slots=True)
class TaskPath:
    """A file to look at; it is for the queue to say whether it lies where tasks may lie."""

    path: str


@dataclass(frozen=True, slots=True)
class TaskName:
    """The id of a task that waits already."""

    task_id: str


@dataclass(frozen=True, slots=True)
class TaskText:
    """A whole task, to be made durable before anything else."""

    body: bytes
    task_id: str | None
    """Its id, where it has a usable one; all else about it is checked when it is claimed."""


@dataclass(frozen=True, slots=True)
class BadMessage:
    """Nothing that can be used; `why` is one sentence."""

    why: str


Activation = Nothing | TaskPath | TaskName | TaskText | BadMessage


def parse_activation(message: bytes, *, max_bytes: int = 1_048_576) -> Activation:
    """Tell what the message means; never raises."""
    text = message.strip()
    if not text:
        return Nothing()
    if len(message) > max_bytes:
        return BadMessage(f"a message of {len(message)} bytes was dropped: {max_bytes} are allowed")
    if text[:1] in (b"{", b"["):
        try:
            meaning = read_body(text, "task-.trigger")
        except TriggerRejected as refusal:
            return BadMessage(f"a message that should be a task was dropped: {refusal.message}")
        task_id = meaning.fields.get("task_id") if isinstance(meaning, TaskBody) else None
        return TaskText(text, task_id if isinstance(task_id, str) and is_task_id(task_id) else None)
    try:
        word = text.decode()
    except UnicodeDecodeError as error:
        return BadMessage(f"a message was dropped that is not UTF-8 text (byte {error.start})")
    if "/" in word and len(text) <= _LONGEST_PATH_BYTES and word.isprintable():
        return TaskPath(word)
    if is_task_id(word):
        return TaskName(word)
    shown = word if len(word) <= 80 else f"{word[:79]}…"
    return BadMessage(f"the message {shown!r} was dropped: it is no task as JSON, no path and no task id")
