"""`codehornets questions`, `approve` and `deny`: by the API, else where the questions lie."""

from __future__ import annotations

import getpass
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent_bus.question_files import all_question_files
from agent_bus.questions import LONGEST_REASON, Answer, AnswerFate, Decision, Question, late_sentence
from orchestrator_service.cli.api_place import find_api, or_without
from orchestrator_service.cli.channels import Channels, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.moments import clock, since
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace
    from orchestrator_service.records import QuestionRecord

T = TypeVar("T")

_STATES: Final = ("open", "answered", "all")
_HEADINGS: Final = ("question", "state", "worker", "task", "asked", "left", "what*")


def show_all(*, state: str, worker: str | None, limit: int, where: Where, as_json: bool) -> int:
    """List questions, newest first."""
    if state not in _STATES:
        raise UserError(f"--state is {state[:80]!r}; allowed are {', '.join(_STATES)}.")
    found = _by_api(where, partial(_list_by_api, state, worker, limit))
    elsewhere: list[str] = []
    if found is None:
        lying = _lying(where)
        found = _select(lying, state, worker)[:limit]
        elsewhere = [told for name, told in _lying_elsewhere(where, lying).items() if worker in (None, name)]
    if as_json:
        print_json([_as_json(question) for question in found])
    elif not found and elsewhere and state == "open":
        print("No question lies here.")
    elif not found:
        print("No question waits for an answer." if state == "open" else "There is no such question.")
    else:
        print_table(_HEADINGS, [_row(question) for question in found])
        for told in dict.fromkeys(getattr(question, "unreachable", None) for question in found):
            if told is not None:
                named = ", ".join(one.question_id for one in found if one.unreachable == told)
                print(harmless(f"{named}: {told}"))
    for told in elsewhere:
        # Not where the list goes: a program may read that.
        print(f"codehornets: {harmless(told)}", file=sys.stderr)
    return 0


def show(question_id: str, *, where: Where, as_json: bool) -> int:
    """Show all of one question."""
    question = _find(question_id, where)[0]
    if as_json:
        print_json(_as_json(question))
        return 0
    facts: list[tuple[str, str | None]] = [
        ("question", question.question_id),
        ("state", question.state.value),
        ("worker", question.worker),
        ("task", question.task_id),
        ("tool", question.tool),
        ("because", question.asked_because),
        ("asked", clock(question.asked_at)),
        ("until", "answered" if question.expires_at is None else clock(question.expires_at)),
        ("silence", question.policy.value),
        ("answered", None if question.answered_at is None else f"{clock(question.answered_at)} {_by(question)}"),
        ("reason", question.reason),
        ("now", getattr(question, "unreachable", None)),
    ]
    for name, text in facts:
        if text is not None:
            print(f"{name:<9} {' '.join(harmless(text).split())}")
    # As JSON, so that nothing in it looks like anything else; all of it, for that is what is decided on.
    print(harmless(json.dumps(question.input, indent=2, ensure_ascii=False, default=str)))
    return 0


def answer(question_id: str, *, allow: bool, reason: str | None, where: Where, as_json: bool) -> int:
    """Answer a question; the first answer counts."""
    if reason is not None and len(reason) > LONGEST_REASON:
        raise UserError(f"--reason has {len(reason):,} characters; allowed are {LONGEST_REASON:,}.")
    question, place = _find(question_id, where)
    record: Question | QuestionRecord
    if place is not None:
        from orchestrator_service.client import calls as api_calls

        call = api_calls.answer_question(question.question_id, allow=allow, reason=reason)
        record = api_calls.ask(place, call)
    else:
        record = _answer_where_it_lies(question, allow=allow, reason=reason, where=where)
    if as_json:
        print_json(_as_json(record))
    else:
        word = "allowed" if allow else "denied"
        print(harmless(f"{word}: {record.summary} ({record.worker}, task {record.task_id})"))
    return 0


def _answer_where_it_lies(question: Any, *, allow: bool, reason: str | None, where: Where) -> Question:
    decision = Decision.ALLOW if allow else Decision.DENY
    given = Answer(decision=decision, reason=reason or None, by=_me())
    channels = find_channels(where.shared_dir, where.redis)
    fate: AnswerFate | None = None
    for files in [] if channels.shared is None else all_question_files(channels.shared):
        if files.directory.name == question.worker and files.read(question.question_id) is not None:
            fate = files.answer(question.question_id, given)
    if fate is None and channels.has_redis:
        with channels.redis() as client:
            fate = client.answer_question(question.worker, question.question_id, given)
    if fate is AnswerFate.UNREACHABLE:
        raise UserError(
            f"Redis has lost question {question.question_id}; its worker puts it there again within seconds if it "
            "waits still: look at `codehornets questions`, and answer then."
        )
    if fate is not AnswerFate.COUNTS:
        # What it was a moment ago says less than what it is now.
        standing = next((one for one in _lying(where) if one.question_id == question.question_id), question)
        raise UserError(late_sentence(standing))
    return Question.model_validate({**question.model_dump(), "decision": decision, "answered_by": given.by})


