"""`codehornets dead-letters`: what was set aside, across the workers of a shared directory and of Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent_bus.dead_letters import DeadLetter
from orchestrator_service.cli.channels import Channels, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.letter_places import LetterPlace, open_places
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.terminal import harmless


def _find(channels: Channels, places: list[LetterPlace], name: str) -> tuple[LetterPlace, DeadLetter]:
    """Return the letter of that file name, entry or task id; of several in one place the newest."""
    found: list[tuple[LetterPlace, DeadLetter]] = []
    for place in places:
        if matches := [letter for letter in place.letters() if name in (letter.name, letter.task_id)]:
            found.append((place, matches[-1]))
    if not found:
        raise UserError(f"No dead letter {name!r} in {channels.words}; `codehornets dead-letters list` shows all.")
    if len(found) > 1:
        workers = list(dict.fromkeys(letter.worker for _, letter in found))
        if len(workers) == 1:
            names = " or ".join(letter.name for _, letter in found)
            raise UserError(f"Files and Redis each have a dead letter of task {name}; say which by its name: {names}.")
        raise UserError(f"Several workers have a dead letter {name!r}: {', '.join(workers)}; say which with --worker.")
    return found[0]


def list_letters(*, worker: str | None, as_json: bool, shared_dir: Path | None, redis: str | None) -> int:
    """Print all letters, oldest first."""
    with open_places(find_channels(shared_dir, redis), worker) as places:
        letters = sorted(
            (letter for place in places for letter in place.letters()), key=lambda letter: letter.buried_at
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


def show(name: str, *, worker: str | None, as_json: bool, shared_dir: Path | None, redis: str | None) -> int:
    """Print one letter: its reason, and the beginning of what is in it."""
    channels = find_channels(shared_dir, redis)
    with open_places(channels, worker) as places:
        place, letter = _find(channels, places, name)
        where, beginning = place.where(letter), place.beginning(letter)
    if as_json:
        print_json({**letter.model_dump(mode="json"), **where})
        return 0
    lines = {
        "name": letter.name,
        "came as": letter.original_name,
        "worker": letter.worker,
        "task": letter.task_id or "-",
        "reason": f"{letter.reason}: {letter.message}",
        "when": f"{letter.buried_at.astimezone():%Y-%m-%d %H:%M:%S}",
        "attempts": str(letter.attempts),
        **{"file" if label == "path" else label: text for label, text in where.items()},
    }
    for label, text in lines.items():
        print(f"{label:<9} {harmless(text)}")
    print()
    print(beginning)
    return 0


def replay(names: list[str], *, worker: str | None, as_json: bool, shared_dir: Path | None, redis: str | None) -> int:
    """Put the letters back among the triggers, or into the stream of tasks."""

    def run_again(place: LetterPlace, letter: DeadLetter) -> str:
        return f"{letter.name} goes back to {place.replay(letter)}"

    return _each(names, worker, find_channels(shared_dir, redis), run_again, as_json=as_json)


def drop(names: list[str], *, worker: str | None, as_json: bool, shared_dir: Path | None, redis: str | None) -> int:
    """Delete the letters."""

    def delete(place: LetterPlace, letter: DeadLetter) -> str:
        place.drop(letter)
        return f"{letter.name} is deleted"

    return _each(names, worker, find_channels(shared_dir, redis), delete, as_json=as_json)


def _each(
    names: list[str],
    worker: str | None,
    channels: Channels,
    act: Callable[[LetterPlace, DeadLetter], str],
    *,
    as_json: bool,
) -> int:
    with open_places(channels, worker) as places:
        # All are found before anything is done: a slip in the last name shall not leave half of it done.
        found = [_find(channels, places, name) for name in names]
        done: list[dict[str, str | None]] = []
        for place, letter in found:
            told = act(place, letter)
            done.append({"name": letter.name, "task_id": letter.task_id, "done": told})
            if not as_json:
                print(harmless(told))
    if as_json:
        print_json(done)
    return 0
