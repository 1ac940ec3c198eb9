"""Control commands: what a worker can be told, as one JSON object or one bare word.

`status`, `{"command": "cancel", "task_id": "7"}`, and for shells `cancel 7`. The same words work on the control pipe
and on the Redis channels `control:NAME` and `control:all`. A client that wants to know its answer among others gives
an `id`, which the answer repeats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from agent_bus.errors import BusError
from agent_bus.messages import is_task_id

LONGEST_COMMAND_BYTES: Final = 65_536
"""A line beyond this is no command."""

_LONGEST_SHOWN: Final = 80
_LONGEST_ID: Final = 200


class CommandName(StrEnum):
    """What a worker can be told."""

    STATUS = "status"
    """Say how you are."""
    PAUSE = "pause"
    """Take no new tasks until `resume`; what runs goes on."""
    RESUME = "resume"
    """Take tasks again."""
    RELOAD = "reload"
    """Read the hook rules anew."""
    DRAIN = "drain"
    """Take no new tasks, let the running ones end in their own time, then end."""
    SHUTDOWN = "shutdown"
    """End as after SIGTERM: the running tasks have `SHUTDOWN_GRACE`."""
    CANCEL = "cancel"
    """End the task `task_id`, running or waiting."""
    WAKE = "wake"
    """Look at all queues now."""


class BadCommand(BusError):
    """It is no command; the text is one sentence that names it."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One order to a worker."""

    name: CommandName
    task_id: str | None = None
    id: str | None = None
    """The sender's own mark, repeated in the answer."""

    def encode(self) -> bytes:
        """Return it as JSON on one line, with its line end."""
        fields = {"command": self.name.value, "task_id": self.task_id, "id": self.id}
        return json.dumps({key: value for key, value in fields.items() if value is not None}).encode() + b"\n"


def parse_command(line: bytes) -> Command:
    """Return what a line says.

    Raises:
        BadCommand: it says nothing that a worker understands.
    """
    if len(line) > LONGEST_COMMAND_BYTES:
        raise BadCommand(f"a line of more than {LONGEST_COMMAND_BYTES} bytes is no command")
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise BadCommand(f"{shown(line)} is not UTF-8 text") from error
    fields = _object(text) if text[:1] in ("{", "[", '"') else _words(text)
    word = fields.get("command")
    if not isinstance(word, str):
        raise BadCommand(f'{shown(line)} has no "command", or not as a text')
    try:
        name = CommandName(word)
    except ValueError as error:
        raise BadCommand(f"{word[:_LONGEST_SHOWN]!r} is no command; there are {', '.join(CommandName)}") from error
    task_id, mark = fields.get("task_id"), fields.get("id")
    if name is CommandName.CANCEL and not (isinstance(task_id, str) and is_task_id(task_id)):
        raise BadCommand('cancel needs a "task_id", the id of a task')
    if mark is not None and not (isinstance(mark, str) and len(mark) <= _LONGEST_ID):
        raise BadCommand(f'"id" must be a text of at most {_LONGEST_ID} characters')
    return Command(name=name, task_id=task_id if name is CommandName.CANCEL else None, id=mark)


def shown(line: bytes) -> str:
    """Return the beginning of a line as a person may read it."""
    text = line[:_LONGEST_SHOWN].decode("utf-8", "backslashreplace")
    return repr(text) if len(line) <= _LONGEST_SHOWN else f"{text!r}…"


def _object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCommand(f"{shown(text.encode())} is not JSON") from error
    if not isinstance(fields, dict):
        raise BadCommand(f"{shown(text.encode())} is JSON, but no object")
    return fields


def _words(text: str) -> dict[str, Any]:
    command, _, rest = text.partition(" ")
    if not rest:
        return {"command": command}
    if command == CommandName.CANCEL:
        return {"command": command, "task_id": rest.strip()}
    raise BadCommand(f"{shown(text.encode())} is more than one word, and no JSON object")
