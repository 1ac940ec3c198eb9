"""`codehornets schedules`: tasks that recur."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from orchestrator_service.cli.api_place import need_api
from orchestrator_service.cli.moments import clock
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where

_HEADINGS: Final = ("name", "when", "time zone", "next", "last", "what came of it*")


@dataclass(frozen=True, kw_only=True)
class Recurring:
    """What was typed behind `schedules add`."""

    name: str
    cron: str
    prompt: str
    timezone: str | None = None
    worker: str | None = None
    role: str | None = None
    skills: tuple[str, ...] = ()
    overlap: str | None = None
    missed: str | None = None
    max_budget_usd: float | None = None


def list_schedules(*, where: Where, as_json: bool) -> int:
    """List what recurs."""
    place = need_api(where, "`schedules`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.schedules())
    if as_json:
        print_json([schedule.model_dump(mode="json") for schedule in found])
    elif not found:
        print('Nothing recurs yet; `codehornets schedules add NAME "0 8 * * 1-5" "…" --worker marie` adds something.')
    else:
        rows = (
            (
                each.name,
                each.cron,
                each.timezone,
                "paused" if each.paused else clock(each.next_at),
                clock(each.last_at),
                f"{each.last_outcome or ''} {each.last_task_id or ''}".strip(),
            )
            for each in found
        )
        print_table(_HEADINGS, rows)
    return 0


def add(typed: Recurring, *, where: Where, as_json: bool) -> int:
    """Make a task recur."""
    place = need_api(where, "`schedules add`")
    from pydantic import ValidationError

    from orchestrator_service.cli.order_problems import refuse
    from orchestrator_service.client import calls as api_calls
    from orchestrator_service.orders import ScheduleOrder

    task: dict[str, Any] = {
        "description": typed.prompt,
        "worker": typed.worker,
        "role": typed.role,
        "skills": list(typed.skills) or None,
        "max_budget_usd": typed.max_budget_usd,
    }
    fields: dict[str, Any] = {
        "name": typed.name,
        "cron": typed.cron,
        "timezone": typed.timezone,
        "overlap": typed.overlap,
        "missed": typed.missed,
        "task": {name: value for name, value in task.items() if value is not None},
    }
    try:
        fields = {name: value for name, value in fields.items() if value is not None}
        order = ScheduleOrder.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise refuse("The schedule is refused", error) from None
    made = api_calls.ask(place, api_calls.create_schedule(order))
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        print(harmless(f"{made.name} recurs; next at {clock(made.next_at)}."))
    return 0


def set_paused(name: str, *, paused: bool, where: Where, as_json: bool) -> int:
    """Hold a schedule, or let it go on."""
    place = need_api(where, "`schedules`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.set_schedule_paused(name, paused))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print(harmless(f"{found.name} {'is paused' if found.paused else f'goes on at {clock(found.next_at)}'}."))
    return 0


def remove(name: str, *, where: Where, as_json: bool) -> int:
    """Forget a schedule; the tasks it brought stay."""
    place = need_api(where, "`schedules`")
    from orchestrator_service.client import calls as api_calls

    api_calls.ask(place, api_calls.delete_schedule(name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        print(harmless(f"{name} recurs no more."))
    return 0
