"""Routes of questions: what agents ask of people, and what people say to it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from fastapi import FastAPI, Query
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from agent_bus.questions import LONGEST_REASON, Decision
from orchestrator_service.api import examples
from orchestrator_service.api.auth import asker, header
from orchestrator_service.api.bodies import parse, read_body, read_bytes
from orchestrator_service.api.described import API, BODY_PROBLEMS, answer, answers, body, dump
from orchestrator_service.api.own_agents import refuse_own_agents
from orchestrator_service.api.problems import ProblemKind
from orchestrator_service.desk import Asker, Desk
from orchestrator_service.records import QuestionRecord
from orchestrator_service.settings import Role

_QUESTIONS: Final = TypeAdapter(list[QuestionRecord])

QuestionInPath = Annotated[str, InPath(description="The id of the question.", examples=["q-3f9a1c2b7d4e5f60"])]


class AnswerOrder(BaseModel):
    """What a person says with an answer; the agent hears it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    reason: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None


class Wanted(StrEnum):
    """Which questions to list."""

    OPEN = "open"
    ANSWERED = "answered"
    ALL = "all"


class QuestionsQuery(BaseModel):
    """Which questions to list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Annotated[Wanted, Field(description="`open`, `answered` (whatever came of them), or `all`.")] = Wanted.OPEN
    worker: Annotated[str | None, Field(max_length=63, description="Those of this worker.")] = None
    task: Annotated[str | None, Field(max_length=128, description="Those of this task.")] = None
    limit: Annotated[int, Field(ge=1, le=500, description="Questions at most.")] = 100


def add_question_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of questions to `app`."""

    @app.get(
        f"{API}/questions",
        tags=["questions"],
        summary="List questions",
        response_model=list[QuestionRecord],
        responses=answers(200, "The newest questions, newest first.", [examples.QUESTION], ProblemKind.REQUEST_REFUSED),
    )
    async def listed(query: Annotated[QuestionsQuery, Query()]) -> Response:
        """Return the questions that wait for a person, or those that did."""
        found = await desk.questions(
            state=query.state.value, worker=query.worker, task_id=query.task, limit=query.limit
        )
        return dump(_QUESTIONS, found)

    @app.get(
        f"{API}/questions/{{question_id}}",
        tags=["questions"],
        summary="Look at a question",
        response_model=QuestionRecord,
        responses=answers(200, "The question.", examples.QUESTION, ProblemKind.NOT_KNOWN),
    )
    async def shown(question_id: QuestionInPath) -> Response:
        """Return one question, and what came of it."""
        return answer(await desk.question(question_id))

    @app.post(
        f"{API}/questions/{{question_id}}/approve",
        tags=["questions"],
        summary="Allow what is asked for",
        response_model=QuestionRecord,
        responses=answers(200, "The tool runs, this once.", examples.APPROVED_QUESTION, *_ANSWER_PROBLEMS),
        openapi_extra=body(AnswerOrder, examples.ANSWER_ORDER, required=False),
    )
    async def approve(request: Request, question_id: QuestionInPath) -> Response:
        """Let the agent use the tool with the input that is shown, once. To an agent's own question the reason is the
        answer."""
        who = _person(request)
        reason = await _read_reason(request)
        return answer(await desk.answer_question(question_id, Decision.ALLOW, who, reason))

    @app.post(
        f"{API}/questions/{{question_id}}/deny",
        tags=["questions"],
        summary="Deny what is asked for",
        response_model=QuestionRecord,
        responses=answers(200, "The agent hears so, and goes on.", examples.DENIED_QUESTION, *_ANSWER_PROBLEMS),
        openapi_extra=body(AnswerOrder, examples.ANSWER_ORDER, required=False),
    )
    async def deny(request: Request, question_id: QuestionInPath) -> Response:
        """Keep the agent from it; it hears the reason and goes on without."""
        who = _person(request)
        reason = await _read_reason(request)
        return answer(await desk.answer_question(question_id, Decision.DENY, who, reason))


_ANSWER_PROBLEMS: Final = (
    *BODY_PROBLEMS,
    ProblemKind.NOT_KNOWN,
    ProblemKind.CONFLICT,
    ProblemKind.UNAVAILABLE,
)


def _person(request: Request) -> Asker:
    """Return who answers. Raises RequestRefused for who may not."""
    who = asker(request, Role.APPROVE)
    if request.scope["state"]["caller"].is_anybody:
        refuse_own_agents(request.scope)
    return who


async def _read_reason(request: Request) -> str | None:
    if header(request.scope, b"content-type") is not None:
        content = await read_body(request)
        return (parse(content, AnswerOrder).reason or None) if content else None
    # Without a type a body is no mistake as long as it is empty, as `curl -X POST` sends it.
    return None if not await read_bytes(request) else parse(await read_body(request), AnswerOrder).reason
