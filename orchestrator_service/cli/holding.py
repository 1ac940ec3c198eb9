"""`codehornets pause`, `resume` and `budget`: what the team may do and spend."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator_service.cli.api_place import find_api, need_api, or_without
from orchestrator_service.cli.moments import money
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace
    from orchestrator_service.records import Told


def hold(worker: str, *, paused: bool, where: Where, as_json: bool) -> int:
    """Pause a worker or let it go on: by the API, else by the channels that `control` uses."""
    if (place := find_api(where)) is not None:
        told = or_without(place, partial(_by_api, worker, paused))
        if told is not None:
            return _tell(told, as_json=as_json)
    from orchestrator_service.cli.control import control

    word = "pause" if paused else "resume"
    return control(worker, word, None, shared_dir=where.shared_dir, redis=where.redis, as_json=as_json)


def _by_api(worker: str, paused: bool, place: ApiPlace) -> Told:
    from orchestrator_service.client import calls as api_calls

    return api_calls.ask(place, api_calls.pause(worker) if paused else api_calls.resume(worker))


def _tell(told: Told, *, as_json: bool) -> int:
    name = told.worker.name
    if as_json:
        print_json(told.model_dump(mode="json"))
    elif told.worker.paused:
        also = "and was told so" if told.told else "and could not be told: what it takes from elsewhere goes on"
        print(harmless(f"{name} gets no new tasks from the orchestrator until it is resumed, {also}."))
    else:
        print(harmless(f"{name} gets tasks again."))
    return 0


def budget(*, where: Where, as_json: bool) -> int:
    """Show what may be spent today and what is."""
    place = need_api(where, "`budget`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.budget())
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    of_limit = "no limit" if found.limit_usd is None else f"of {money(found.limit_usd)}"
    print(f"{found.day}: {money(found.spent_usd)} spent, {money(found.reserved_usd)} reserved, {of_limit}.")
    for what, limit in (("A task", found.task_limit_usd), ("A worker a day", found.worker_limit_usd)):
        if limit is not None:
            print(f"{what} may cost {money(limit)}.")
    return 0
