"""How files become claimable: notices and scans of the queue's directories, settle times, and the index.

A notice (from inotify) looks at one file; a scan looks at all, a slice at a time so that the loop stays free. A file
that does not parse yet is given a settle time, since its writer may not be done; after that it is set aside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio

from agent_bus.claim_names import LONGEST_ORIGINAL_BYTES, parse_claim_name
from agent_bus.errors import DeadLetterReason, TriggerRejected
from agent_bus.files import read_untrusted
from agent_bus.layout import CANCEL_SUFFIX, TASK_SUFFIX, TRIGGER_SUFFIX, WorkerLayout
from agent_bus.messages import is_task_id
from agent_bus.trigger_index import Entry, Source, TriggerIndex
from agent_bus.trigger_reader import EventBody, TaskBody, TaskPointer, read_body, task_id_in_name

_SLICE_S: Final = 0.002
"""A scan gives the loop back after this long; a wake-up during a scan is late by no more."""
_CHECK_CLOCK_EVERY: Final = 16
_MOST_PEEKED: Final = 4096
_LARGEST_PEEKED_BYTES: Final = 4096
"""Small bodies are kept from the look to the claim, so that most files are read once; 16 MiB at the very most."""

_TROUBLE_RETRY_S: Final = 1.0
"""A file that cannot be dealt with now (a full disk, say) is looked at again after this long."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peeked:
    """A task's body as it was when the file was looked at, and what tells whether the file has changed since."""

    body: TaskBody
    stamp: tuple[int, int, int]
    """Inode, time of the last change in nanoseconds, size in bytes."""
    mtime_ns: int


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when a file's content does."""
    return status.st_ino, status.st_mtime_ns, status.st_size


@dataclass(frozen=True, kw_only=True)
class IntakeSettings:
    """What is let in."""

    max_bytes: int = 1_048_576
    """The largest trigger or task file, in bytes."""
    settle_s: float = 2.0
    """Seconds since its last change after which a file that does not parse counts as malformed."""
    owners: frozenset[int] | None = None
    """User ids whose files are accepted; None accepts any."""


class IntakeHandler(Protocol):
    """What the intake cannot decide alone; the file queue implements it."""

    def ready(self) -> None:
        """Something can be claimed now that could not before."""

    def take_event(self, name: str, text: str) -> None:
        """The trigger or released claim `name` is an event."""

    def bury_unclaimed(self, source: Source, name: str, refusal: TriggerRejected) -> None:
        """The file can never become a task."""

    def is_settled(self, task_id: str) -> bool:
        """Tell whether the task is running here or has its result."""

    def is_claimed(self, task_id: str) -> bool:
        """Tell whether anybody holds the task now, or held it and died; expensive."""

    def cancel(self, task_id: str) -> None:
        """A cancel marker for the task was found."""

    def held_until(self, name: str) -> float:
        """Return the epoch seconds before which the released claim `name` is not to be taken; 0.0 for none."""


