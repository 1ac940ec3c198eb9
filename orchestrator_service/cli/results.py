"""`codehornets result` and `codehornets cancel`: what became of a task, and putting an end to it."""

from __future__ import annotations

import sys
from pathlib import Path

from agent_bus.files import write_atomic
from agent_bus.layout import CANCEL_SUFFIX
from agent_bus.messages import is_task_id
from orchestrator_service.cli.channels import RedisAway, find_channels
from orchestrator_service.cli.errors import EXIT_GAVE_UP, UserError
from orchestrator_service.cli.output import print_ending
from orchestrator_service.cli.places import find_worker
from orchestrator_service.cli.tasks import find_result, find_task, has_ended
from orchestrator_service.cli.waiting import Ending, wait_for_result


def result(
    task_id: str,
    *,
    shared_dir: Path | None,
    redis: str | None,
    wait: bool,
    give_up_after_s: float | None,
    as_json: bool,
) -> int:
    """Print the result; without one, say where the task is. Files are looked at first, then Redis."""
    _check_id(task_id)
    channels = find_channels(shared_dir, redis)
    shared = channels.shared
    if shared is not None:
        if (found := find_result(shared, task_id)) is not None:
            return print_ending(Ending(result=found), task_id, as_json=as_json)
        where = find_task(shared, task_id)
        if wait and (where is not None or not channels.has_redis):
            ending = wait_for_result(shared, task_id, worker=None, give_up_after_s=give_up_after_s)
            return print_ending(ending, task_id, as_json=as_json)
        if where is not None:
            return _tell_state(task_id, where.worker, where.state)
    if not channels.has_redis:
        raise UserError(f"No task {task_id} in {shared}: no result, and no worker has it.")
    from orchestrator_service.cli import redis_tasks

    if wait:
        ending = redis_tasks.wait_anywhere(channels, task_id, give_up_after_s=give_up_after_s)
        return print_ending(ending, task_id, as_json=as_json)
    with channels.redis() as client:
        if (found := client.result(task_id)) is not None:
            return print_ending(Ending(result=found), task_id, as_json=as_json)
        there = client.find_task(task_id)
    if there is None:
        raise UserError(f"No task {task_id} in {channels.words}: no result, and no worker has it.")
    return _tell_state(task_id, *there)


def _tell_state(task_id: str, worker: str, state: str) -> int:
    print(
        f"codehornets: Task {task_id} has no result yet: it is {state} at {worker}; --wait waits for it.",
        file=sys.stderr,
    )
    return EXIT_GAVE_UP


def cancel(task_id: str, *, worker: str | None, shared_dir: Path | None, redis: str | None) -> int:
    """Leave the marker that asks for the task's end; it holds even if the worker is down just now."""
    _check_id(task_id)
    channels = find_channels(shared_dir, redis)
    where = None
    if channels.shared is not None:
        if (ended := find_result(channels.shared, task_id)) is not None:
            raise has_ended(task_id, ended)
        where = find_task(channels.shared, task_id)
    if where is None and channels.has_redis:
        from orchestrator_service.cli.redis_tasks import cancel_in_redis

        try:
            if cancel_in_redis(channels, task_id, worker):
                return 0
        except RedisAway as error:
            if channels.shared is None or worker is None:
                raise
            # The marker among the files holds for a task that is still to come there.
            print(f"codehornets: {error}", file=sys.stderr)
    if channels.shared is None or (where is None and worker is None):
        raise UserError(f"No worker in {channels.words} has a task {task_id}; name the worker with --worker.")
    return _leave_marker(channels.shared, task_id, worker if where is None or worker is not None else where.worker)


def _leave_marker(shared: Path, task_id: str, worker: str | None) -> int:
    assert worker is not None
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
