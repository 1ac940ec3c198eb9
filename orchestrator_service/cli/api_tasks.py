"""Tasks by the API: handing in so that nothing is doubled, waiting, and what came of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from pydantic import ValidationError

from agent_bus.messages import Event, Result, TaskError, TaskStatus, utc_now
from orchestrator_service.cli.order_problems import refuse
from orchestrator_service.cli.patience import Patience
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.waiting import Ending, in_words, spinner
from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiAway, ApiPlace, ApiRefused, Call
from orchestrator_service.orders import TaskOrder
from orchestrator_service.records import FINAL_STATES, StreamEvent, Submission, TaskResult, TaskSummary

T = TypeVar("T")

NOT_THERE: Final = 404
CONFLICT: Final = 409
_TRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.1
_WORTH_A_WORD: Final = ("worker", "worker_down", "worker_paused", "budget")
_LOOK_S: Final = 30.0
"""How long one question waits for an end; the next one follows at once."""


def new_key() -> str:
    """Return an idempotency key that nobody else makes up."""
    return f"cli-{os.urandom(16).hex()}"


def hand_in_surely(place: ApiPlace, order: object) -> Submission:
    """Hand in a task or a graph; where it is not known whether it arrived, ask again: it counts once.

    Raises:
        ApiAway: nobody answers.
        ApiRefused: the order is wrong.
    """
    call = api_calls.submit(order, key=new_key())
    may_have_arrived = False
    for number in range(_TRIES):
        try:
            return api_calls.ask(place, call)
        except ApiAway as error:
            may_have_arrived = may_have_arrived or error.sent
            if not may_have_arrived:
                raise
            last = error
        time.sleep(_FIRST_PAUSE_S * 2**number)
        place = place.now()
    raise ApiAway(
        f"{last}; whether it has taken the order is not known, `codehornets tasks` tells when it is back", sent=True
    )


def submit_to_api(place: ApiPlace, fields: dict[str, Any]) -> TaskSummary:
    """Hand in one task, and say what it waits for if that is a worker or money.

    Raises:
        UserError: a field is wrong in a way that can be seen from here.
        ApiAway: nobody answers.
        ApiRefused: the order is wrong.
    """
    try:
        order = TaskOrder.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise refuse("The task is refused", error) from None
    task = hand_in_surely(place, order).tasks[0]
    if task.waits_for is not None and task.waits_for.kind in _WORTH_A_WORD:
        print(f"codehornets: The task waits: {harmless(task.waits_for.message)}", file=sys.stderr, flush=True)
    return task


def ask_or_nothing(place: ApiPlace, call: Call[T]) -> T | None:
    """Return the answer; None where the orchestrator has no such thing."""
    try:
        return api_calls.ask(place, call)
    except ApiRefused as refusal:
        if refusal.status != NOT_THERE:
            raise
        return None


def result_of(told: TaskResult) -> Result:
    """Return what came of a task as its worker would tell it, under the task's own id."""
    status = TaskStatus(told.state.value)
    if told.result is not None:
        changes = {"task_id": told.task_id, "status": status, "error": told.error or told.result.error}
        return told.result.model_copy(update=changes)
    now = utc_now()
    return Result(
        task_id=told.task_id,
        worker="",
        instance="",
        status=status,
        error=told.error or TaskError(kind=status.value, message="it ended before a worker had it"),
        attempts=0,
        completed_at=now,
        timestamp=now,
        exit_code=0 if status is TaskStatus.COMPLETED else 1,
    )


def where_it_is(task: TaskSummary) -> str:
    """Return in a few words where a task is that has not ended."""
    if task.state in FINAL_STATES:
        return task.state.value.replace("_", " ")
    if task.waits_for is not None:
        return f"{task.state.value}: {task.waits_for.message.rstrip('.')}"
    return f"{task.state.value} at {task.worker}" if task.worker is not None else task.state.value


def wait_for_task(place: ApiPlace, task_id: str, *, give_up_after_s: float | None) -> Ending:
    """Wait until a task has ended, with a spinner where somebody looks; an API that is away is waited for as well.

    Raises:
        ApiRefused: there is no such task.
    """
    if sys.stderr.isatty():
        with spinner(task_id) as show:
            return anyio.run(partial(_wait_and_show, place, task_id, give_up_after_s, show))
    looks = _Looks(task_id, give_up_after_s)
    while not looks.over:
        try:
            return Ending(result=result_of(api_calls.ask(place, looks.call())))
        except api_calls.ApiError as error:
            time.sleep(looks.pause_after(error))
            place = place.now()
    return Ending()


async def _wait_and_show(
    place: ApiPlace, task_id: str, give_up_after_s: float | None, show: Callable[[str], None]
) -> Ending:
    from orchestrator_service.client.streams import ApiClient

    looks, ending = _Looks(task_id, give_up_after_s), Ending()
    async with ApiClient(place) as client, anyio.create_task_group() as tasks:

        async def look_on() -> None:
            # What goes wrong here is told by the waiting itself.
            with suppress(api_calls.ApiError):
                async for event in client.stream(f"/tasks/{api_calls.segment(task_id)}/events"):
                    if (told := event_of(event)) is not None:
                        show(in_words(told))

        tasks.start_soon(look_on)
        while not looks.over:
            try:
                ending = Ending(result=result_of(await client.ask(looks.call())))
                break
            except api_calls.ApiError as error:
                await anyio.sleep(looks.pause_after(error))
                client.place = client.place.now()
        tasks.cancel_scope.cancel()
    return ending


class _Looks:
    """Asking for a result again and again: each question waits on the other side, up to the deadline."""

    def __init__(self, task_id: str, give_up_after_s: float | None) -> None:
        self._task_id = task_id
        self._deadline = float("inf") if give_up_after_s is None else time.monotonic() + give_up_after_s
        self._patience = Patience("The API")
        self._asked = False

    @property
    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether to give up; it is asked once in any case."""
        return self._asked and not self._left_s

    def call(self) -> Call[TaskResult]:
        """Return the next question."""
        self._asked = True
        return api_calls.result(self._task_id, wait_s=min(self._left_s, _LOOK_S))

    def pause_after(self, error: api_calls.ApiError) -> float:
        """Return the seconds until the next question; raise the error if there is no use in one."""
        if isinstance(error, ApiRefused) and not error.passes:
            if error.status != CONFLICT:
                raise error
            self._patience.answered()
            return 0.0
        return min(self._left_s, self._patience.lost(error))


def event_of(event: StreamEvent) -> Event | None:
    """Return an event of the stream as workers write them; None where it holds none."""
    try:
        fields = json.loads(event.data)
        return Event.model_validate({**fields, "worker": fields.get("worker") or "-", "data": fields.get("data") or {}})
    except (ValueError, TypeError, AttributeError):
        return None
