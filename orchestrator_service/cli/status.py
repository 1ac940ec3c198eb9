"""`codehornets status`: the workers of a shared directory, from their heartbeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from agent_bus.heartbeats import age_seconds, is_alive, read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.changes import open_changes
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir, known_workers
from orchestrator_service.cli.tasks import queue_depth, running_tasks
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


@dataclass(frozen=True)
class WorkerState:
    """What can be said of a worker from outside."""

    name: str
    beat: Heartbeat | None
    depth: int
    dead_letters: int
    running: tuple[str, ...] = ()
    """The tasks it holds now: what its heartbeat tells of them may be a whole interval old."""

    @property
    def status(self) -> str:
        """The status its heartbeat tells; `down` when it has fallen silent, `stopped` when it took its leave."""
        if self.beat is None:
            return "never started"
        if self.beat.status is WorkerStatus.STOPPED:
            return "stopped"
        if not is_alive(self.beat):
            return "down"
        if self.beat.status in (WorkerStatus.IDLE, WorkerStatus.BUSY):
            return "busy" if self.running else "idle"
        return self.beat.status.value

    @property
    def is_down(self) -> bool:
        """Whether it should run and does not."""
        return self.status in ("down", "never started")

    def as_json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        beat = {} if self.beat is None else self.beat.model_dump(mode="json")
        return {
            **beat,
            "worker": self.name,
            "status": self.status,
            "current_tasks": list(self.running),
            "heartbeat_age_seconds": None if self.beat is None else round(age_seconds(self.beat), 3),
            "queue_depth": self.depth,
            "dead_letters": self.dead_letters,
        }


def read_states(shared: Path) -> list[WorkerState]:
    """Look at every worker that ever ran on the shared directory."""
    states: list[WorkerState] = []
    for name in known_workers(shared):
        layout = WorkerLayout.under(shared, name)
        letters = sum(1 for _ in layout.dead_letters.glob("*.reason.json"))
        beat = read_heartbeat(layout.heartbeat(name))
        running = () if beat is None else running_tasks(layout, beat)
        states.append(WorkerState(name, beat, queue_depth(layout), letters, running))
    return states


def status(*, shared_dir: Path | None, as_json: bool, watch: bool) -> int:
    """Print the table, once or again and again."""
    shared = find_shared_dir(shared_dir)
    if as_json:
        print_json([state.as_json() for state in read_states(shared)])
        return 0
    if watch:
        anyio.run(_watch, shared)
        return 0
    states = read_states(shared)
    if not states:
        print(f"No worker has run on {shared} yet; start some with `codehornets up`.")
        return 0
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        # Whoever reads a pipe or a file has no width to fit.
        console.width = 200
    console.print(_table(states, console.width))
    return 0


async def _watch(shared: Path) -> None:
    from rich.live import Live

    layouts = [WorkerLayout.under(shared, name) for name in known_workers(shared)]
    directories = [shared / "heartbeats", *(layout.triggers for layout in layouts)]
    with open_changes(directories, recheck_s=_AGES_MOVE_S) as changes, Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(_table(read_states(shared), live.console.width), refresh=True)
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
        table.add_column(heading, overflow="fold", no_wrap=heading != "runs")
    for state in states:
        cells = {heading: Text(harmless(text)) for heading, text in _cells(state).items()}
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
        cells |= {"beat": _ago(age_seconds(beat)), "agent": beat.agent, "mode": beat.mode}
    if beat is not None and state.status in _COLOURS:
        cells |= {
            "status": _status_words(state, beat),
            "runs": _running(state.running, beat.slots),
            "bells": _bells(beat),
            "probe": _ago(beat.probe_age_seconds),
            "http": f":{beat.http_port}" if beat.http_port else "",
        }
    return cells


def _status_words(state: WorkerState, beat: Heartbeat) -> str:
    if state.status == "paused" and beat.parked_until is not None:
        return f"paused until {beat.parked_until.astimezone():%H:%M}"
    return state.status


def _running(tasks: tuple[str, ...], slots: int) -> str:
    shown = tasks[:_MOST_TASKS_SHOWN]
    more = len(tasks) - len(shown)
    return f"{len(tasks)}/{slots} {', '.join(shown)}{f' and {more} more' if more else ''}".strip()


def _bells(beat: Heartbeat) -> str:
    # The timer is the net under every other bell: worth a word only where it is the only one.
    return "+".join(bell for bell in beat.bells if bell != "interval") or "interval"


def _count(number: int) -> str:
    return str(number) if number else ""


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
