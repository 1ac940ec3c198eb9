"""`codehornets top`: the whole team at work, live. Events say when to look again; nothing is looked at in a loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from orchestrator_service.cli.api_place import need_api
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.top_view import Glimpse, Throughput, render
from orchestrator_service.cli.where import Where
from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiError, ApiPlace
from orchestrator_service.records import FINAL_STATES, TaskState, TaskSummary

if TYPE_CHECKING:
    from orchestrator_service.client.streams import ApiClient

_REFRESH_S: Final = 5.0
"""How often it is looked without an event: ages grow by themselves."""
_REST_S: Final = 0.5
"""The least time between two looks: a burst of events need not be drawn one by one."""
_MOST_RUNNING: Final = 50
_MOST_WAITING: Final = 500
_MOST_ENDED: Final = 50
_PIPE_WIDTH: Final = 160
_PIPE_HEIGHT: Final = 60
_QUIT: Final = b"qQ\x03"


def top(*, where: Where, as_json: bool) -> int:
    """Show the team until somebody has seen enough; once where nobody looks."""
    place = need_api(where, "`top`")
    if as_json or not sys.stdout.isatty():
        glimpse = anyio.run(_once, place)
        if as_json:
            print_json(glimpse.as_json())
        else:
            from rich.console import Console

            Console(width=_PIPE_WIDTH).print(render(glimpse, per_minute=None, height=_PIPE_HEIGHT))
        return 0
    with _keys() as descriptor:
        anyio.run(partial(_live, place, descriptor))
    return 0


async def _once(place: ApiPlace) -> Glimpse:
    from orchestrator_service.client.streams import ApiClient

    async with ApiClient(place) as client:
        return await _look(client)


async def _look(client: ApiClient) -> Glimpse:
    async def tasks_in(states: Iterable[TaskState], most: int) -> list[TaskSummary]:
        query = [*(("state", state.value) for state in states), ("limit", str(most))]
        return (await client.ask(api_calls.tasks(query))).tasks

    running = await tasks_in((TaskState.RUNNING, TaskState.SENT), _MOST_RUNNING)
    ended = await tasks_in(FINAL_STATES, _MOST_ENDED)
    return Glimpse(
        workers=await client.ask(api_calls.workers()),
        counts=await client.ask(api_calls.counts()),
        running=sorted(running, key=lambda task: task.started_at or task.sent_at or task.submitted_at),
        waiting=await tasks_in((TaskState.READY, TaskState.SCHEDULED, TaskState.BLOCKED), _MOST_WAITING),
        ended=sorted(ended, key=lambda task: task.ended_at or task.submitted_at, reverse=True),
    )


async def _live(place: ApiPlace, keys: int | None) -> None:
    from rich.live import Live

    from orchestrator_service.client.streams import ApiClient

    pace = Throughput()
    trouble: str | None = None
    async with ApiClient(place) as client:
        glimpse = await _look(client)
        with Live(auto_refresh=False, screen=True) as live:
            async with anyio.create_task_group() as group:
                stirred = anyio.Event()

                async def listen() -> None:
                    nonlocal stirred
                    async for _ in client.stream("/events", endless=True):
                        stirred.set()

                async def until_quit() -> None:
                    while keys is not None:
                        await anyio.wait_readable(keys)
                        typed = os.read(keys, 64)
                        if not typed or any(key in _QUIT for key in typed):
                            group.cancel_scope.cancel()
                            return

                group.start_soon(listen)
                group.start_soon(until_quit)
                while True:
                    per_minute = pace.add(glimpse)
                    size = live.console.size
                    live.update(
                        render(glimpse, per_minute=per_minute, height=size.height, trouble=trouble), refresh=True
                    )
                    with anyio.move_on_after(_REFRESH_S):
                        await stirred.wait()
                    stirred = anyio.Event()
                    await anyio.sleep(_REST_S)
                    glimpse, trouble = await _try_to_look(client, glimpse)


async def _try_to_look(client: ApiClient, before: Glimpse) -> tuple[Glimpse, str | None]:
    """Return what is seen now; what was seen before, with a sentence, while the API is away."""
    try:
        return await _look(client), None
    except ApiError as error:
        client.place = client.place.now()
        return before, f"{error}; this is how it was at {before.at.astimezone():%H:%M:%S}"


@contextmanager
def _keys() -> Iterator[int | None]:
    """Give the terminal's input key by key; None where there is no terminal to read from."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
