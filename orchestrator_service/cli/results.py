"""`codehornets result` and `codehornets cancel`: what became of a task, and putting an end to it."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_bus.files import write_atomic
from agent_bus.layout import CANCEL_SUFFIX
from agent_bus.messages import is_task_id
from orchestrator_service.cli.api_place import find_api, or_without
from orchestrator_service.cli.channels import Channels, RedisAway, find_channels
from orchestrator_service.cli.errors import EXIT_GAVE_UP, UserError
from orchestrator_service.cli.output import print_ending, print_json
from orchestrator_service.cli.places import find_worker
from orchestrator_service.cli.tasks import find_result, find_task, has_ended
from orchestrator_service.cli.waiting import Ending, wait_for_result
from orchestrator_service.cli.where import API, Where

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace


def result(task_id: str, *, where: Where, wait: bool, give_up_after_s: float | None, as_json: bool) -> int:
    """Print the result; without one, say where the task is. The API is asked first, then files, then Redis."""
    check_id(task_id)
    if (place := find_api(where)) is not None:
        from orchestrator_service.cli import api_results

        look = partial(api_results.result, task_id=task_id, wait=wait, give_up_after_s=give_up_after_s, as_json=as_json)
        if (code := or_without(place, look)) is not None:
            return code
        # A task that was given to a worker directly may not be known there yet.
        no_other_way(where, place, task_id)
    channels = find_channels(where.shared_dir, where.redis)
    shared = channels.shared
    if shared is not None:
        if (found := find_result(shared, task_id)) is not None:
            return print_ending(Ending(result=found), task_id, as_json=as_json)
        there = find_task(shared, task_id)
        if wait and (there is not None or not channels.has_redis):
            ending = wait_for_result(shared, task_id, worker=None, give_up_after_s=give_up_after_s)
            return print_ending(ending, task_id, as_json=as_json)
        if there is not None:
            return _tell_state(task_id, there.worker, there.state)
    if not channels.has_redis:
        raise UserError(f"No task {task_id} in {shared}: no result, and no worker has it.")
    from orchestrator_service.cli import redis_tasks

    if wait:
        ending = redis_tasks.wait_anywhere(channels, task_id, give_up_after_s=give_up_after_s)
        return print_ending(ending, task_id, as_json=as_json)
    with channels.redis() as client:
        if (found := client.result(task_id)) is not None:
            return print_ending(Ending(result=found), task_id, as_json=as_json)
        held = client.find_task(task_id)
    if held is None:
        raise UserError(f"No task {task_id} in {channels.words}: no result, and no worker has it.")
    return _tell_state(task_id, *held)


def _tell_state(task_id: str, worker: str, state: str) -> int:
    print(
        f"codehornets: Task {task_id} has no result yet: it is {state} at {worker}; --wait waits for it.",
        file=sys.stderr,
    )
    return EXIT_GAVE_UP


def cancel(task_id: str, *, worker: str | None, where: Where, as_json: bool) -> int:
    """End a task: by the API, else by the marker that asks for it, which holds even if the worker is down just now."""
    check_id(task_id)
    if (place := find_api(where)) is not None:
        from orchestrator_service.cli import api_results

        if (ended := or_without(place, partial(api_results.cancel, task_id=task_id))) is not None:
            _tell_cancelled(task_id, ended.worker, ended.model_dump(mode="json"), as_json=as_json)
            return 0
        no_other_way(where, place, task_id)
    name = _cancel_without_api(task_id, worker, find_channels(where.shared_dir, where.redis))
    _tell_cancelled(task_id, name, {"task_id": task_id, "worker": name}, as_json=as_json)
    return 0


def no_other_way(where: Where, place: ApiPlace, task_id: str) -> None:
    """Raise the error that the orchestrator knows no such task, if there is no other place where it may be.

    Raises:
        UserError: there is none.
    """
    if where.via != API:
        with suppress(UserError):
            find_channels(where.shared_dir, where.redis)
            return
    raise UserError(f"The orchestrator at {place.url} knows no task {task_id}.")


def _tell_cancelled(task_id: str, worker: str | None, content: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(content)
    elif content.get("state") == "cancelled" or worker is None:
        print(f"Task {task_id} is cancelled.")
    else:
        print(f"{worker} was told to cancel task {task_id}.")


def _cancel_without_api(task_id: str, worker: str | None, channels: Channels) -> str:
    """Ask for the end of the task; returns whose it is."""
    where = None
    if channels.shared is not None:
        if (ended := find_result(channels.shared, task_id)) is not None:
            raise has_ended(task_id, ended)
        where = find_task(channels.shared, task_id)
    if where is None and channels.has_redis:
        from orchestrator_service.cli.redis_tasks import cancel_in_redis

        try:
            if (name := cancel_in_redis(channels, task_id, worker)) is not None:
                return name
        except RedisAway as error:
            if channels.shared is None or worker is None:
                raise
            # The marker among the files holds for a task that is still to come there.
            print(f"codehornets: {error}", file=sys.stderr)
    if channels.shared is None or (where is None and worker is None):
        raise UserError(f"No worker in {channels.words} has a task {task_id}; name the worker with --worker.")
    return _leave_marker(channels.shared, task_id, worker if where is None or worker is not None else where.worker)


def _leave_marker(shared: Path, task_id: str, worker: str | None) -> str:
    assert worker is not None
    marker = find_worker(shared, worker).tasks / f"{task_id}{CANCEL_SUFFIX}"
    try:
        write_atomic(marker, b"")
    except OSError as error:
        raise UserError(f"{marker} cannot be written: {error.strerror}; mend its directory or make room.") from error
    return worker


def check_id(task_id: str) -> None:
    """Raise a UserError unless a task may be called so."""
    if not is_task_id(task_id):
        raise UserError(
            f"{task_id[:80]!r} is no task id; allowed are 1 to 128 letters, digits and ._:@+-, the first a letter or "
            "digit."
        )
