"""`codehornets status`: the workers of a shared directory and of Redis, from their heartbeats."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from agent_bus.heartbeats import age_seconds, is_alive, read_heartbeat
from agent_bus.layout import ORCHESTRATOR, WorkerLayout
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.changes import open_changes
from orchestrator_service.cli.channels import Channels, find_channels
from orchestrator_service.cli.moments import ago
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import known_workers
from orchestrator_service.cli.states import Looker, WorkerState
from orchestrator_service.cli.terminal import harmless

if TYPE_CHECKING:
    from rich.table import Table

_AGES_MOVE_S: Final = 1.0
"""A table that is watched shows ages, which change by themselves."""
_MOST_TASKS_SHOWN: Final = 3
_HEADINGS: Final = ("worker", "status", "beat", "runs", "waits", "dead", "agent", "mode", "bells", "probe", "http")
_WIDE: Final = 100
_ONLY_IF_WIDE: Final = ("mode", "probe")
"""Left out on a narrow terminal: the bells tell the mode, and a late probe makes the worker unready anyway."""
_COLOURS: Final = {"idle": "green", "busy": "cyan", "paused": "yellow", "draining": "yellow", "starting": "yellow"}


def status(*, shared_dir: Path | None, redis: str | None, as_json: bool, watch: bool) -> int:
    """Print the table, once or again and again."""
    channels = find_channels(shared_dir, redis)
    if watch and not as_json:
        anyio.run(_watch, channels)
        return 0
    with Looker(channels) as looker:
        states = looker.look()
        if looker.trouble is not None:
            print(f"codehornets: {looker.trouble}", file=sys.stderr)
    if as_json:
        print_json([state.as_json() for state in states])
        return 0
    line = None if channels.shared is None else _orchestrator_line(channels.shared)
    if not states:
        print(f"No worker has run on {channels.words} yet; start some with `codehornets up`.")
        if line is not None:
            print(line)
        return 0
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        # Whoever reads a pipe or a file has no width to fit.
        console.width = 200
    console.print(_table(states, console.width))
    if line is not None:
        print(line)
    return 0


def _orchestrator_line(shared: Path) -> str | None:
    """Return how the orchestrator of the shared directory is; None where none has run."""
    beat = read_heartbeat(shared / "heartbeats" / f"{ORCHESTRATOR}.json")
    if beat is None:
        return None
    age = ago(age_seconds(beat))
    if beat.status is WorkerStatus.STOPPED:
        return f"The orchestrator has stopped ({age} ago)."
    if not is_alive(beat):
        return f"The orchestrator is down: its last beat is {age} old."
    return harmless(f"The orchestrator is up: http://127.0.0.1:{beat.http_port}, its last beat is {age} old.")


async def _watch(channels: Channels) -> None:
    from rich.live import Live

    shared = channels.shared
    layouts = [] if shared is None else [WorkerLayout.under(shared, name) for name in known_workers(shared)]
    directories = [] if shared is None else [shared / "heartbeats", *(layout.triggers for layout in layouts)]
    with (
        Looker(channels) as looker,
        open_changes(directories, recheck_s=_AGES_MOVE_S) as changes,
        Live(auto_refresh=False, screen=False) as live,
    ):
        while True:
            table = _table(looker.look(), live.console.width)
            table.caption = None if looker.trouble is None else harmless(looker.trouble)
            live.update(table, refresh=True)
            await changes.wait()
            # A burst of triggers need not be drawn one by one.
            await anyio.sleep(0.1)


def _table(states: list[WorkerState], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = [heading for heading in _HEADINGS if width >= _WIDE or heading not in _ONLY_IF_WIDE]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("runs", "worker"))
    rows_of = Counter(state.name for state in states)
    for state in states:
        cells = {heading: Text(harmless(text)) for heading, text in _cells(state).items()}
        if rows_of[state.name] > 1 and state.beat is not None:
            cells["worker"] = Text(harmless(f"{state.name} ({state.beat.instance})"))
        cells["status"].stylize(_COLOURS.get(state.status, "red" if state.is_down else "dim"))
        table.add_row(*(cells.get(heading, "") for heading in columns))
    return table


def _cells(state: WorkerState) -> dict[str, str]:
    beat = state.beat
    cells = {
        "worker": state.name,
        "status": state.status,
        "waits": str(state.depth),
        "dead": str(state.dead_letters or ""),
    }
    if beat is not None:
        cells |= {"beat": ago(age_seconds(beat)), "agent": beat.agent, "mode": beat.mode}
    if beat is not None and state.status in _COLOURS:
        cells |= {
            "status": _status_words(state, beat),
            "runs": _running(state.running, state.stuck, beat.slots),
            "bells": _bells(beat),
            "probe": ago(beat.probe_age_seconds),
            "http": f":{beat.http_port}" if beat.http_port else "",
        }
    return cells


def _status_words(state: WorkerState, beat: Heartbeat) -> str:
    if state.status == "paused" and beat.parked_until is not None:
        return f"paused until {beat.parked_until.astimezone():%H:%M}"
    told = [state.status]
    if state.stuck:
        told.append(f"{len(state.stuck)} stuck")
    if beat.open_questions:
        told.append(f"asks {beat.open_questions}")
    return ", ".join(told)


def _running(tasks: tuple[str, ...], stuck: tuple[str, ...], slots: int) -> str:
    # Those that need somebody come first: there may be more than are shown.
    told = [*(f"{task} (stuck)" for task in stuck), *(task for task in tasks if task not in stuck)]
    shown = told[:_MOST_TASKS_SHOWN]
    more = len(tasks) - len(shown)
    return f"{len(tasks)}/{slots} {', '.join(shown)}{f' and {more} more' if more else ''}".strip()


def _bells(beat: Heartbeat) -> str:
    # The timer is the net under every other bell: worth a word only where it is the only one.
    return "+".join(bell for bell in beat.bells if bell != "interval") or "interval"
