"""What is wrong with an order, in one sentence that names field, value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.terminal import harmless

_LONGEST_SHOWN: Final = 80
_MOST_SHOWN: Final = 3


def refuse(what: str, error: ValidationError, names: Sequence[str] = ()) -> UserError:
    """Return the error for a person.

    Args:
        what: What holds the order, to begin the sentence with.
        error: What pydantic found.
        names: What the tasks of a graph are called in the file, where that is not by their number.
    """
    found = error.errors(include_url=False, include_context=False)
    told = [_one(each["loc"], each["input"], each["type"], each["msg"], names) for each in found[:_MOST_SHOWN]]
    more = len(found) - len(told)
    return UserError(f"{what}: {'; '.join(told)}{f'; and {more} more' if more > 0 else ''}.")


def _one(place: tuple[int | str, ...], value: object, kind: str, message: str, names: Sequence[str]) -> str:
    field = dotted(place, names)
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is {_shown(value)}, and there is no such field"
    if message.startswith("Input should be "):
        return f"{field or 'it'} is {_shown(value)}; allowed is {message.removeprefix('Input should be ')}"
    return f"{field or 'it'} is {_shown(value)}: {message.removeprefix('Value error, ')}"


def dotted(place: tuple[int | str, ...], names: Sequence[str] = ()) -> str:
    """Return where a field is, such as `tasks[3].retry.factor`, or `tasks.plan.retry.factor` with names."""
    text = ""
    for position, part in enumerate(place):
        if isinstance(part, int):
            named = position == 1 and place[0] == "tasks" and part < len(names)
            text += f".{names[part]}" if named else f"[{part}]"
        else:
            text += f".{part}" if text else part
    return harmless(text)


def _shown(value: object) -> str:
    # A whole graph is no help: of what holds others only the kind is told.
    if isinstance(value, dict | list) and len(repr(value)) > _LONGEST_SHOWN:
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return harmless(text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…")
