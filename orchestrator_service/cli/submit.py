"""`codehornets submit`: give a worker a task."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_bus.heartbeats import is_alive, read_heartbeat
from agent_bus.messages import PRIORITY_RANKS, utc_now
from orchestrator_service.cli.channels import FILE, REDIS, Channels, check_via, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_ending, print_json
from orchestrator_service.cli.places import find_worker, known_workers
from orchestrator_service.cli.tasks import hand_in, new_task_id
from orchestrator_service.cli.waiting import wait_for_result


@dataclass(frozen=True)
class Order:
    """What was typed."""

    worker: str
    prompt: str | None = None
    file: Path | None = None
    priority: str | None = None
    timeout_s: float | None = None
    session: str | None = None
    task_id: str | None = None


def submit(
    order: Order,
    *,
    shared_dir: Path | None,
    redis: str | None,
    via: str | None,
    wait: bool,
    give_up_after_s: float | None,
    as_json: bool,
) -> int:
    """Hand the task in and, if asked to, wait for its result; returns the exit code."""
    fields: dict[str, Any] = {
        "task_id": order.task_id or new_task_id(),
        "description": _prompt(order),
        "worker": order.worker,
        "priority": None if order.priority is None else _priority(order.priority),
        "timeout": order.timeout_s,
        "session": order.session,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    channels = find_channels(shared_dir, redis)
    way = check_via(via, channels) or _choose_way(channels, order.worker, typed=redis is not None and not shared_dir)
    if way == REDIS:
        from orchestrator_service.cli.redis_tasks import submit_to_redis

        return submit_to_redis(
            channels,
            order.worker,
            fields,
            may_be_used=order.task_id is not None,
            wait=wait,
            give_up_after_s=give_up_after_s,
            as_json=as_json,
        )
    assert channels.shared is not None
    return _submit_file(channels.shared, order.worker, fields, wait, give_up_after_s, as_json=as_json)


def _choose_way(channels: Channels, worker: str, *, typed: bool) -> str:
    """Return `file` or `redis` where the sender does not say; `typed` tells that a Redis was, and no directory."""
    if channels.shared is None or typed:
        return REDIS
    if not channels.has_redis or worker in known_workers(channels.shared):
        return FILE
    # It may be a worker of another host; a name that nobody bears is refused for the shared directory's sake.
    from orchestrator_service.cli.redis_tasks import lives_in_redis

    return REDIS if lives_in_redis(channels, worker) else FILE


def _submit_file(
    shared: Path, worker: str, fields: dict[str, Any], wait: bool, give_up_after_s: float | None, *, as_json: bool
) -> int:
    layout = find_worker(shared, worker)
    if not layout.triggers.is_dir():
        raise UserError(f"{layout.triggers} is not there; start {worker} once, it makes its directories.")
    since = utc_now()
    trigger = hand_in(layout, worker, fields)
    task_id: str = fields["task_id"]
    beat = read_heartbeat(layout.heartbeat(worker))
    if beat is None or not is_alive(beat):
        print(
            f"codehornets: {worker} does not run now; the task waits for it (`codehornets up` starts the team).",
            file=sys.stderr,
        )
    if wait:
        ending = wait_for_result(shared, task_id, worker=worker, give_up_after_s=give_up_after_s, since=since)
        return print_ending(ending, task_id, as_json=as_json)
    if as_json:
        print_json({"task_id": task_id, "worker": worker, "trigger": str(trigger)})
    else:
        print(task_id)
    return 0


def _prompt(order: Order) -> str:
    if order.file is not None and order.prompt is not None:
        raise UserError("A prompt and --file were both given; give one of them.")
    if order.file is None and order.prompt is None:
        raise UserError('There is no prompt; give it as an argument, with --file, or "-" to read standard input.')
    from_stdin = order.prompt == "-" or order.file == Path("-")
    name = "standard input" if from_stdin else str(order.file)
    try:
        if from_stdin:
            text = sys.stdin.buffer.read().decode()
        elif order.file is not None:
            text = order.file.read_text(encoding="utf-8")
        else:
            text = order.prompt or ""
            name = "the prompt"
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}).") from error
    if not text.strip():
        raise UserError(f"{name[:1].upper()}{name[1:]} is empty; say what is to be done.")
    return text


def _priority(text: str) -> str | int:
    if text in PRIORITY_RANKS:
        return text
    try:
        return int(text)
    except ValueError as error:
        words = ", ".join(PRIORITY_RANKS)
        raise UserError(f"--priority is {text!r}; allowed are {words} or a whole number.") from error
