"""Where a task's file is, and putting it there or taking it back: one worker's directories, seen from outside.

A claim is a rename by the worker, and so is a claim given back. Whatever is asked here is asked in the order in which a
file moves on, so that one which moves meanwhile is not overlooked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from agent_bus.claim_names import ClaimName, parse_claim_name
from agent_bus.dead_letters import REASON_SUFFIX, DeadLetter
from agent_bus.errors import BusError, DeadLetterReason, TriggerRejected
from agent_bus.files import read_untrusted, write_new
from agent_bus.layout import CANCEL_SUFFIX, TASK_SUFFIX, TRIGGER_SUFFIX, WorkerLayout
from agent_bus.messages import Result, refusal_result
from agent_bus.trigger_reader import TaskBody, read_body, task_id_in_name
from orchestrator_service.transports.base import Place

_MOST_BODY_BYTES: Final = 16 * 1024 * 1024
_MOST_REASON_BYTES: Final = 1024 * 1024
_MOST_LOOKS: Final = 10
"""A busy worker's directories change all the time: what so many looks do not find is said to be gone."""


class NotPlaced(BusError):
    """A task could not be put into its worker's directory; the text is one sentence."""


class Held(NamedTuple):
    """A claim: a task that an instance has taken."""

    task_id: str
    instance: str
    changed_at: float
    """When the file was taken, in epoch seconds."""


def trigger_name(task_id: str) -> str:
    """Return the name of a task's trigger."""
    return f"task-{task_id}{TRIGGER_SUFFIX}"


def place(layout: WorkerLayout, task_id: str, body: bytes) -> None:
    """Put a trigger into place, whole; one that lies there already stays.

    Raises:
        NotPlaced: it cannot be written; nothing is left behind.
    """
    folder = os.fspath(layout.triggers)
    target = f"{folder}/{trigger_name(task_id)}"
    if os.path.lexists(target):
        return
    # Hidden from the worker until it is whole. No flush: the ledger is what is durable, and sends again what is gone.
    staged = f"{folder}/.{os.urandom(8).hex()}.tmp"
    try:
        try:
            write_new(staged, body)
        except FileNotFoundError:
            layout.triggers.mkdir(parents=True, exist_ok=True)
            write_new(staged, body)
        os.rename(staged, target)
    except OSError as error:
        with suppress(OSError):
            os.unlink(staged)
        raise NotPlaced(
            f"{target} cannot be written: {error.strerror or error}; make room, or mend the owner or mode of {folder}."
        ) from error


def ask_for_end(layout: WorkerLayout, task_id: str) -> None:
    """Leave the marker that ends the task, running or waiting.

    Raises:
        OSError: it cannot be written.
    """
    marker = layout.tasks / f"{task_id}{CANCEL_SUFFIX}"
    try:
        marker.touch()
    except FileNotFoundError:
        layout.tasks.mkdir(parents=True, exist_ok=True)
        marker.touch()


def take_back(layout: WorkerLayout, task_id: str) -> bool:
    """Remove a task that nobody has claimed; True when it was there and nobody can run it any more.

    To remove a file and to claim it are each one step, and only one of the two can succeed.

    Raises:
        OSError: the directories cannot be looked at or changed.
    """
    removed = _remove(layout.triggers / trigger_name(task_id), body_needed=True)
    removed |= _remove(layout.tasks / f"{task_id}{TASK_SUFFIX}")
    removed |= _remove_released(layout, task_id)
    if _is_claimed(layout, task_id):
        return False
    # One that was given back between the two looks.
    removed |= _remove_released(layout, task_id)
    return removed and not _is_claimed(layout, task_id)


def locate(layout: WorkerLayout, task_id: str) -> Place:
    """Look for a task.

    Raises:
        OSError: the directories cannot be looked at.
    """
    if os.path.lexists(layout.result(task_id)):
        return Place.ENDED
    waits = (layout.triggers / trigger_name(task_id), layout.tasks / f"{task_id}{TASK_SUFFIX}")
    if any(os.path.lexists(path) for path in waits):
        return Place.WAITING
    if any(True for _ in _released(layout, task_id)):
        return Place.WAITING
    # A claim that passes from a dead instance to a living one, while the directories are read one after the other, is
    # seen in neither: a look counts when none of them has changed meanwhile.
    for look in range(_MOST_LOOKS):
        before = _changes(layout)
        if _is_claimed(layout, task_id):
            return Place.TAKEN
        if any(True for _ in _released(layout, task_id)):
            return Place.WAITING
        if os.path.lexists(layout.result(task_id)) or answer_of_letter(layout, task_id) is not None:
            return Place.ENDED
        # Two looks at least: the kernel's clock may stand still for as long as one takes.
        if look > 0 and _changes(layout) == before:
            break
    return Place.GONE