def _me() -> str:
    try:
        return getpass.getuser()[:200]
    except (KeyError, OSError):
        # A container's user may have no name.
        return "somebody"


# -- where they are


def _by_api(where: Where, work: Callable[[ApiPlace], T]) -> T | None:
    place = find_api(where)
    return None if place is None else or_without(place, work)


def _list_by_api(state: str, worker: str | None, limit: int, place: ApiPlace) -> list[Any]:
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.questions(state, worker=worker, limit=limit))
    return [*found]


def _lying(where: Where) -> list[Question]:
    """Return what lies in the shared directory and in Redis, newest first."""
    channels: Channels = find_channels(where.shared_dir, where.redis)
    found: list[Question] = []
    if channels.shared is not None:
        found += [question for files in all_question_files(channels.shared) for question in files.all()]
    if channels.has_redis:
        with channels.redis() as client:
            found += client.questions()
    return sorted(found, key=lambda question: question.asked_at, reverse=True)


def _lying_elsewhere(where: Where, lying: list[Question]) -> dict[str, str]:
    """Return a sentence for each worker that beats in Redis and whose questions lie in a shared directory elsewhere."""
    channels = find_channels(where.shared_dir, where.redis)
    if not channels.has_redis:
        return {}
    with channels.redis() as client:
        beats = client.heartbeats()
    asked = Counter({beat.worker: 0 for beat in beats})
    for beat in beats:
        asked[beat.worker] += beat.open_questions
    asked.subtract(Counter(question.worker for question in lying if question.is_open))
    return {
        worker: f"{worker} asks {number} more in its shared directory, which this command does not see: answer by the "
        "orchestrator (--api URL), or where the directory is (--shared-dir DIRECTORY)."
        for worker, number in sorted(asked.items())
        if number > 0
    }


def _select(found: list[Question], state: str, worker: str | None) -> list[Any]:
    return [
        question
        for question in found
        if (state == "all" or question.is_open == (state == "open")) and worker in (None, question.worker)
    ]


def _find(beginning: str, where: Where) -> tuple[Any, ApiPlace | None]:
    """Return the question of an id, or of its beginning among the open ones, and the API that has it."""
    place = find_api(where)
    if place is not None:
        known = or_without(place, partial(_look_by_api, beginning))
        if known is not None:
            return _one(beginning, known), place
    lying = _lying(where)
    return _one(beginning, lying, lambda: _lying_elsewhere(where, lying).values()), None


def _look_by_api(beginning: str, place: ApiPlace) -> list[Any]:
    from orchestrator_service.cli.api_tasks import ask_or_nothing
    from orchestrator_service.client import calls as api_calls

    exact = ask_or_nothing(place, api_calls.question(beginning)) if beginning else None
    if exact is not None:
        return [exact]
    found = api_calls.ask(place, api_calls.questions("open", limit=500))
    return [*found]


def _one(beginning: str, known: list[Any], elsewhere: Callable[[], Iterable[str]] = tuple) -> Any:
    for question in known:
        if question.question_id == beginning:
            return question
    matching = [one for one in known if beginning and one.state == "open" and one.question_id.startswith(beginning)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(f"{len(matching)} open questions begin with {beginning[:80]!r}; type more of the id.")
    told = " ".join(elsewhere()) or "`codehornets questions` lists those that wait."
    raise UserError(f"There is no question {beginning[:80]!r}; {told}")


# -- in words


def _as_json(question: Any) -> dict[str, Any]:
    told: dict[str, Any] = question.model_dump(mode="json")
    told.pop("instance", None)
    return told


def _by(question: Any) -> str:
    return "" if question.answered_by is None else f"by {question.answered_by}"


def _row(question: Any) -> tuple[str, ...]:
    left = "-"
    if question.state == "open" and question.expires_at is not None:
        from agent_bus.messages import utc_now
        from orchestrator_service.cli.moments import ago

        left = ago((question.expires_at - utc_now()).total_seconds())
    state = question.state.value if question.answered_by is None else f"{question.state.value} {_by(question)}"
    return (
        question.question_id,
        state,
        question.worker,
        question.task_id,
        since(question.asked_at),
        left,
        question.summary,
    )
