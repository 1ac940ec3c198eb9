"""What waits and what is in flight, read while it moves.

A task's file moves on by renames: `triggers → inflight → gone`, or back and forth between `inflight` and `released`.
The places are read in that order, so that one which moves on meanwhile is met again further on, and the whole round is
repeated until nothing was seen that could not be read. What was met in several places is one file (its name, size and
time of change go with it), and counts where it was met last. A conversation's note travels beside its claim, and is
kept by the claim's own id wherever it was met.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_bus.claim_names import NOTE_SUFFIX, parse_claim_name
from agent_bus.errors import TriggerRejected
from agent_bus.layout import ORCHESTRATOR, TASK_SUFFIX, TRIGGER_SUFFIX, WorkerLayout, is_worker_name
from agent_bus.trigger_reader import TaskBody, TaskPointer, make_task, read_body, task_id_in_name
from orchestrator_service.backups.stash import Kept, NotPlain, Stash

_LEAST_ROUNDS: Final = 2
_MOST_ROUNDS: Final = 20
_MOST_BODY_BYTES: Final = 16 * 1024 * 1024
_MOVING_PREFIX: Final = ".moving-"


@dataclass
class Waiting:
    """A file of the queue."""

    worker: str
    place: str
    """Where it was met last, below the shared directory."""
    name: str
    """The name it came under."""
    uid: str | None
    """The claim's own; None for what nobody has claimed."""
    kept: Kept
    task_id: str | None
    """None for an event."""
    is_bell: bool = False
    """An empty trigger, which stands for a task file."""


@dataclass
class Queue:
    """All of them, and the notes of claims."""

    files: list[Waiting] = field(default_factory=list)
    notes: dict[tuple[str, str], Kept] = field(default_factory=dict)
    """By worker and the claim's own id."""
    unreadable: int = 0


def workers_of(shared: Path) -> list[str]:
    """Return the name of every worker that has a directory of its own."""
    names: set[str] = set()
    for folder in ("triggers", "tasks", "results", "events"):
        names.update(entry for entry in listing(f"{shared}/{folder}") if is_worker_name(entry))
    names.discard(ORCHESTRATOR)
    return sorted(names)


def listing(folder: str) -> list[str]:
    """Return the names in a directory; none where there is no such directory."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


class QueueCapture:
    """Reads the queues of all workers of a shared directory."""

    def __init__(self, shared: Path, stash: Stash) -> None:
        self._shared = shared
        self._stash = stash
        self._by_look: dict[tuple[str, str, int, int], Waiting] = {}
        self._by_inode: dict[tuple[str, str, int], Waiting] = {}
        self._notes: dict[tuple[str, str], Kept] = {}
        self._unreadable: set[str] = set()

    def take(self) -> Queue:
        """Read everything.

        Raises:
            OSError: a directory cannot be read.
        """
        for number in range(_MOST_ROUNDS):
            vanished = False
            for worker in workers_of(self._shared):
                for place, original, uid in _places(self._shared, worker):
                    vanished |= not self._look(worker, place, original, uid)
            if number + 1 >= _LEAST_ROUNDS and not vanished:
                break
        files = list({id(waiting): waiting for waiting in self._by_look.values()}.values())
        return Queue(files, self._notes, len(self._unreadable))

    def still_there(self) -> set[int]:
        """Return the `id` of each file met that is anywhere in the queues now."""
        found: set[int] = set()
        for worker in workers_of(self._shared):
            for place, original, _ in _places(self._shared, worker):
                with suppress(OSError):
                    status = os.lstat(self._shared / place)
                    look = (worker, original, status.st_size, status.st_mtime_ns)
                    if (waiting := self._by_look.get(look)) is not None:
                        found.add(id(waiting))
        return found

    def _look(self, worker: str, place: str, original: str, uid: str | None) -> bool:
        """Read a file unless it was met before; False when it is gone."""
        path = f"{self._shared}/{place}"
        try:
            place.encode()
            if original.endswith(NOTE_SUFFIX) and uid is not None:
                self._notes[worker, uid] = self._stash.keep(path)
                return True
            status = os.lstat(path)
            known = self._by_look.get((worker, original, status.st_size, status.st_mtime_ns))
            if known is not None:
                known.place, known.uid = place, uid or known.uid
                return True
            kept = self._stash.keep(path)
        except FileNotFoundError:
            return False
        except (NotPlain, PermissionError, UnicodeEncodeError):
            # It can never become a task; its worker sets it aside.
            self._unreadable.add(path)
            return True
        self._remember(Waiting(worker, place, original, uid, kept, *self._meaning(worker, kept, original)))
        return True

    def _remember(self, waiting: Waiting) -> None:
        kept = waiting.kept
        by_inode = (waiting.worker, waiting.name, kept.inode)
        earlier = self._by_inode.get(by_inode)
        if earlier is not None:
            # Its writer was still at it the last time.
            self._by_look.pop((earlier.worker, earlier.name, earlier.kept.size, earlier.kept.mtime_ns), None)
        self._by_inode[by_inode] = waiting
        self._by_look[waiting.worker, waiting.name, kept.size, kept.mtime_ns] = waiting

    def _meaning(self, worker: str, kept: Kept, name: str) -> tuple[str | None, bool]:
        """Return the task's id, and whether the file is but a bell."""
        try:
            meaning = read_body(self._stash.beginning(kept, _MOST_BODY_BYTES), name)
            if isinstance(meaning, TaskPointer):
                return meaning.task_id, True
            if not isinstance(meaning, TaskBody):
                return None, False
            return make_task(meaning, name, mtime_ns=kept.mtime_ns, worker=worker).task_id, False
        except TriggerRejected as refusal:
            return refusal.task_id or task_id_in_name(name), False


def _places(shared: Path, worker: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield (place, original name, claim's id) of all that waits or is claimed, in the order in which it moves on."""
    layout = WorkerLayout.under(shared, worker)
    for name in listing(f"{layout.triggers}"):
        if name.startswith(_MOVING_PREFIX) and "~" in name:
            # On its way from another file system; it lies at its own name again in the restored place.
            yield f"triggers/{worker}/{name}", name.partition("~")[2], None
        elif name.endswith(TRIGGER_SUFFIX) and not name.startswith("."):
            yield f"triggers/{worker}/{name}", name, None
    for name in listing(f"{layout.tasks}"):
        if name.endswith(TASK_SUFFIX) and not name.startswith("."):
            yield f"tasks/{worker}/{name}", name, None
    for instance in listing(f"{layout.inflight}"):
        if not instance.startswith("."):
            yield from _claims(f"tasks/{worker}/inflight/{instance}", f"{layout.inflight}/{instance}")
    yield from _claims(f"tasks/{worker}/released", f"{layout.released}")


def _claims(place: str, folder: str) -> Iterator[tuple[str, str, str | None]]:
    # The notes last: one that is written while its claim is read is the newer one.
    for name in sorted(listing(folder), key=lambda name: name.endswith(NOTE_SUFFIX)):
        if (parsed := parse_claim_name(name)) is not None:
            yield f"{place}/{name}", parsed.name, parsed.uid
        elif name.endswith(NOTE_SUFFIX) and not name.startswith("."):
            yield f"{place}/{name}", name, name.removesuffix(NOTE_SUFFIX)