class Intake:
    """Keeps the index in step with the directories."""

    def __init__(self, layout: WorkerLayout, settings: IntakeSettings, handler: IntakeHandler) -> None:
        self.index = TriggerIndex()
        self.found_by_scan: Callable[[os.stat_result], None] | None = None
        """Told of each file that a scan found and no notice had named; the watcher judges itself by it."""
        self.probe: tuple[str, Callable[[], None]] | None = None
        """A hidden file name in the triggers that means nothing, and whom to tell when it is seen."""
        self._settings = settings
        self._handler = handler
        self._directories: dict[Source, Path] = {
            Source.TRIGGERS: layout.triggers,
            Source.TASKS: layout.tasks,
            Source.RELEASED: layout.released,
        }
        self._prefixes = {source: f"{path}/" for source, path in self._directories.items()}
        self._settling: dict[tuple[Source, str], float] = {}
        self._peeked: dict[tuple[Source, str], Peeked] = {}
        self._wanted = asyncio.Event()
        self._scan_wanted = False
        self.last_scan_s = 0.0
        """Seconds that the last whole scan took, without those in which others had the loop."""

    @property
    def directories(self) -> dict[Source, Path]:
        """The directories to watch."""
        return self._directories

    def path_of(self, source: Source, name: str) -> str:
        """Return the path of a file seen in `source`."""
        return self._prefixes[source] + name

    def take_peeked(self, source: Source, name: str) -> Peeked | None:
        """Return the body of a file that was looked at, once; None when it was not kept."""
        return self._peeked.pop((source, name), None)

    def request_scan(self) -> None:
        """Look at everything anew, soon."""
        self._scan_wanted = True
        self._wanted.set()

    def postpone(self, source: Source, name: str, seconds: float) -> None:
        """Look at the file again after so many seconds."""
        self._settling[source, name] = time.monotonic() + seconds
        self._wanted.set()

    async def run_forever(self) -> None:
        """Carry out scans and settle times."""
        while True:
            if not self._scan_wanted:
                await self._until_wanted()
            self._wanted.clear()
            self._look_at_settled()
            if self._scan_wanted:
                self._scan_wanted = False
                await self._scan()

    async def _until_wanted(self) -> None:
        due = min(self._settling.values(), default=None)
        # Timers stay a loop's own business: a wait without a due time wakes nobody.
        with anyio.move_on_after(None if due is None else max(0.0, due - time.monotonic())):
            await self._wanted.wait()

    def _look_at_settled(self) -> None:
        if not self._settling:
            return
        now = time.monotonic()
        due = [key for key, moment in self._settling.items() if moment <= now]
        before = len(self.index)
        for source, name in due:
            del self._settling[source, name]
            self.notice(source, name)
        if len(self.index) != before:
            self._handler.ready()

    async def _scan(self) -> None:
        busy_s = 0.0
        slices = self._scan_slices()
        self.index.begin_scan()
        try:
            while True:
                started = time.perf_counter()
                found = next(slices, None)
                busy_s += time.perf_counter() - started
                if found is None:
                    break
                if found:
                    self._handler.ready()
                await asyncio.sleep(0)
            # What came while the scan went on may have been missed by it: the notices that wait are heard first.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            if self.index.end_scan():
                self._handler.ready()
        self.last_scan_s = busy_s

    def _scan_slices(self) -> Iterator[bool]:
        for source, directory in self._directories.items():
            before = len(self.index)
            try:
                # Somebody may have cleaned up too well; the next file shall find its place.
                if not directory.exists():
                    directory.mkdir(parents=True, exist_ok=True)
                listing = os.scandir(directory)
            except OSError as error:
                log.error("%s cannot be looked at: %s", directory, error, extra={"action": "scan_failed"})
                continue
            with listing:
                slice_end = time.perf_counter() + _SLICE_S
                for number, entry in enumerate(listing, start=1):
                    self.notice(source, entry.name, scanned=True)
                    if number % _CHECK_CLOCK_EVERY == 0 and time.perf_counter() >= slice_end:
                        yield len(self.index) > before
                        before = len(self.index)
                        slice_end = time.perf_counter() + _SLICE_S
            yield len(self.index) > before

    def notice(self, source: Source, name: str, *, scanned: bool = False) -> None:
        """Look at one file by its name; names that mean nothing here are ignored."""
        if name[:1] == ".":
            if self.probe is not None and name == self.probe[0] and source is Source.TRIGGERS:
                self.probe[1]()
            return
        if self.index.knows(source, name):
            return
        if (source, name) in self._settling:
            if scanned:
                return
            # Its writer has just been at it: look at once instead of when the settle time is over.
            del self._settling[source, name]
        if source is Source.RELEASED:
            parsed = parse_claim_name(name)
            if parsed is None:
                return
            held = self._handler.held_until(name) - time.time()
            if held > 0:
                self.postpone(source, name, held)
                return
            original = parsed.name
        elif source is Source.TRIGGERS:
            if not name.endswith(TRIGGER_SUFFIX):
                return
            original = name
        elif name.endswith(CANCEL_SUFFIX):
            if is_task_id(task_id := name[: -len(CANCEL_SUFFIX)]):
                self._handler.cancel(task_id)
            return
        elif name.endswith(TASK_SUFFIX):
            original = name
        else:
            return
        if len(original) > LONGEST_ORIGINAL_BYTES // 4 and len(os.fsencode(original)) > LONGEST_ORIGINAL_BYTES:
            message = f"its name has more than {LONGEST_ORIGINAL_BYTES} bytes; give it a shorter one"
            self._handler.bury_unclaimed(source, name, TriggerRejected(DeadLetterReason.BAD_NAME, message))
            return
        try:
            self._look(source, name, original, scanned)
        except OSError as error:
            # A full disk, or a directory that lost its mode: no file may stop the others.
            self.postpone(source, name, _TROUBLE_RETRY_S)
            log.warning("%s has to wait: %s", name, error, extra={"action": "intake_trouble"})

    def _look(self, source: Source, name: str, original: str, scanned: bool) -> None:
        try:
            body, status = read_untrusted(
                self.path_of(source, name), max_bytes=self._settings.max_bytes, owners=self._settings.owners
            )
        except FileNotFoundError:
            return
        except TriggerRejected as refusal:
            # Whoever handed in too much waits for an answer. A stranger's file, or no file at all, gets none: it must
            # not be able to answer for a task that somebody else is about to hand in.
            if refusal.reason is DeadLetterReason.TOO_LARGE:
                refusal.task_id = task_id_in_name(original)
            self._handler.bury_unclaimed(source, name, refusal)
            return
        if scanned and self.found_by_scan is not None and source is Source.TRIGGERS:
            self.found_by_scan(status)
        try:
            meaning = read_body(body, original)
        except TriggerRejected as refusal:
            self._settle_or(source, name, status, refusal)
            return
        match meaning:
            case TaskBody():
                self.index.add(Entry(-meaning.rank, status.st_mtime_ns, name, source, meaning.session))
                if len(self._peeked) < _MOST_PEEKED and status.st_size <= _LARGEST_PEEKED_BYTES:
                    self._peeked[source, name] = Peeked(meaning, stamp_of(status), status.st_mtime_ns)
            case TaskPointer():
                self._follow(source, name, meaning, status)
            case EventBody():
                # `touch` makes an empty file that its owner may be about to fill.
                if meaning.text or not self._may_change(source, name, status):
                    self._handler.take_event(name, meaning.text)

    def _follow(self, source: Source, name: str, pointer: TaskPointer, status: os.stat_result) -> None:
        """Act on an empty trigger: its task file is claimed in its own right, the trigger is but a bell."""
        task_name = f"{pointer.task_id}{TASK_SUFFIX}"
        self.notice(Source.TASKS, task_name)
        task_is_known = self.index.knows(Source.TASKS, task_name) or (Source.TASKS, task_name) in self._settling
        if task_is_known or self._handler.is_settled(pointer.task_id):
            self._remove(source, name)
        elif self._may_change(source, name, status):
            return
        elif self._handler.is_claimed(pointer.task_id):
            # Its worker was killed before it could take the trigger away, or another replica is at it.
            self._remove(source, name)
        else:
            refusal = TriggerRejected(
                DeadLetterReason.TASK_FILE_MISSING,
                f"it is empty and there is no {self.path_of(Source.TASKS, task_name)} that would hold the task",
                task_id=pointer.task_id,
            )
            self._handler.bury_unclaimed(source, name, refusal)

    def _remove(self, source: Source, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path_of(source, name))

    def _settle_or(self, source: Source, name: str, status: os.stat_result, refusal: TriggerRejected) -> None:
        if not self._may_change(source, name, status):
            self._handler.bury_unclaimed(source, name, refusal)

    def _may_change(self, source: Source, name: str, status: os.stat_result) -> bool:
        # A file may carry any date (`cp -p`, another clock): the inode's change time is this machine's own.
        age = time.time() - max(status.st_mtime, status.st_ctime)
        if age >= self._settings.settle_s or age < -self._settings.settle_s:
            return False
        self.postpone(source, name, self._settings.settle_s - age + 0.001)
        return True
