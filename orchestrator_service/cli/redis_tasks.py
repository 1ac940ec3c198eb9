"""Tasks by Redis: handing in, waiting, cancelling. Loaded only when a command takes this way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import anyio

from agent_bus.errors import QueueUnavailable
from agent_bus.layout import is_worker_name
from agent_bus.messages import Event
from agent_bus.redis.client import RedisClient
from agent_bus.redis.events import Subscription
from agent_bus.redis.keys import WorkerKeys
from orchestrator_service.cli.channels import Channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_ending, print_json
from orchestrator_service.cli.patience import Patience
from orchestrator_service.cli.tasks import check_task, has_ended
from orchestrator_service.cli.waiting import Ending, in_words, spinner, until_result

_LOOK_S: Final = 0.3
"""How long one look waits where somebody watches: events are shown between two looks."""
_LONG_LOOK_S: Final = 5.0


def submit_to_redis(
    channels: Channels,
    worker: str,
    fields: dict[str, Any],
    *,
    may_be_used: bool,
    wait: bool,
    give_up_after_s: float | None,
    as_json: bool,
) -> int:
    """Check the task as its worker would, hand it in, and wait for its result if asked to; returns the exit code.

    Args:
        channels: There is a Redis among them.
        worker: For whom it is; whether that worker lives is told, and matters not.
        fields: The task's fields; `task_id` must be among them.
        may_be_used: Whether somebody chose the id: then it is looked for first.
        wait: Whether to wait for the result.
        give_up_after_s: Seconds after which waiting ends; None waits as long as it takes.
        as_json: Whether to print JSON.
    """
    check_name(worker)
    task = check_task(worker, fields)
    task_id = task.task_id
    with channels.redis() as client:
        if may_be_used:
            _refuse_used(client, worker, task_id)
        lives = bool(client.heartbeats(worker))
        try:
            client.submit(worker, task.model_dump(mode="json", exclude_unset=True))
        except QueueUnavailable as error:
            # The question before was answered: this one may have arrived and only its answer be lost.
            raise UserError(
                f"{error}; whether it has taken task {task_id} is not known: `codehornets result {task_id}` tells "
                "when it is back."
            ) from None
        if not lives:
            print(
                f"codehornets: No worker {worker!r} lives in {channels.redis_words}; the task waits for one.",
                file=sys.stderr,
            )
        if wait:
            ending = _wait_in_redis(client, task_id, worker=worker, give_up_after_s=give_up_after_s, handed_in=True)
            return print_ending(ending, task_id, as_json=as_json)
    if as_json:
        print_json({"task_id": task_id, "worker": worker, "stream": WorkerKeys(worker).tasks})
    else:
        print(task_id)
    return 0


def check_name(worker: str) -> None:
    """Raise a UserError unless a worker may be called so."""
    if not is_worker_name(worker):
        raise UserError(
            f"{worker[:80]!r} is no name for a worker; allowed are 1 to 63 letters, digits, dots, dashes or "
            "underscores, the first a letter or digit."
        )


def lives_in_redis(channels: Channels, worker: str) -> bool:
    """Tell whether a worker of that name has a heartbeat in Redis."""
    check_name(worker)
    with channels.redis() as client:
        return bool(client.heartbeats(worker))


def cancel_in_redis(channels: Channels, task_id: str, worker: str | None) -> str | None:
    """Ask for the end of the task if it is in Redis, or if it is named with its worker and there is no other place.

    Returns:
        Whose task it is; None where it was not asked for.

    Raises:
        UserError: it has ended, or it runs and its worker does not listen, or Redis cannot be used.
    """
    if worker is not None:
        check_name(worker)
    with channels.redis() as client:
        if (ended := client.result(task_id)) is not None:
            raise has_ended(task_id, ended)
        there = client.find_task(task_id, worker)
        if there is None and (worker is None or channels.shared is not None):
            return None
        name, state = there if there is not None else (str(worker), "unknown")
        heard = client.cancel(name, task_id)
        if state == "running" and not heard and client.counts_listeners:
            raise UserError(
                f"Task {task_id} runs at {name}, which does not listen on {WorkerKeys(name).control}: it is in the "
                "mode polling, or has lost Redis; if the task comes back to the queue it will be cancelled there."
            )
    return name


def wait_anywhere(channels: Channels, task_id: str, *, give_up_after_s: float | None) -> Ending:
    """Wait for the result of a task that no file tells of: it may be in Redis, or come to either place."""
    with channels.redis() as client:
        result = client.result(task_id)
        there = None if result is not None else client.find_task(task_id)
        if result is not None:
            return Ending(result=result)
        if there is not None or channels.shared is None:
            worker = None if there is None else there[0]
            return _wait_in_redis(client, task_id, worker=worker, give_up_after_s=give_up_after_s, handed_in=False)
        with spinner(task_id) as show:
            return anyio.run(partial(_until_either, channels, client, task_id, give_up_after_s, show))


def _refuse_used(client: RedisClient, worker: str, task_id: str) -> None:
    if (ended := client.result(task_id)) is not None:
        raise UserError(f"Task {task_id} has its result in Redis ({ended.status.value}); take another --id.")
    if (there := client.find_task(task_id, worker)) is not None:
        raise UserError(f"Task {task_id} is {there[1]} at {worker} already; take another --id.")


def _wait_in_redis(
    client: RedisClient, task_id: str, *, worker: str | None, give_up_after_s: float | None, handed_in: bool
) -> Ending:
    """Wait for the result, through losses of Redis; only one that never answered is an error."""
    deadline = float("inf") if give_up_after_s is None else time.monotonic() + give_up_after_s
    patience, answered = Patience(), handed_in
    with spinner(task_id) as show, _Onlooker(client, task_id, worker, show) as onlooker:
        # From the beginning on, or the first events would be missed.
        onlooker.show_last()
        while True:
            left = deadline - time.monotonic()
            try:
                result = client.result(task_id, wait_s=max(0.0, min(left, onlooker.look_s)))
            except QueueUnavailable as error:
                if not answered:
                    raise
                if left <= 0:
                    return Ending()
                time.sleep(min(left, patience.lost(error)))
                continue
            answered = True
            patience.answered()
            if result is not None or left <= 0:
                return Ending(result=result)
            onlooker.show_last()


class _Onlooker:
    """Shows the latest event of a task where somebody looks; what goes wrong here is told by the waiting itself."""

    def __init__(
        self, client: RedisClient, task_id: str, worker: str | None, show: Callable[[str], None] | None
    ) -> None:
        self._client = client
        self._task_id = task_id
        self._worker = worker
        self._show = show if sys.stderr.isatty() and worker is not None else None
        self._stack = ExitStack()
        self._subscription: Subscription | None = None
        self.look_s = _LOOK_S if self._show is not None else _LONG_LOOK_S

    def __enter__(self) -> _Onlooker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show_last(self) -> None:
        """Show the latest event that came since the last time."""
        if self._show is None:
            return
        try:
            if self._subscription is None:
                self._subscription = self._stack.enter_context(self._client.listen(self._worker))
            while (heard := self._subscription.next(0.0)) is not None:
                event = Event.model_validate_json(heard[1])
                if event.task_id == self._task_id:
                    self._show(in_words(event))
        except (QueueUnavailable, ValueError):
            self._stack.close()
            self._subscription = None


async def _until_either(
    channels: Channels, client: RedisClient, task_id: str, give_up_after_s: float | None, show: Callable[[str], None]
) -> Ending:
    assert channels.shared is not None
    found = Ending()
    patience = Patience()
    async with anyio.create_task_group() as tasks:

        async def look_at_files() -> None:
            nonlocal found
            assert channels.shared is not None
            found = await until_result(channels.shared, task_id, give_up_after_s=give_up_after_s, show=show)
            tasks.cancel_scope.cancel()

        tasks.start_soon(look_at_files)
        while True:
            try:
                look = partial(client.result, task_id, wait_s=_LOOK_S)
                result = await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
            except QueueUnavailable as error:
                await anyio.sleep(patience.lost(error))
                continue
            patience.answered()
            if result is not None:
                found = Ending(result=result)
                tasks.cancel_scope.cancel()
                break
    return found