def answer_of_letter(layout: WorkerLayout, task_id: str) -> Result | None:
    """Return a failed result for a task that was set aside without an answer; None where there is no such letter.

    A worker answers for what it sets aside only where it trusts the file that much; whoever sent it has to know.
    """
    for name in (trigger_name(task_id), f"{task_id}{TASK_SUFFIX}"):
        path = layout.dead_letters / f"{name}{REASON_SUFFIX}"
        try:
            body, _ = read_untrusted(os.fspath(path), max_bytes=_MOST_REASON_BYTES, owners=None)
            letter = DeadLetter.model_validate_json(body)
        except (OSError, TriggerRejected, ValidationError):
            continue
        # A duplicate was set aside beside the one that counts.
        if letter.original_name == name and letter.reason != DeadLetterReason.DUPLICATE:
            made = refusal_result(
                task_id, kind=letter.reason, message=letter.message, worker=letter.worker, instance=letter.instance
            )
            return made.model_copy(update={"completed_at": letter.buried_at, "timestamp": letter.buried_at})
    return None


def held(layout: WorkerLayout) -> Iterator[Held]:
    """Yield every claim, of living and dead instances alike.

    Raises:
        OSError: the directories cannot be looked at.
    """
    for instance, path, name in _claims(layout):
        with suppress(FileNotFoundError):
            task_id = _id_of(path, name.name)
            if task_id is not None:
                yield Held(task_id, instance, os.lstat(path).st_ctime)


def _claims(layout: WorkerLayout) -> Iterator[tuple[str, str, ClaimName]]:
    for instance in _names_in(layout.inflight):
        if instance.startswith("."):
            continue
        folder = layout.inflight / instance
        for name in _names_in(folder):
            if (parsed := parse_claim_name(name)) is not None:
                yield instance, f"{folder}/{name}", parsed


def _changes(layout: WorkerLayout) -> dict[str, int]:
    """Return when each directory that holds claims has last changed."""
    changed: dict[str, int] = {}
    folders = (layout.inflight / name for name in _names_in(layout.inflight))
    for folder in (layout.inflight, layout.released, *folders):
        with suppress(FileNotFoundError):
            changed[str(folder)] = os.stat(folder).st_mtime_ns
    return changed


def _is_claimed(layout: WorkerLayout, task_id: str) -> bool:
    return any(_is_of(task_id, path, name.name) for _, path, name in _claims(layout))


def _released(layout: WorkerLayout, task_id: str) -> Iterator[tuple[str, ClaimName]]:
    for name in _names_in(layout.released):
        path = f"{layout.released}/{name}"
        if (parsed := parse_claim_name(name)) is not None and _is_of(task_id, path, parsed.name):
            yield path, parsed


def _remove_released(layout: WorkerLayout, task_id: str) -> bool:
    removed = False
    for path, name in list(_released(layout, task_id)):
        if _remove(Path(path)):
            removed = True
            _remove(layout.released / name.note)
    return removed


def _remove(path: Path, *, body_needed: bool = False) -> bool:
    try:
        # An empty trigger is but a bell for a task file.
        counts = not body_needed or os.lstat(path).st_size > 0
        os.unlink(path)
    except FileNotFoundError:
        return False
    return counts


def _is_of(task_id: str, path: str, name: str) -> bool:
    told = task_id_in_name(name)
    return told == task_id if told is not None else _id_in_body(path, name) == task_id


def _id_of(path: str, name: str) -> str | None:
    # What the task says of itself counts more than its file's name.
    return _id_in_body(path, name) or task_id_in_name(name)


def _id_in_body(path: str, name: str) -> str | None:
    try:
        body, _ = read_untrusted(path, max_bytes=_MOST_BODY_BYTES, owners=None)
        meaning = read_body(body, name)
    except (OSError, TriggerRejected):
        return None
    task_id = meaning.fields.get("task_id") if isinstance(meaning, TaskBody) else None
    return task_id if isinstance(task_id, str) else None


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
