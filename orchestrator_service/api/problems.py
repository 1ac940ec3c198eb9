"""Problem documents (RFC 9457): every answer that is none says what is wrong, where, and what to do about it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from orchestrator_service.errors import (
    Conflict,
    FieldProblem,
    LedgerUnavailable,
    NotKnown,
    OrchestratorError,
    OrderRefused,
    Unavailable,
)

PROBLEM_TYPE: Final = "application/problem+json"
LONGEST_SHOWN_VALUE: Final = 200
"""Characters of a wrong value that are shown."""
MOST_SHOWN_FIELDS: Final = 50
RETRY_AFTER_S: Final = 2
"""What clients are told to wait when a part is missing."""


@dataclass(frozen=True)
class _Kind:
    slug: str
    status: int
    title: str


class ProblemKind(Enum):
    """What can be wrong with a request."""

    NOT_JSON = _Kind("not-json", 400, "The body is no JSON.")
    UNAUTHORIZED = _Kind("unauthorized", 401, "A token is needed.")
    FORBIDDEN = _Kind("forbidden", 403, "The token may not do this.")
    HOST_REFUSED = _Kind("host-refused", 403, "Without tokens only this machine is served.")
    ORIGIN_REFUSED = _Kind("origin-refused", 403, "Pages of other sites may not ask.")
    NO_SUCH_PATH = _Kind("no-such-path", 404, "There is no such path.")
    NOT_KNOWN = _Kind("not-known", 404, "There is no such thing.")
    METHOD_NOT_ALLOWED = _Kind("method-not-allowed", 405, "The path does not take this method.")
    CONFLICT = _Kind("conflict", 409, "It does not go with how things are.")
    TOO_LARGE = _Kind("too-large", 413, "The body is too large.")
    UNSUPPORTED_MEDIA_TYPE = _Kind("unsupported-media-type", 415, "The body must be JSON.")
    ORDER_REFUSED = _Kind("order-refused", 422, "A field of the order is wrong.")
    REQUEST_REFUSED = _Kind("request-refused", 422, "A parameter or header is wrong.")
    TOO_MANY_REQUESTS = _Kind("too-many-requests", 429, "The token sends too many requests.")
    INTERNAL = _Kind("internal", 500, "Something unforeseen went wrong.")
    UNAVAILABLE = _Kind("unavailable", 503, "It cannot be done now.")
    LEDGER_UNAVAILABLE = _Kind("ledger-unavailable", 503, "The ledger cannot be used now.")
    STOPPING = _Kind("stopping", 503, "The orchestrator is stopping.")

    @property
    def slug(self) -> str:
        """The last part of the kind's URI."""
        return self.value.slug

    @property
    def status(self) -> int:
        """The HTTP status that goes with it."""
        return self.value.status

    @property
    def title(self) -> str:
        """One sentence that is the same each time."""
        return self.value.title


class FieldError(BaseModel):
    """One field that cannot be accepted."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="Where it is, such as `tasks[3].retry.factor`; empty for the body as a whole.")
    value: str | int | float | bool | None = Field(
        description="What was given, up to 200 characters; null where nothing was."
    )
    message: str = Field(description="What is wrong, and what is allowed.")


class Problem(BaseModel):
    """What went wrong with a request (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="Which kind of problem, as a URI that stays the same.")
    title: str = Field(description="The kind in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="This case in one sentence.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[FieldError] = Field(default=[], description="The fields that are wrong, where some are.")


class RequestRefused(Exception):
    """A request that ends in a problem document."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.errors, self.headers = kind, detail, tuple(errors), dict(headers or {})


def as_refusal(error: OrchestratorError, *, asked: bool = False) -> RequestRefused:
    """Return what the desk raised as a problem of the request, which was `asked` by parameters or ordered by a body."""
    later = {"Retry-After": str(RETRY_AFTER_S)}
    match error:
        case OrderRefused():
            kind = ProblemKind.REQUEST_REFUSED if asked else ProblemKind.ORDER_REFUSED
            return RequestRefused(kind, str(error), errors=error.problems)
        case NotKnown():
            return RequestRefused(ProblemKind.NOT_KNOWN, str(error))
        case Conflict():
            return RequestRefused(ProblemKind.CONFLICT, str(error))
        case LedgerUnavailable():
            return RequestRefused(ProblemKind.LEDGER_UNAVAILABLE, str(error), headers=later)
        case Unavailable():
            return RequestRefused(ProblemKind.UNAVAILABLE, str(error), headers=later)
        case _:
            return RequestRefused(ProblemKind.UNAVAILABLE, str(error), headers=later)


def problem(refusal: RequestRefused, path: str) -> Problem:
    """Return the document that tells of a refusal."""
    kind = refusal.kind
    return Problem(
        type=f"/problems/{kind.slug}",
        title=kind.title,
        status=kind.status,
        detail=refusal.detail,
        instance=path[:LONGEST_SHOWN_VALUE],
        errors=[
            FieldError(field=found.field, value=_shown(found.value), message=found.message)
            for found in refusal.errors[:MOST_SHOWN_FIELDS]
        ],
    )


def answer_problem(refusal: RequestRefused, path: str) -> Response:
    """Return the answer that tells of a refusal."""
    return Response(
        problem(refusal, path).model_dump_json(),
        status_code=refusal.kind.status,
        headers={**refusal.headers, "Cache-Control": "no-store"},
        media_type=PROBLEM_TYPE,
    )


def _shown(value: object) -> str | int | float | bool | None:
    # Beyond 2**53 many readers of JSON lose digits, and a longer number is as long as a text may be.
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= 2**53):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else _as_json(value)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_SHOWN_VALUE else f"{text[: LONGEST_SHOWN_VALUE - 1]}…"


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
