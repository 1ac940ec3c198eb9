"""`codehornets submit`: give a worker a task."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_bus.heartbeats import is_alive, read_heartbeat
from agent_bus.messages import PRIORITY_RANKS, utc_now
from orchestrator_service.cli.api_place import find_api, need_api, or_without
from orchestrator_service.cli.channels import FILE, REDIS, Channels, check_via, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.moments import parse_moment
from orchestrator_service.cli.output import print_ending, print_json
from orchestrator_service.cli.places import find_worker, known_workers
from orchestrator_service.cli.tasks import hand_in, new_task_id
from orchestrator_service.cli.waiting import wait_for_result
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace
    from orchestrator_service.records import TaskSummary


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was typed."""

    worker: str | None
    prompt: str | None = None
    file: Path | None = None
    priority: str | None = None
    timeout_s: float | None = None
    session: str | None = None
    worktree: bool | None = None
    task_id: str | None = None
    title: str | None = None
    role: str | None = None
    skills: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    max_budget_usd: float | None = None
    retries: int | None = None
    not_before: str | None = None
    deadline: str | None = None

    @property
    def needs_api(self) -> tuple[str, ...]:
        """The options that were typed and mean nothing to a worker by itself."""
        typed = {
            "--role": self.role,
            "--skill": self.skills,
            "--depends-on": self.depends_on,
            "--retries": self.retries,
            "--not-before": self.not_before,
            "--deadline": self.deadline,
        }
        return tuple(option for option, value in typed.items() if value not in (None, ()))


def submit(order: Order, *, where: Where, wait: bool, give_up_after_s: float | None, as_json: bool) -> int:
    """Hand the task in and, if asked to, wait for its result; returns the exit code."""
    order = _sort_words(order)
    fields: dict[str, Any] = {
        "task_id": order.task_id or new_task_id(),
        "description": _prompt(order),
        "title": order.title,
        "worker": order.worker,
        "priority": None if order.priority is None else _priority(order.priority),
        "timeout": order.timeout_s,
        "session": order.session,
        "worktree": order.worktree,
        "max_budget_usd": order.max_budget_usd,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    further = _for_the_scheduler(order)
    if (place := find_api(where)) is not None:
        from orchestrator_service.cli.api_tasks import submit_to_api

        accepted = or_without(place, partial(submit_to_api, fields={**fields, **further}))
        if accepted is not None:
            return _after_the_api(place, accepted, wait, give_up_after_s, as_json=as_json)
    if order.needs_api:
        need_api(where, " and ".join(order.needs_api))
        raise UserError(f"{' and '.join(order.needs_api)} cannot be used without the orchestrator.")
    assert order.worker is not None
    channels = find_channels(where.shared_dir, where.redis)
    typed = where.redis is not None and not where.shared_dir
    way = check_via(where.via, channels) or _choose_way(channels, order.worker, typed=typed)
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


def _sort_words(order: Order) -> Order:
    """Return the order with its words in their places: beside a role or skill the first one is the prompt."""
    if not (order.role or order.skills) or order.worker is None:
        return order
    if order.prompt is not None or order.file is not None:
        raise UserError("A worker was named beside --role or --skill; leave it out: the role says who may do it.")
    return replace(order, worker=None, prompt=order.worker)


def _for_the_scheduler(order: Order) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "role": order.role,
        "skills": list(order.skills) or None,
        "dependencies": list(order.depends_on) or None,
        "retry": None if order.retries is None else {"max_retries": order.retries},
        "not_before": None if order.not_before is None else parse_moment("--not-before", order.not_before).isoformat(),
        "deadline": None if order.deadline is None else parse_moment("--deadline", order.deadline).isoformat(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _after_the_api(
    place: ApiPlace, accepted: TaskSummary, wait: bool, give_up_after_s: float | None, *, as_json: bool
) -> int:
    task_id = accepted.task_id
    if wait:
        from orchestrator_service.cli.api_tasks import wait_for_task

        return print_ending(wait_for_task(place, task_id, give_up_after_s=give_up_after_s), task_id, as_json=as_json)
    if as_json:
        print_json(accepted.model_dump(mode="json"))
    else:
        print(task_id)
    return 0


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
    if order.worker is None and not (order.role or order.skills):
        raise UserError("Missing argument WORKER; name a worker, or a role with --role.")
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
