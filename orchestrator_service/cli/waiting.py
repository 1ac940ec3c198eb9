"""Waiting for a result, and showing meanwhile what goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from pydantic import ValidationError

from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.errors import DeadLetterReason
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Event, Result
from orchestrator_service.changes import open_changes
from orchestrator_service.cli.errors import EXIT_CODES, EXIT_GAVE_UP
from orchestrator_service.cli.places import known_workers
from orchestrator_service.cli.tasks import find_result, trigger_name
from orchestrator_service.cli.terminal import harmless

_TAIL_BYTES: Final = 65_536
_RECHECK_S: Final = 5.0
_LONGEST_SHOWN: Final = 70
_TELL_NOTHING: Final = frozenset(("id", "tool_use_id", "session_id", "wire_id"))


@dataclass(frozen=True)
class Ending:
    """How waiting ended: with a result, with the task set aside before it had one, or with neither."""

    result: Result | None = None
    letter: DeadLetter | None = None

    @property
    def exit_code(self) -> int:
        """The exit code that says so."""
        if self.result is not None:
            return EXIT_CODES[self.result.status.value]
        return EXIT_GAVE_UP if self.letter is None else 1


def wait_for_result(
    shared: Path, task_id: str, *, worker: str | None, give_up_after_s: float | None, since: datetime | None = None
) -> Ending:
    """Wait, with a spinner where somebody looks; see `until_result`."""
    with spinner(task_id) as show:
        return anyio.run(
            partial(
                until_result,
                shared,
                task_id,
                worker=worker,
                give_up_after_s=give_up_after_s,
                since=since,
                show=show,
            )
        )


async def until_result(
    shared: Path,
    task_id: str,
    *,
    worker: str | None = None,
    give_up_after_s: float | None = None,
    since: datetime | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> Ending:
    """Wait until the task has its result or was set aside without one.

    Args:
        shared: The shared directory.
        task_id: The task.
        worker: Whose task it is; None looks at all workers.
        give_up_after_s: Seconds after which to give up; None waits as long as it takes.
        since: What was set aside before this moment does not count; None counts everything.
        show: Told in a few words what the agent does.
    """
    layouts = [WorkerLayout.under(shared, name) for name in ([worker] if worker else known_workers(shared))]
    boxes = [_Box(layout) for layout in layouts]
    directories = [path for each in layouts for path in (each.results, each.dead_letters, each.events)]
    with open_changes(directories, recheck_s=_RECHECK_S) as changes, anyio.move_on_after(give_up_after_s):
        while True:
            if (result := find_result(shared, task_id)) is not None:
                return Ending(result=result)
            for box in boxes:
                # A file that cannot even be read as a task has no result: its letter is all there is.
                if (letter := box.find_new(task_id, since)) is not None:
                    return Ending(result=find_result(shared, task_id), letter=letter)
            for layout in layouts:
                if (event := last_event(layout.event_journal(task_id))) is not None:
                    show(in_words(event))
            await changes.wait()
    return Ending(result=find_result(shared, task_id))


class _Box:
    """Looks through a worker's dead letters, and only when there are others than before."""

    def __init__(self, layout: WorkerLayout) -> None:
        self._layout = layout
        self._seen_ns = -1

    def find_new(self, task_id: str, since: datetime | None) -> DeadLetter | None:
        try:
            changed_ns = self._layout.dead_letters.stat().st_mtime_ns
        except OSError:
            return None
        if changed_ns == self._seen_ns:
            return None
        self._seen_ns = changed_ns
        for letter in DeadLetterBox(self._layout).letters():
            named = task_id == letter.task_id or letter.original_name == trigger_name(task_id)
            # A duplicate was refused for the sake of the one that is waited for.
            if named and letter.reason != DeadLetterReason.DUPLICATE and (since is None or letter.buried_at >= since):
                return letter
        return None


def last_event(journal: Path) -> Event | None:
    """Return the last whole line of a task's events, or None."""
    try:
        with journal.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            lines = stream.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        try:
            return Event.model_validate_json(line)
        except ValidationError:
            continue
    return None


def in_words(event: Event) -> str:
    """Return the event as a short line: its name and what there is to say about it."""
    told: list[str] = []
    for key, value in event.data.items():
        # A tool's input is one level down; ids tell a person nothing.
        for part in value.values() if isinstance(value, dict) else (value,):
            if isinstance(part, str) and part and key not in _TELL_NOTHING:
                told.append(part)
            elif isinstance(part, int | float) and not isinstance(part, bool):
                told.append(f"{key} {part:g}")
    text = " ".join(f"{event.event.replace('_', ' ')} {' · '.join(told)}".split())
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


@contextmanager
def spinner(task_id: str) -> Iterator[Callable[[str], None]]:
    """Show that a task is waited for, where somebody looks; gives a function that is told what its agent does."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=8) as progress:
        line = progress.add_task(f"task {task_id} waits for its worker", total=None)

        def show(text: str) -> None:
            # What an agent prints may hold control characters; they must not reach the terminal.
            progress.update(line, description=harmless(text))

        yield show
