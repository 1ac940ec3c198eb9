"""`codehornets result` and `cancel` by the API."""

from __future__ import annotations

import sys

from orchestrator_service.cli.api_tasks import (
    CONFLICT,
    NOT_THERE,
    ask_or_nothing,
    result_of,
    wait_for_task,
    where_it_is,
)
from orchestrator_service.cli.errors import EXIT_GAVE_UP
from orchestrator_service.cli.output import print_ending
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.waiting import Ending
from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiPlace, ApiRefused
from orchestrator_service.records import TaskSummary


def result(place: ApiPlace, *, task_id: str, wait: bool, give_up_after_s: float | None, as_json: bool) -> int | None:
    """Print the result and return the exit code; None where the orchestrator knows no such task."""
    try:
        if wait and ask_or_nothing(place, api_calls.task(task_id)) is not None:
            ending = wait_for_task(place, task_id, give_up_after_s=give_up_after_s)
        else:
            ending = Ending(result=result_of(api_calls.ask(place, api_calls.result(task_id))))
    except ApiRefused as refusal:
        if refusal.status == NOT_THERE:
            return None
        if refusal.status != CONFLICT:
            raise
        task = api_calls.ask(place, api_calls.task(task_id))
        words = harmless(where_it_is(task))
        print(f"codehornets: Task {task_id} has no result yet: it is {words}; --wait waits for it.", file=sys.stderr)
        return EXIT_GAVE_UP
    return print_ending(ending, task_id, as_json=as_json)


def cancel(place: ApiPlace, *, task_id: str) -> TaskSummary | None:
    """End a task; None where the orchestrator knows no such task."""
    return ask_or_nothing(place, api_calls.cancel(task_id))
