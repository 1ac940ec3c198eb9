"""What the OpenAPI document says of each route beside its signature: bodies, examples, and all its problems."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from orchestrator_service.api import examples
from orchestrator_service.api.problems import PROBLEM_TYPE, Problem, ProblemKind, RequestRefused, problem
from orchestrator_service.errors import FieldProblem

API: Final = "/api/v1"
_REF: Final = "#/components/schemas/{model}"
_EVERYWHERE: Final = (
    ProblemKind.UNAUTHORIZED,
    ProblemKind.FORBIDDEN,
    ProblemKind.TOO_MANY_REQUESTS,
    ProblemKind.INTERNAL,
    ProblemKind.LEDGER_UNAVAILABLE,
)
BODY_PROBLEMS: Final = (
    ProblemKind.NOT_JSON,
    ProblemKind.TOO_LARGE,
    ProblemKind.UNSUPPORTED_MEDIA_TYPE,
    ProblemKind.ORDER_REFUSED,
)
"""What can be wrong wherever a body is read."""


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the answer: nothing is solved or converted on the way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def answers(
    status: int, description: str, example: object, *kinds: ProblemKind, media_type: str = "application/json"
) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route: the good one, `kinds` of problems, and those that every route has."""
    told: dict[int | str, dict[str, Any]] = {status: {"description": description}}
    if example is not None:
        told[status]["content"] = {media_type: {"example": example}}
    by_status: dict[int, list[ProblemKind]] = {}
    for kind in (*kinds, *_EVERYWHERE):
        by_status.setdefault(kind.status, []).append(kind)
    for code, these in sorted(by_status.items()):
        told[code] = {
            "description": " Or: ".join(kind.title for kind in these),
            "content": {
                PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}, "example": _example(these[0])}
            },
        }
        if code in (429, 503):
            told[code]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            }
    return told


def body(model: type[BaseModel], example: object, *, required: bool = True) -> dict[str, Any]:
    """Return the description of a body, as `openapi_extra` takes it."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema, "example": example}}}
    }


def described(app: FastAPI, inputs: list[type[BaseModel]]) -> Callable[[], dict[str, Any]]:
    """Return what makes the OpenAPI document of `app`, once.

    Args:
        app: Its routes are described.
        inputs: The models of bodies, which the routes read themselves.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, inputs)
        return app.openapi_schema

    return openapi


def dump(adapter: TypeAdapter[Any], value: object) -> Response:
    """Answer with a list or mapping of records."""
    return Response(adapter.dump_json(value), media_type="application/json")


def answer(record: BaseModel, status: int = 200, **headers: str) -> Response:
    """Answer with a record."""
    return Response(
        record.model_dump_json().encode(), status_code=status, headers=headers or None, media_type="application/json"
    )


def _document(app: FastAPI, inputs: list[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, defined = models_json_schema(
        [(model, "validation") for model in inputs] + [(Problem, "serialization")], ref_template=_REF
    )
    for name, schema in defined["$defs"].items():
        schemas.setdefault(name, schema)
    # FastAPI adds its own answer for wrong parameters where a route tells of none; here none of those can be wrong.
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of API_TOKEN or API_TOKENS. Where the orchestrator has none, none is needed.",
        }
    }
    document["security"] = [{"bearer": []}]
    return document


def _example(kind: ProblemKind) -> dict[str, Any]:
    known: dict[ProblemKind, tuple[str, list[FieldProblem]]] = {
        ProblemKind.ORDER_REFUSED: (
            f"{examples.FIELD_ERROR['field']}: {examples.FIELD_ERROR['message']}",
            [FieldProblem("tasks[3].retry.factor", 99, "Should be less than or equal to 10.")],
        ),
        ProblemKind.REQUEST_REFUSED: (
            "limit: Should be less than or equal to 500.",
            [FieldProblem("limit", "9000", "Should be less than or equal to 500.")],
        ),
        ProblemKind.NOT_KNOWN: ("There is no task 'task-7f3a9c'.", []),
        ProblemKind.UNAUTHORIZED: ("There is no token; send `Authorization: Bearer TOKEN`.", []),
        ProblemKind.FORBIDDEN: ("The token shop has the role read; this needs the role submit.", []),
        ProblemKind.CONFLICT: ("Task task-7f3a9c has not ended; it is running.", []),
    }
    detail, errors = known.get(kind, (kind.title, []))
    shown = problem(RequestRefused(kind, detail, errors=errors), f"{API}/tasks")
    return shown.model_dump(mode="json", exclude_defaults=True)
