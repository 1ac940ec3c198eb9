"""Claimed files on the disk: taking, noting, giving back, and finding what the dead left behind."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_bus.claim_names import NOTE_SUFFIX, ClaimName, parse_claim_name
from agent_bus.errors import QueueUnavailable
from agent_bus.files import is_copy, move, write_atomic
from agent_bus.layout import WorkerLayout
from agent_bus.ownership import LOCK_NAME, InstanceDirectory, dead_owners, is_alive

_MOVING_PREFIX: Final = ".moving-"
"""A file on its way from another mount: `.moving-INSTANCE~NAME` in the directory it comes from."""


@dataclass(slots=True)
class Held:
    """A claimed file that this instance owns."""

    name: ClaimName
    path: str
    session_lock: int | None = None
    has_note: bool = False


class ClaimStore:
    """This instance's directory of claims, and the `released/` directory it shares with the others."""

    def __init__(self, layout: WorkerLayout, instance: str) -> None:
        """Take ownership of `inflight/instance`.

        Raises:
            QueueUnavailable: a directory cannot be made or used.
        """
        self._layout = layout
        self._instance = instance
        for directory in (layout.triggers, layout.tasks, layout.results, layout.released, layout.dead_letters):
            _make_directory(directory)
        _make_directory(layout.inflight)
        self._own = self._take_ownership()
        self.prefix = f"{self._own.path}/"
        self._released_prefix = f"{layout.released}/"
        self._moving_mark = f"{_MOVING_PREFIX}{instance}~"
        self._split_mounts = os.stat(layout.triggers).st_dev != os.stat(layout.tasks).st_dev
        # The start and the process make it unique, the number distinguishes; cheap, since each claim needs one.
        start = f"{time.time_ns():x}{os.getpid():x}x"
        self._uids = (f"{start}{number:x}" for number in itertools.count())

    def _take_ownership(self) -> InstanceDirectory:
        try:
            return InstanceDirectory(self._layout.inflight, self._instance)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> QueueUnavailable:
        return QueueUnavailable(
            f"{self._layout.inflight} cannot be used: {error.strerror or error}; mend its owner or mode."
        )

    def new_uid(self) -> str:
        """Return a name that no other claim has or had."""
        return next(self._uids)

    def take(self, source: str, name: ClaimName) -> Held:
        """Move the file at `source` into this instance's directory.

        Raises:
            FileNotFoundError: it is gone; another replica has it.
            OSError: it cannot be moved; it is where it was.
        """
        target = self.prefix + str(name)
        try:
            move(source, target, self._moving_mark)
        except FileNotFoundError:
            if not os.path.lexists(source) or self._own.still_there():
                raise
            self.mend()
            move(source, target, self._moving_mark)
        return Held(name, target)

    def set_aside(self, source: str, target: str) -> None:
        """Move any file to a place below the task directory; `target` must be free.

        Raises:
            OSError: it cannot be moved, FileNotFoundError if it is gone.
        """
        move(source, target, self._moving_mark)

    def mend(self) -> None:
        """Make the directories again that somebody deleted under the running worker."""
        for directory in (self._layout.results, self._layout.released, self._layout.dead_letters):
            directory.mkdir(parents=True, exist_ok=True)
        if not self._own.still_there():
            try:
                self._own.renew()
            except OSError as error:
                raise self._unusable(error) from error

    def all_claims(self) -> Iterator[str]:
        """Yield the path of every claim: this instance's, the others', and the released ones."""
        for directory in (self._layout.released, *self._layout.inflight.glob("[!.]*")):
            with suppress(OSError):
                yield from (f"{directory}/{name}" for name in os.listdir(directory) if parse_claim_name(name))

    def discard(self, held: Held) -> None:
        """Delete the claimed file and its note; deleting what is gone is fine."""
        # The note first: a crash in between must not leave one that belongs to nothing.
        self.discard_note(held)
        with suppress(FileNotFoundError):
            os.unlink(held.path)

    def discard_note(self, held: Held) -> None:
        """Delete the note alone, if there is one."""
        if held.has_note:
            with suppress(FileNotFoundError):
                os.unlink(self.prefix + held.name.note)

    def release(self, held: Held, attempt: int) -> str:
        """Move the claim to `released/` with that count of attempts; returns its name there."""
        name = held.name._replace(attempt=attempt)
        if held.has_note:
            # The note goes first: a claim must never be seen without what it has to say.
            os.rename(self.prefix + name.note, self._released_prefix + name.note)
        os.rename(held.path, self._released_prefix + str(name))
        return str(name)

    def write_note(self, held: Held, notes: dict[str, Any]) -> None:
        """Store the notes beside the claim."""
        write_atomic(self.prefix + held.name.note, json.dumps(notes).encode())
        held.has_note = True

    def take_note(self, held: Held) -> dict[str, Any]:
        """Fetch the note that the claim has in `released/`; an empty mapping when it has none."""
        own = self.prefix + held.name.note
        try:
            os.rename(self._released_prefix + held.name.note, own)
        except FileNotFoundError:
            return {}
        held.has_note = True
        return _read_note(own)

    def held_until(self, name: ClaimName) -> float:
        """Return the epoch seconds before which the released claim is not to be taken; 0.0 for none."""
        not_before = _read_note(self._released_prefix + name.note).get("not_before", 0.0)
        return float(not_before) if isinstance(not_before, int | float) else 0.0

    def drop_released_note(self, name: ClaimName) -> None:
        """Delete the note of a claim in `released/`."""
        with suppress(FileNotFoundError):
            os.unlink(self._released_prefix + name.note)

    def reclaim(self) -> list[str]:
        """Move what dead owners held to `released/`; returns the names there."""
        reclaimed: list[str] = []
        for directory in dead_owners(self._layout.inflight, self._instance):
            if self._split_mounts:
                # Before its claims move on: they tell which files had arrived already.
                self._settle_half_moved(directory)
            # Notes first, as in `release`.
            for name in sorted(_listing(directory), key=lambda name: not name.endswith(NOTE_SUFFIX)):
                source = directory / name
                is_claim = parse_claim_name(name) is not None
                # What cannot be moved now (a full disk) stays where it is, for the next round.
                with suppress(OSError):
                    if is_claim or name.endswith(NOTE_SUFFIX):
                        os.rename(source, self._released_prefix + name)
                        if is_claim:
                            reclaimed.append(name)
                    elif name != LOCK_NAME:
                        os.unlink(source)
            with suppress(OSError):
                self._layout.probe(directory.name).unlink()
        if self._split_mounts:
            self._bring_back_half_moved()
        return reclaimed

    def _settle_half_moved(self, directory: Path) -> None:
        """Remove what a dead mover had copied already; the rest is brought back later."""
        mark = f"{_MOVING_PREFIX}{directory.name}~"
        arrived: dict[str, list[str]] = {}
        for name in _listing(directory):
            if (parsed := parse_claim_name(name)) is not None:
                arrived.setdefault(parsed.name, []).append(str(directory / name))
        for name in _listing(self._layout.triggers):
            if name.startswith(mark):
                original = name.removeprefix(mark)
                left = str(self._layout.triggers / name)
                copies = [*arrived.get(original, ()), str(self._layout.dead_letters / original)]
                if any(is_copy(path, left) for path in copies):
                    with suppress(OSError):
                        os.unlink(left)

    def _bring_back_half_moved(self) -> None:
        for name in _listing(self._layout.triggers):
            owner, separator, original = name.removeprefix(_MOVING_PREFIX).partition("~")
            if not name.startswith(_MOVING_PREFIX) or not separator or owner == self._instance:
                continue
            if not is_alive(self._layout.inflight, owner):
                with suppress(OSError):
                    os.rename(self._layout.triggers / name, self._layout.triggers / original)

    def close(self) -> None:
        """Let go of the ownership."""
        self._own.close()


def _listing(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read_note(path: str) -> dict[str, Any]:
    try:
        notes = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QueueUnavailable(
            f"{directory} cannot be made: {error.strerror}; make it, or mend the owner or mode of its parent."
        ) from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise QueueUnavailable(
            f"{directory} is not writable for user id {os.geteuid()}; mend its owner or mode, or set SHARED_DIR."
        )
