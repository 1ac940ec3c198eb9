"""What a file in the queue's directories means: a task, an event, a pointer to a task file, or nothing good."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from agent_bus.errors import DeadLetterReason, TriggerRejected
from agent_bus.layout import TASK_SUFFIX, TRIGGER_SUFFIX
from agent_bus.messages import PRIORITY_RANKS, Task, is_task_id

_TASK_PREFIX: Final = "task-"
_NOT_IN_ID: Final = re.compile(r"[^A-Za-z0-9._:@+-]+")
_LONGEST_ID: Final = 128


@dataclass(frozen=True, slots=True)
class TaskBody:
    """The body of a task, decoded but not validated yet."""

    fields: dict[str, Any]

    @property
    def rank(self) -> int:
        """The priority as far as it can be told; a wrong one is found when the task is claimed."""
        priority = self.fields.get("priority")
        if isinstance(priority, str):
            return PRIORITY_RANKS.get(priority, PRIORITY_RANKS["normal"])
        if isinstance(priority, int) and not isinstance(priority, bool):
            return max(-(2**31), min(priority, 2**31))
        return PRIORITY_RANKS["normal"]

    @property
    def session(self) -> str:
        """The session it names, or an empty text."""
        session = self.fields.get("session")
        return session if isinstance(session, str) else ""


@dataclass(frozen=True, slots=True)
class TaskPointer:
    """An empty trigger: the task is in the task file of this id."""

    task_id: str


@dataclass(frozen=True, slots=True)
class EventBody:
    """Anything else: to be published, not run."""

    text: str


def task_id_in_name(file_name: str) -> str | None:
    """Return the ID of `task-ID.trigger` and `ID.json`, or None for other names and impossible ids."""
    if file_name.startswith(_TASK_PREFIX) and file_name.endswith(TRIGGER_SUFFIX):
        stem = file_name[len(_TASK_PREFIX) : -len(TRIGGER_SUFFIX)]
    elif file_name.endswith(TASK_SUFFIX):
        stem = file_name[: -len(TASK_SUFFIX)]
    else:
        return None
    return stem if is_task_id(stem) else None


def read_body(body: bytes, file_name: str) -> TaskBody | TaskPointer | EventBody:
    """Tell what a file of this name and content is.

    Raises:
        TriggerRejected: it should be a task and cannot be decoded. While the file is young this may only mean
            that its writer is not done.
    """
    must_be_task = file_name.startswith(_TASK_PREFIX) or file_name.endswith(TASK_SUFFIX)
    text = body.strip()
    if not text:
        task_id = task_id_in_name(file_name)
        if file_name.endswith(TRIGGER_SUFFIX) and task_id is not None:
            return TaskPointer(task_id)
        if must_be_task:
            raise _malformed("it is empty; write the task as JSON into it", file_name)
        return EventBody("")
    if b"\0" in body:
        raise _malformed("it holds NUL bytes; a trigger must be UTF-8 text", file_name)
    if not must_be_task and not text.startswith(b"{"):
        try:
            return EventBody(body.decode())
        except UnicodeDecodeError as error:
            raise _malformed(f"it is not UTF-8 text (byte {error.start}); triggers are text", file_name) from error
    try:
        # Lone surrogates and bytes that are not UTF-8 fail here as well.
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _malformed(f"it is not valid JSON: {error}", file_name) from error
    if not isinstance(fields, dict):
        raise _malformed(f"a task must be a JSON object, and this is {_json_kind(fields)}", file_name)
    if must_be_task or "description" in fields:
        return TaskBody(fields)
    return EventBody(body.decode())


def make_task(body: TaskBody, file_name: str, *, mtime_ns: int, worker: str) -> Task:
    """Check the fields and return the task; `file_name` and `mtime_ns` give the id where the body gives none.

    Raises:
        TriggerRejected: a field is missing or wrong, or the task is for another worker; names field and value.
    """
    # A null stands for a field that the sender did not fill in.
    fields = {name: value for name, value in body.fields.items() if value is not None}
    told_id = fields["task_id"] if "task_id" in fields else task_id_in_name(file_name)
    fields["task_id"] = told_id if told_id is not None else _made_up_id(file_name, mtime_ns)
    # Nobody waits for a result under an id that was made up here: only the dead letter tells of such a file.
    known_id = told_id if isinstance(told_id, str) and is_task_id(told_id) else None
    try:
        task = Task.model_validate(fields)
    except ValidationError as error:
        raise TriggerRejected(DeadLetterReason.INVALID_TASK, _first_mistake(error), task_id=known_id) from error
    if task.worker is not None and task.worker != worker:
        raise TriggerRejected(
            DeadLetterReason.WRONG_WORKER,
            f"it is for worker {task.worker[:80]!r} and lies in the directory of {worker!r}; put it into that worker's",
            task_id=known_id,
        )
    return task


def _malformed(message: str, file_name: str) -> TriggerRejected:
    return TriggerRejected(DeadLetterReason.MALFORMED, message, task_id=task_id_in_name(file_name))


def _made_up_id(file_name: str, mtime_ns: int) -> str:
    # From the name and time of the file alone, so that the same file gets the same id after a crash.
    stem = _NOT_IN_ID.sub("-", file_name.removesuffix(TRIGGER_SUFFIX)).lstrip("-._:@+") or "task"
    suffix = f"-{mtime_ns:x}"
    return stem[: _LONGEST_ID - len(suffix)] + suffix


def _json_kind(value: object) -> str:
    kinds: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _first_mistake(error: ValidationError) -> str:
    details = error.errors(include_url=False)
    first = details[0]
    field = ".".join(str(part) for part in first["loc"]) or "the task"
    shown = repr(first["input"])
    if len(shown) > 80:
        shown = f"{shown[:77]}…"
    if first["type"] == "missing":
        sentence = f"field {field} is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
        sentence = f"field {field} is {shown}: {message[:1].lower()}{message[1:]}"
    more = len(details) - 1
    return sentence + (f" (and {more} more wrong field{'s' if more > 1 else ''})" if more else "")
