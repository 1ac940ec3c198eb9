"""`codehornets result` and `codehornets cancel`: what became of a task, and putting an end to it."""

from __future__ import annotations

import sys
from pathlib import Path

from agent_bus.files import write_atomic
from agent_bus.layout import CANCEL_SUFFIX
from agent_bus.messages import is_task_id
from orchestrator_service.cli.errors import EXIT_GAVE_UP, UserError
from orchestrator_service.cli.output import print_ending
from orchestrator_service.cli.places import find_shared_dir, find_worker
from orchestrator_service.cli.tasks import find_result, find_task
from orchestrator_service.cli.waiting import Ending, wait_for_result


def result(task_id: str, *, shared_dir: Path | None, wait: bool, give_up_after_s: float | None, as_json: bool) -> int:
    """Print the result; without one, say where the task is."""
    _check_id(task_id)
    shared = find_shared_dir(shared_dir)
    if wait:
        ending = wait_for_result(shared, task_id, worker=None, give_up_after_s=give_up_after_s)
        return print_ending(ending, task_id, as_json=as_json)
    if (found := find_result(shared, task_id)) is not None:
        return print_ending(Ending(result=found), task_id, as_json=as_json)
    where = find_task(shared, task_id)
    if where is None:
        raise UserError(f"No task {task_id} in {shared}: no result, and no worker has it.")
    print(
        f"codehornets: Task {task_id} has no result yet: it is {where.state} at {where.worker}; --wait waits for it.",
        file=sys.stderr,
    )
    return EXIT_GAVE_UP


def cancel(task_id: str, *, worker: str | None, shared_dir: Path | None) -> int:
    """Leave the marker that asks for the task's end; it holds even if the worker is down just now."""
    _check_id(task_id)
    shared = find_shared_dir(shared_dir)
    if (ended := find_result(shared, task_id)) is not None:
        raise UserError(f"Task {task_id} has ended already ({ended.status.value}); there is nothing to cancel.")
    if worker is None:
        where = find_task(shared, task_id)
        if where is None:
            raise UserError(f"No worker in {shared} has a task {task_id}; name the worker with --worker.")
        worker = where.worker
    marker = find_worker(shared, worker).tasks / f"{task_id}{CANCEL_SUFFIX}"
    try:
        write_atomic(marker, b"")
    except OSError as error:
        raise UserError(f"{marker} cannot be written: {error.strerror}; mend its directory or make room.") from error
    print(f"{worker} was told to cancel task {task_id}.")
    return 0


def _check_id(task_id: str) -> None:
    if not is_task_id(task_id):
        raise UserError(
            f"{task_id[:80]!r} is no task id; allowed are 1 to 128 letters, digits and ._:@+-, the first a letter or "
            "digit."
        )
