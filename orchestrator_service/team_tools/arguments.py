"""What a model gives to each tool of the team. The docstrings are what the model is told: write them for it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agent_bus.questions import LONGEST_REASON
from orchestrator_service.orders import LONGEST_DESCRIPTION, MOST_DEPENDENCIES

LONGEST_WAIT_S: Final = 600
_USUAL_WAIT_S: Final = 300

_CONFIG: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _without_a_blank(value: object) -> object:
    # Models fill in fields that they do not need with empty texts.
    return None if value == "" else value


_Name = Annotated[str | None, BeforeValidator(_without_a_blank)]
_TaskId = Annotated[str, Field(min_length=1, max_length=128)]


class ListWorkers(BaseModel):
    """List the workers of the team: name, role, skills, whether each is up, and how busy it is.

    Look here before you delegate: roles, skills and names in other tools must be ones that are listed here.
    """

    model_config = _CONFIG


class SubmitTask(BaseModel):
    """Hand a task to the team and return at once with its id and state; get what came of it with wait_for_tasks.

    Choose who does it by `role` or `skills` (whoever is free takes it), by `worker` (this one and no other), or by
    none of them (anybody). A worker sees nothing but the description: not this conversation, not other tasks, not
    their results. So put everything into it that is needed. To hand the outcome of another task on, name that task
    in `dependencies` and write {{results.TASK_ID.output}} where its output is to stand.
    Independent tasks run at the same time: hand all of them in before you wait.
    """

    model_config = _CONFIG

    description: Annotated[
        str,
        Field(
            min_length=1,
            max_length=LONGEST_DESCRIPTION,
            description="The whole prompt for the worker, complete in itself: what to do, with which facts, and what "
            "the answer must look like.",
        ),
    ]
    role: Annotated[_Name, Field(description="Any worker of this role, as list_workers names it.")] = None
    skills: Annotated[
        list[str] | None, Field(max_length=50, description="Any worker that has all of these skills.")
    ] = None
    worker: Annotated[_Name, Field(description="This worker and no other.")] = None
    title: Annotated[_Name, Field(max_length=200, description="A few words for people who watch.")] = None
    dependencies: Annotated[
        list[_TaskId] | None,
        Field(
            max_length=MOST_DEPENDENCIES,
            description="Ids of tasks that must have completed before this one starts; it fails if one of them fails.",
        ),
    ] = None
    priority: Annotated[
        Literal["low", "normal", "high", "urgent"] | None, Field(description="normal unless you say otherwise.")
    ] = None
    timeout: Annotated[float | None, Field(gt=0, le=30 * 86_400, description="Seconds that the worker may take.")] = (
        None
    )
    max_budget_usd: Annotated[
        float | None, Field(gt=0, le=1_000_000, description="US dollars that the worker may spend on it.")
    ] = None
    session: Annotated[
        _Name,
        Field(
            max_length=200,
            description="Tasks that name the same session share one conversation at one worker: give a follow-up the "
            "name that the first task had.",
        ),
    ] = None
    output_schema: Annotated[
        dict[str, Any] | None,
        Field(description="A JSON schema of type object: the worker then answers with such an object."),
    ] = None
    parent: Annotated[
        _Name,
        Field(max_length=128, description="The id of the task in whose course you ask, if you work on one yourself."),
    ] = None


class WaitForTasks(BaseModel):
    """Wait until tasks have ended; returns state and output of each, or how things stand when the time is over.

    States that are final: completed, failed, timed_out, cancelled. Waiting costs nothing, so wait long rather than
    often.
    """

    model_config = _CONFIG

    task_ids: Annotated[list[_TaskId], Field(min_length=1, max_length=200)]
    timeout_seconds: Annotated[
        float, Field(ge=0, le=LONGEST_WAIT_S, description="0 only looks; at most 600, call again to wait longer.")
    ] = _USUAL_WAIT_S
    any: Annotated[bool, Field(description="Return as soon as one of them has ended, instead of all.")] = False


class GetResult(BaseModel):
    """Return what came of one task that has ended; for a long output, the part from `offset` on."""

    model_config = _CONFIG

    task_id: _TaskId
    offset: Annotated[int, Field(ge=0, description="Characters of the output to leave out.")] = 0


class CancelTask(BaseModel):
    """End a task that is not needed any more, whether it waits or runs."""

    model_config = _CONFIG

    task_id: _TaskId
    reason: Annotated[str, Field(max_length=500, description="One sentence for people.")] = ""


class SendMessage(BaseModel):
    """Say something to one worker in a conversation that goes on from message to message, and return its answer.

    For questions and follow-ups; for a piece of work use submit_task. The worker remembers the earlier messages of
    the conversation, and nothing else.
    """

    model_config = _CONFIG

    to: Annotated[str, Field(min_length=1, max_length=128, description="The name of a worker.")]
    message: Annotated[str, Field(min_length=1, max_length=LONGEST_DESCRIPTION)]
    conversation: Annotated[
        _Name,
        Field(
            max_length=200,
            description="The session to go on in, such as that of a task; default: your own standing conversation with "
            "this worker. A conversation lives at one worker.",
        ),
    ] = None
    wait: Annotated[bool, Field(description="false returns the task's id at once.")] = True
    timeout_seconds: Annotated[float, Field(ge=0, le=LONGEST_WAIT_S)] = _USUAL_WAIT_S


class ListQuestions(BaseModel):
    """List what agents of the team ask people: permissions to use a tool that their rules leave open.

    Show them to the person you work for, with the whole input; the decision is theirs.
    """

    model_config = _CONFIG

    worker: Annotated[_Name, Field(max_length=63, description="Those of this worker alone.")] = None


class AnswerQuestion(BaseModel):
    """Answer one question, for the person you work for and as they said; the first answer counts.

    `allow` lets this one call run and nothing else; on `deny` the agent hears the reason and goes on without.
    """

    model_config = _CONFIG

    question_id: Annotated[str, Field(min_length=1, max_length=64)]
    decision: Literal["allow", "deny"]
    reason: Annotated[
        _Name,
        Field(max_length=LONGEST_REASON, description="What the agent hears; to a question with words, the answer."),
    ] = None
