"""Why a task is not with a worker yet, in a sentence: computed when it is asked for, since it changes all the time."""

from __future__ import annotations

from typing import Any, Final

from orchestrator_service.ledger.rows import SUMMARY_COLUMNS, moment
from orchestrator_service.records import TaskState, WaitsFor
from orchestrator_service.scheduling.book import Book
from orchestrator_service.scheduling.routing import FleetView, Member, route_of

_AT: Final = {name.strip(): index for index, name in enumerate(SUMMARY_COLUMNS.split(","))}
_MOST_NAMED: Final = 5


def waits_for(row: tuple[Any, ...], fleet: FleetView, book: Book) -> WaitsFor | None:
    """Return what the task of a row of `SUMMARY_COLUMNS` waits for; None when it waits for nothing of ours."""
    match row[_AT["state"]]:
        case TaskState.BLOCKED:
            unmet = row[_AT["unmet"]]
            return _wait("dependencies", f"{unmet} of the {row[_AT['needs']]} tasks that it needs have not completed.")
        case TaskState.SCHEDULED:
            due = moment(row[_AT["next_at"]])
            when = "a moment" if due is None else due.isoformat(timespec="seconds").replace("+00:00", "Z")
            if row[_AT["error_kind"]] is None:
                return _wait("not_before", f"It is not to be sent before {when}.")
            return _wait("retry", f"It is tried again at {when}; the last time: {row[_AT['error_message']]}")
        case TaskState.READY:
            reserve, cost = row[_AT["reserve_usd"]], row[_AT["cost_usd"]]
            return _ready(row[_AT["lane"]], None if reserve is None else reserve - (cost or 0.0), fleet, book)
    return None


def _ready(lane: str, amount: float | None, fleet: FleetView, book: Book) -> WaitsFor:
    members = fleet.candidates(lane)
    if not members:
        route = route_of(lane)
        wanted = route.worker or " with ".join(filter(None, [route.role or "a worker", ", ".join(route.skills)]))
        return _wait("worker", f"There is no worker for it: {wanted}.")
    there = [member for member in members if member.up]
    if not there:
        return _wait("worker_down", f"{_names(members)} {_is(members)} down: no heartbeat.")
    taking = [member for member in there if member.takes]
    if not taking and (lost := next((member for member in there if member.unreachable and not member.paused), None)):
        return _wait("worker_down", f"{lost.name} cannot be reached now: {lost.unreachable}.")
    if not taking:
        return _wait("worker_paused", f"{_names(there)} {_is(there)} paused and {_takes(there)} nothing new.")
    free = [member for member in taking if book.in_flight[member.name] < member.cap]
    if not free:
        told = ", ".join(f"{member.name} has {book.in_flight[member.name]} of {member.cap}" for member in taking[:5])
        return _wait("slot", f"No place is free: {told} tasks in flight.")
    if amount is not None:
        lacks = [book.lacks(member.name, amount) for member in free if member.costs]
        if lacks and all(lacks):
            return _wait("budget", f"No money is left for it: {lacks[0]}.")
    return _wait("turn", "It is about to be sent.")


def _wait(kind: Any, message: str) -> WaitsFor:
    return WaitsFor.model_construct(kind=kind, message=message)


def _names(members: tuple[Member, ...] | list[Member]) -> str:
    names = [member.name for member in members]
    return ", ".join(names[:_MOST_NAMED]) + (" and others" if len(names) > _MOST_NAMED else "")


def _is(members: tuple[Member, ...] | list[Member]) -> str:
    return "is" if len(members) == 1 else "are"


def _takes(members: tuple[Member, ...] | list[Member]) -> str:
    return "takes" if len(members) == 1 else "take"
