"""`codehornets watch` and `logs --task` by the API: its server-sent events as lines."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from functools import partial

import anyio

from agent_bus.messages import Event
from orchestrator_service.cli.api_tasks import CONFLICT, NOT_THERE, event_of
from orchestrator_service.cli.patience import Patience
from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiPlace, ApiRefused
from orchestrator_service.client.streams import ApiClient
from orchestrator_service.records import StreamEvent


def watch_api(place: ApiPlace, worker: str | None, *, show: Callable[[Event], None]) -> bool:
    """Show what happens until Ctrl-C; an API that goes away later is waited for.

    Raises:
        ApiAway: nobody answers.
        ApiRefused: it says no.
    """
    anyio.run(partial(_watch, place, worker, show))
    return True


async def _watch(place: ApiPlace, worker: str | None, show: Callable[[Event], None]) -> None:
    patience = Patience("The API")
    began = False

    def opened() -> None:
        nonlocal began
        patience.answered()
        if not began:
            began = True
            whom = worker if worker is not None else "all workers"
            print(f"Watching {whom} by {place.url} (Ctrl-C ends it).", file=sys.stderr, flush=True)

    query = [("agent", "true"), *([("worker", worker)] if worker is not None else [])]
    async with ApiClient(place) as client:
        stream = client.stream("/events", query, endless=True, on_lost=patience.say, on_open=opened)
        async for event in stream:
            if (told := event_of(event)) is not None:
                show(told)


def task_log(place: ApiPlace, task_id: str, *, follow: bool, lines: int, show: Callable[[str], None]) -> bool:
    """Show what happened to a task and, with `follow`, what happens until it has ended.

    Args:
        place: The API.
        task_id: The task.
        follow: Whether to go on.
        lines: How many of the last lines to begin with.
        show: Given each event as JSON on one line.

    Returns:
        Whether the orchestrator knows the task.
    """
    return anyio.run(partial(_task_log, place, task_id, follow, lines, show))


async def _task_log(place: ApiPlace, task_id: str, follow: bool, lines: int, show: Callable[[str], None]) -> bool:
    patience = Patience("The API")
    path = f"/tasks/{api_calls.segment(task_id)}"
    position: str | None = None
    async with ApiClient(place) as client:
        last: deque[StreamEvent] = deque(maxlen=lines)
        try:
            async for event in client.stream(f"{path}/events", [("follow", "false")]):
                position = event.id or position
                last.append(event)
        except ApiRefused as refusal:
            if refusal.status != NOT_THERE:
                raise
            return False
        for event in last:
            show(_line(event))
        while follow:
            stream = client.stream(f"{path}/events", after=position, on_lost=patience.say, on_open=patience.answered)
            async for event in stream:
                position = event.id or position
                show(_line(event))
            try:
                await client.ask(api_calls.result(task_id))
                return True
            except ApiRefused as refusal:
                if refusal.status != CONFLICT and not refusal.passes:
                    raise
            except api_calls.ApiAway as error:
                patience.lost(error)
            # It has not ended: the stream did since the service stops.
            await anyio.sleep(1.0)
    return True


def _line(event: StreamEvent) -> str:
    return event.data.decode("utf-8", "replace")
