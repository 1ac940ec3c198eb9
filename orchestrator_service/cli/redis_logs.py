"""`codehornets logs --task ID -f` for a task in Redis: its events are told while they happen, and kept nowhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pydantic import ValidationError

from agent_bus.errors import BusError, QueueUnavailable
from agent_bus.messages import Event
from agent_bus.redis.client import RedisClient
from orchestrator_service.cli.channels import Channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.patience import Patience
from orchestrator_service.cli.redis_tasks import check_name

_LOOK_S = 5.0
"""After so long without an event it is asked whether the task has ended: not every worker tells."""
_LATE_S = 0.2
"""So long its last events are waited for once it has its result: they take another way."""


def logs_from_redis(
    channels: Channels, task_id: str, worker: str | None, *, follow: bool, show: Callable[[str], str]
) -> bool:
    """Show what the agent of a task in Redis does until it has ended; False where Redis has no such task and files may.

    Raises:
        UserError: nothing can be shown of it, or Redis cannot be used.
    """
    if worker is not None:
        check_name(worker)
    with channels.redis() as client:
        result = client.result(task_id)
        if result is not None and worker in (None, result.worker):
            raise UserError(
                f"Task {task_id} has ended at {result.worker} ({result.status.value}); what its agent did was told in "
                f"{channels.redis_words} while it ran, and is kept only where an orchestrator listened."
            )
        there = client.find_task(task_id, worker)
        if there is None:
            if channels.shared is None:
                raise UserError(f"There is no task {task_id} in {channels.words}.")
            return False
        name, state = there
        if not follow:
            raise UserError(
                f"Task {task_id} is {state} at {name} in {channels.redis_words}, which keeps no events; -f shows what "
                "comes."
            )
        if any(beat.mode == "polling" for beat in client.heartbeats(name)):
            print(
                f"codehornets: {name} will not be heard: a worker in the mode polling says nothing by Redis.",
                file=sys.stderr,
            )
        _follow(client, task_id, name, show)
    return True


def has_ended_in_redis(client: RedisClient, task_id: str) -> bool:
    """Tell whether the task has a result in Redis; while Redis is away it has none."""
    try:
        return client.result(task_id) is not None
    except QueueUnavailable:
        return False
    except BusError:
        # There is one that this version does not understand.
        return True


def _follow(client: RedisClient, task_id: str, worker: str, show: Callable[[str], str]) -> None:
    patience = Patience()
    while True:
        try:
            with client.listen(worker) as subscription:
                patience.answered()
                ended = has_ended_in_redis(client, task_id)
                while True:
                    heard = subscription.next(_LATE_S if ended else _LOOK_S)
                    event = None if heard is None else _event_of(heard[1], task_id)
                    if event is not None and heard is not None:
                        print(show(heard[1].decode("utf-8", "replace")), flush=True)
                    if event is not None and event.event == "task_ended":
                        return
                    if heard is None:
                        if ended:
                            return
                        ended = has_ended_in_redis(client, task_id)
        except QueueUnavailable as error:
            time.sleep(patience.lost(error))


def _event_of(line: bytes, task_id: str) -> Event | None:
    if task_id.encode() not in line:
        return None
    try:
        event = Event.model_validate_json(line)
    except ValidationError:
        return None
    return event if event.task_id == task_id else None
