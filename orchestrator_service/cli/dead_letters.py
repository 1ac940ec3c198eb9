"""`codehornets dead-letters`: what was set aside, across the workers of a shared directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent_bus.dead_letters import DeadLetter, DeadLetterBox, DeadLetterError
from agent_bus.files import kind_of
from agent_bus.layout import WorkerLayout
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir, find_worker, known_workers
from orchestrator_service.cli.terminal import harmless

_SHOWN_BYTES: Final = 4096


def _boxes(shared: Path, worker: str | None) -> Iterator[DeadLetterBox]:
    if worker is not None:
        yield DeadLetterBox(find_worker(shared, worker))
        return
    for name in known_workers(shared):
        yield DeadLetterBox(WorkerLayout.under(shared, name))


def _find(shared: Path, worker: str | None, name: str) -> tuple[DeadLetterBox, DeadLetter]:
    found: list[tuple[DeadLetterBox, DeadLetter]] = []
    for box in _boxes(shared, worker):
        try:
            found.append((box, box.find(name)))
        except DeadLetterError:
            continue
    if not found:
        raise UserError(f"No dead letter {name!r} in {shared}; `codehornets dead-letters list` shows all.")
    if len(found) > 1:
        workers = ", ".join(letter.worker for _, letter in found)
        raise UserError(f"Several workers have a dead letter {name!r}: {workers}; say which with --worker.")
    return found[0]


def list_letters(*, worker: str | None, as_json: bool, shared_dir: Path | None) -> int:
    """Print all letters, oldest first."""
    shared = find_shared_dir(shared_dir)
    letters = sorted(
        (letter for box in _boxes(shared, worker) for letter in box.letters()), key=lambda letter: letter.buried_at
    )
    if as_json:
        print_json([letter.model_dump(mode="json") for letter in letters])
        return 0
    if not letters:
        print("No dead letters.")
        return 0
    from rich import box as boxes
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=boxes.SIMPLE_HEAD, pad_edge=False)
    for heading in ("when", "worker", "name", "reason", "why"):
        table.add_column(heading, overflow="fold")
    for letter in letters:
        when = f"{letter.buried_at.astimezone():%Y-%m-%d %H:%M:%S}"
        cells = (when, letter.worker, letter.name, letter.reason.replace("_", " "), letter.message)
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    Console().print(table)
    return 0


def show(name: str, *, worker: str | None, as_json: bool, shared_dir: Path | None) -> int:
    """Print one letter: its reason, and the beginning of what is in it."""
    box, letter = _find(find_shared_dir(shared_dir), worker, name)
    path = box.layout.dead_letters / letter.name
    if as_json:
        print_json({**letter.model_dump(mode="json"), "path": str(path)})
        return 0
    lines = {
        "name": letter.name,
        "came as": letter.original_name,
        "worker": letter.worker,
        "task": letter.task_id or "-",
        "reason": f"{letter.reason}: {letter.message}",
        "when": f"{letter.buried_at.astimezone():%Y-%m-%d %H:%M:%S}",
        "attempts": str(letter.attempts),
        "file": str(path),
    }
    for label, text in lines.items():
        print(f"{label:<9} {harmless(text)}")
    print()
    print(_beginning(path))
    return 0


def _beginning(path: Path) -> str:
    """Return the first bytes of a plain file as text; nothing else is opened, since that could block."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"({kind_of(status.st_mode)}, not opened)"
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            body = os.read(descriptor, _SHOWN_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
    more = f"\n… {status.st_size:,} bytes in all" if status.st_size > len(body) else ""
    return (harmless(body.decode("utf-8", "replace")) or "(empty)") + more


def replay(names: list[str], *, worker: str | None, shared_dir: Path | None) -> int:
    """Put the letters back among the triggers."""
    return _each(names, worker, shared_dir, lambda box, letter: f"{letter.name} goes back to {box.replay(letter)}")


def drop(names: list[str], *, worker: str | None, shared_dir: Path | None) -> int:
    """Delete the letters."""

    def delete(box: DeadLetterBox, letter: DeadLetter) -> str:
        box.drop(letter)
        return f"{letter.name} is deleted"

    return _each(names, worker, shared_dir, delete)


def _each(
    names: list[str], worker: str | None, shared_dir: Path | None, act: Callable[[DeadLetterBox, DeadLetter], str]
) -> int:
    shared = find_shared_dir(shared_dir)
    # All are found before anything is done: a slip in the last name shall not leave half of it done.
    found = [_find(shared, worker, name) for name in names]
    for box, letter in found:
        print(harmless(act(box, letter)))
    return 0
