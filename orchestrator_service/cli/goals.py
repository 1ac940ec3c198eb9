"""`codehornets goal` and `goals`: give the team a goal, see how the agent goes about it, get its synthesis."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from orchestrator_service.cli.api_place import need_api
from orchestrator_service.cli.errors import EXIT_CODES, EXIT_GAVE_UP, UserError
from orchestrator_service.cli.moments import clock, money, since
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace
    from orchestrator_service.records import GoalRecord

_HEADINGS: Final = ("goal", "state", "asked", "tasks>", "cost>", "what it is*")
_LONGEST_SHOWN: Final = 160
_SHOWN: Final = ("goal_started", "goal_says", "goal_uses", "goal_waits", "task_submitted", "task_sent", "task_ended")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What was typed."""

    words: str
    max_tasks: int | None = None
    max_budget_usd: float | None = None
    timeout_s: float | None = None
    model: str | None = None


def goal(typed: Goal, *, where: Where, wait: bool, give_up_after_s: float | None, as_json: bool) -> int:
    """Hand a goal in and, if asked to, follow it to its end; returns the exit code."""
    place = need_api(where, "`goal`")
    from pydantic import ValidationError

    from orchestrator_service.cli.order_problems import refuse
    from orchestrator_service.client import calls as api_calls
    from orchestrator_service.orders import GoalOrder

    words = sys.stdin.buffer.read().decode("utf-8", "replace") if typed.words == "-" else typed.words
    if not words.strip():
        raise UserError("The goal is empty; say what is to be reached.")
    fields = {
        "goal": words,
        "max_tasks": typed.max_tasks,
        "max_budget_usd": typed.max_budget_usd,
        "timeout": typed.timeout_s,
        "model": typed.model,
    }
    try:
        order = GoalOrder.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise refuse("The goal is refused", error) from None
    begun = api_calls.ask(place, api_calls.create_goal(order))
    if not wait:
        if as_json:
            print_json(begun.model_dump(mode="json"))
        else:
            print(begun.goal_id)
        return 0
    print(f"Goal {begun.goal_id} (Ctrl-C leaves it to itself).", file=sys.stderr, flush=True)
    return follow(place, begun.goal_id, give_up_after_s=give_up_after_s, as_json=as_json)


def follow(place: ApiPlace, goal_id: str, *, give_up_after_s: float | None, as_json: bool) -> int:
    """Show on stderr what is done for a goal until it has ended, then print its synthesis."""
    ended = anyio.run(partial(_follow, place, goal_id, give_up_after_s))
    if as_json:
        print_json(ended.model_dump(mode="json"))
    elif ended.output:
        print(harmless(ended.output) if sys.stdout.isatty() else ended.output)
    sys.stdout.flush()
    if ended.ended_at is None:
        print(
            f"codehornets: Goal {goal_id} is not reached yet; `codehornets goals show {goal_id}` tells how it is.",
            file=sys.stderr,
        )
        return EXIT_GAVE_UP
    print(f"Goal {goal_id}: {_in_short(ended)}.", file=sys.stderr)
    return EXIT_CODES[ended.state.value]


def _in_short(goal: GoalRecord) -> str:
    state = goal.state.value.replace("_", " ")
    reason = f": {harmless(goal.error.message).rstrip('.')}" if goal.error is not None else ""
    return f"{state}{reason}, {len(goal.task_ids)} tasks, {money(goal.cost_usd, goal.notional_cost_usd)}"


async def _follow(place: ApiPlace, goal_id: str, give_up_after_s: float | None) -> GoalRecord:
    from orchestrator_service.cli.patience import Patience
    from orchestrator_service.client import calls as api_calls
    from orchestrator_service.client.streams import ApiClient

    patience = Patience("The API")
    position: str | None = None
    path = f"/goals/{api_calls.segment(goal_id)}"
    async with ApiClient(place) as client:
        with anyio.move_on_after(give_up_after_s):
            while True:
                stream = client.stream(
                    f"{path}/events", after=position, on_lost=patience.say, on_open=patience.answered
                )
                async for event in stream:
                    position = event.id or position
                    _show(event.event, event.data)
                found = await client.ask(api_calls.goal(goal_id))
                if found.ended_at is not None:
                    return found
                # The stream ends as well when the service stops; then it is asked again when it is back.
                await anyio.sleep(1.0)
        return await client.ask(api_calls.goal(goal_id))


def _show(name: str, data: bytes) -> None:
    if name not in _SHOWN:
        return
    try:
        told = json.loads(data)
        content = told.get("data") or {}
    except (ValueError, AttributeError):
        return
    match name:
        case "goal_says":
            text = str(content.get("text", ""))
        case "goal_uses":
            text = f"→ {content.get('tool')} {content.get('input')}"
        case "goal_started":
            text = "the agent begins" if content.get("attempt") in (None, 1) else "the agent goes on"
        case "goal_waits":
            text = f"waits: {content.get('message')}"
        case _:
            what = name.removeprefix("task_").replace("_", " ")
            at = f" ({told['worker']})" if told.get("worker") else ""
            outcome = f": {content['status']}" if content.get("status") else ""
            text = f"  task {told.get('task_id')} {what}{at}{outcome}"
    text = " ".join(harmless(text).split()) if not text.startswith("  ") else harmless(text)
    print(text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…", file=sys.stderr, flush=True)


def list_goals(*, where: Where, limit: int, as_json: bool) -> int:
    """List the newest goals."""
    place = need_api(where, "`goals`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.goals(limit))
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
    elif not found:
        print('There is no goal yet; `codehornets goal "…"` gives one.')
    else:
        rows = (
            (
                each.goal_id,
                each.state.value.replace("_", " "),
                since(each.submitted_at),
                str(len(each.task_ids)),
                money(each.cost_usd, each.notional_cost_usd),
                each.goal,
            )
            for each in found
        )
        print_table(_HEADINGS, rows)
    return 0


def show_goal(goal_id: str, *, where: Where, as_json: bool) -> int:
    """Show all that is known of one goal."""
    place = need_api(where, "`goals show`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.goal(goal_id))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    facts = [
        ("goal", " ".join(found.goal.split())),
        ("state", found.state.value.replace("_", " ")),
        ("error", None if found.error is None else found.error.message),
        ("asked by", f"{found.submitted_by}, {clock(found.submitted_at)}"),
        ("ended", None if found.ended_at is None else clock(found.ended_at)),
        ("cost", money(found.cost_usd, found.notional_cost_usd)),
        ("tasks", ", ".join(found.task_ids) or "none"),
    ]
    for name, text in facts:
        if text is not None:
            print(harmless(f"{name:<9} {text}"))
    if found.output:
        print(f"\n{harmless(found.output)}")
    return 0


def cancel_goal(goal_id: str, *, where: Where, as_json: bool) -> int:
    """End a goal and its open tasks."""
    place = need_api(where, "`goals cancel`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.cancel_goal(goal_id))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print(harmless(f"Goal {goal_id} is {found.state.value.replace('_', ' ')}."))
    return 0
