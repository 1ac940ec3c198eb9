"""Bodies of requests: read once, checked strictly, and what is wrong told by field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from orchestrator_service.api.auth import header
from orchestrator_service.api.problems import ProblemKind, RequestRefused
from orchestrator_service.errors import FieldProblem
from orchestrator_service.orders import GoalOrder, GraphOrder, RetryPolicy, ScheduleOrder, TaskOrder

Model = TypeVar("Model", bound=BaseModel)

_DEEPEST: Final = 100
"""Levels of `metadata` and `output_schema`; readers further on add some of their own and stop at 200."""
_JSON_TYPE: Final = re.compile(r"application/(json|[a-z0-9.+-]+\+json)\s*(;.*)?", re.IGNORECASE)
_MODELS: Final[Mapping[str, type[BaseModel]]] = {"tasks": TaskOrder, "task": TaskOrder, "retry": RetryPolicy}
"""What stands below each field that holds objects of known fields."""


async def read_body(request: Request) -> bytes:
    """Return the whole body of a request that must be JSON.

    Raises:
        RequestRefused: it says that it is something else, or is too large.
        ClientDisconnect: the client left.
    """
    given = header(request.scope, b"content-type")
    if given is None or not _JSON_TYPE.fullmatch(given.strip()):
        shown = "missing" if given is None else repr(given[:200])
        raise RequestRefused(
            ProblemKind.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is {shown}; send JSON with `Content-Type: application/json`.",
        )
    return await read_bytes(request)


async def read_bytes(request: Request) -> bytes:
    """Return the whole body of a request, whatever it is.

    Raises:
        RequestRefused: it is too large.
        ClientDisconnect: the client left.
    """
    chunks: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse(body: bytes, model: type[Model]) -> Model:
    """Return what a body orders.

    Raises:
        RequestRefused: it is no JSON, or a field is wrong.
    """
    try:
        order = model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, model, ProblemKind.ORDER_REFUSED) from None
    if problems := list(_unusable(order)):
        raise fields_refused(problems, ProblemKind.ORDER_REFUSED)
    return order


def parse_submission(body: bytes) -> TaskOrder | GraphOrder:
    """Return the task or the graph that a body orders: a graph where the object has `tasks`.

    Raises:
        RequestRefused: it is no JSON, or a field is wrong.
    """
    if b'"tasks"' not in body:
        return parse(body, TaskOrder)
    try:
        return parse(body, GraphOrder)
    except RequestRefused as refusal:
        # The word may stand anywhere in a single task, such as in its metadata.
        if refusal.kind is ProblemKind.NOT_JSON:
            raise
        found = from_json(body)
        if isinstance(found, dict) and "tasks" not in found:
            return parse(body, TaskOrder)
        raise


def refusal_of_parameters(errors: Sequence[Any]) -> RequestRefused:
    """Return the refusal of wrong parameters of a query or path, as pydantic tells them."""
    problems = [
        FieldProblem(_dotted(error["loc"][1:]) or str(error["loc"][-1]), _given(error), _parameter_message(error))
        for error in errors
    ]
    return fields_refused(problems, ProblemKind.REQUEST_REFUSED)


def fields_refused(problems: Sequence[FieldProblem], kind: ProblemKind) -> RequestRefused:
    """Return the refusal of a request because of some fields."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return RequestRefused(
        kind, f"{first.field}: {first.message}{more}" if first.field else f"{first.message}{more}", errors=problems
    )


def _refusal(error: ValidationError, model: type[BaseModel], kind: ProblemKind) -> RequestRefused:
    told = error.errors(include_url=False)
    if told[0]["type"] == "json_invalid":
        return RequestRefused(ProblemKind.NOT_JSON, f"The body cannot be read: {told[0]['msg']}.")
    return fields_refused([FieldProblem(_dotted(one["loc"]), _given(one), _message(one, model)) for one in told], kind)


def _dotted(loc: Sequence[str | int]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _given(error: Mapping[str, Any]) -> object:
    # For a field that is missing pydantic shows the object around it.
    return None if error["type"] == "missing" else error.get("input")


def _message(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    kind, loc = error["type"], error["loc"]
    if kind == "missing":
        return "It is missing and must be given."
    if kind == "extra_forbidden":
        inside = next((_MODELS[part] for part in reversed(loc[:-1]) if part in _MODELS), model)
        allowed = "" if inside is None else f"; allowed are {', '.join(inside.model_fields)}"
        return f"There is no such field{allowed}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "It must be a JSON object."
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _parameter_message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "There is no such parameter here; /docs and /openapi.json list what there is."
    return _message(error, None)


def _unusable(order: BaseModel) -> Iterator[FieldProblem]:
    """Yield what the models let through and later readers could not take."""
    match order:
        case GraphOrder():
            for index, task in enumerate(order.tasks):
                yield from _unusable_in_task(task, f"tasks[{index}].")
        case ScheduleOrder():
            yield from _unusable_in_task(order.task, "task.")
        case TaskOrder():
            yield from _unusable_in_task(order, "")
        case GoalOrder():
            yield from _unusable_in_json(order.metadata, "metadata")


def _unusable_in_task(task: TaskOrder, prefix: str) -> Iterator[FieldProblem]:
    if task.metadata:
        yield from _unusable_in_json(task.metadata, f"{prefix}metadata")
    if task.output_schema:
        yield from _unusable_in_json(task.output_schema, f"{prefix}output_schema")
    for name, moment in (("not_before", task.not_before), ("deadline", task.deadline)):
        if moment is not None:
            try:
                moment.astimezone(UTC)
            except OverflowError:
                yield FieldProblem(f"{prefix}{name}", str(moment), "Allowed are the years 1 to 9999, in UTC.")


def _unusable_in_json(value: dict[str, Any], field: str) -> Iterator[FieldProblem]:
    rest: list[tuple[Any, str, int]] = [(value, field, 1)]
    while rest:
        found, where, depth = rest.pop()
        if depth > _DEEPEST:
            yield FieldProblem(field, where, f"It is nested too deeply; allowed are {_DEEPEST} levels.")
            return
        if isinstance(found, dict):
            rest.extend((below, f"{where}.{key}", depth + 1) for key, below in found.items())
        elif isinstance(found, list):
            rest.extend((below, f"{where}[{index}]", depth + 1) for index, below in enumerate(found))
        elif isinstance(found, float) and not math.isfinite(found):
            yield FieldProblem(where, found, "Allowed are finite numbers only: JSON has no others.")
