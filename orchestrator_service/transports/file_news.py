"""What comes of tasks that are files: notices of results, heartbeats and journals, heard from the kernel.

Notices are hints and may be lost or lie; a rescan is the net under them. Where a result is said to be is never
believed: it is looked for where that worker's results are.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from asyncinotify import Mask
from pydantic import ValidationError
from pydantic_core import from_json

from agent_bus.errors import TriggerRejected
from agent_bus.files import read_untrusted
from agent_bus.heartbeats import is_alive
from agent_bus.layout import ORCHESTRATOR, TRIGGER_SUFFIX, WorkerLayout, is_worker_name
from agent_bus.messages import Heartbeat, is_task_id
from orchestrator_service.transports.base import Ears, HeardResult
from orchestrator_service.transports.file_tasks import answer_of_letter
from orchestrator_service.transports.journals import Journals, journal_size
from orchestrator_service.transports.question_news import QuestionNews
from orchestrator_service.transports.result_files import BrokenResult, read_result_file
from orchestrator_service.transports.slices import SLICE_S, Slices
from orchestrator_service.transports.watching import Watching

log = logging.getLogger(__name__)

FILE: Final = "file"
_BLIND_RESCAN_S: Final = 1.0
"""How often to look where the kernel tells nothing."""
_DEAF_AFTER: Final = 3
"""Rescans in a row; the first one finds what was there before, and one may be faster than the kernel's word."""
_NOTICE_PREFIX: Final = "result-"
_BEAT_SUFFIX: Final = "-watcher.json"
_JOURNAL_SUFFIX: Final = ".jsonl"
_MOST_NOTICE_BYTES: Final = 1024 * 1024
_MOST_BEAT_BYTES: Final = 4 * 1024 * 1024
_MOST_BEATS: Final = 1000
"""Beyond so many the instances that are gone are forgotten."""
_CHECK_CLOCK_EVERY: Final = 16


class FileNews:
    """Hears what happens in a shared directory, between `start` and `close`."""

    def __init__(
        self, shared: Path, *, rescan_s: float, open_runs: Callable[[], Iterable[tuple[str, str]]], ears: Ears
    ) -> None:
        """Tell `ears`.

        Args:
            shared: The shared directory.
            rescan_s: Seconds after which everything is looked at, whatever was told.
            open_runs: Gives (worker, wire id) of each run that is sent and has not ended.
            ears: Who is told.
        """
        self._shared = shared
        self._rescan_s = rescan_s
        self._open_runs = open_runs
        self._ears = ears
        self._notices = shared / "triggers" / ORCHESTRATOR
        self._heartbeats = shared / "heartbeats"
        self._events = shared / "events"
        self._questions = QuestionNews(shared / "questions", ears)
        self._watching = Watching(self._missed)
        self.journals = Journals(self._watch_journal, self._watching.unwatch)
        """Those that somebody follows."""
        self._waiting: dict[str, None] = {}
        """Notices to be looked at, in the order in which they came."""
        self._rest: asyncio.Handle | None = None
        self._empty: dict[str, int] = {}
        """Notices that lead to no file, by name, and the inode of each: it is another one when it is renewed."""
        self._beats: dict[str, int] = {}
        """The time of change of each heartbeat that was told."""
        self._last_beats: dict[tuple[str, str], Heartbeat] = {}
        self._started: set[tuple[str, str]] = set()
        """Open runs whose start was told at a rescan."""
        self._rescan_wanted = asyncio.Event()
        self._scanner: asyncio.Task[None] | None = None
        self._trouble: dict[Path, str] = {}
        self._unheard = 0
        """Rescans in a row that found a heartbeat of which the kernel had told nothing."""

    @property
    def blind(self) -> str | None:
        """Why the kernel tells nothing, or None."""
        if self._watching.blind is None and self._unheard >= _DEAF_AFTER:
            return f"changes below {self._shared} are not told (a network file system, perhaps)"
        return self._watching.blind

    def living(self) -> list[Heartbeat]:
        """Return the last heartbeat of each instance that lives."""
        self._last_beats = {owner: beat for owner, beat in self._last_beats.items() if is_alive(beat)}
        return list(self._last_beats.values())

    @property
    def trouble(self) -> list[str]:
        """What could not be looked at the last time, a sentence each."""
        return list(self._trouble.values())

    async def start(self) -> None:
        """Tell everything that is there, then what comes."""
        await self._rescan()
        self._watching.listen()
        self._scanner = asyncio.create_task(self._rescan_forever(), name="file news")

    async def close(self) -> None:
        """Hear nothing more."""
        self._watching.close()
        if self._rest is not None:
            self._rest.cancel()
        if self._scanner is not None:
            self._scanner.cancel()
            await asyncio.wait([self._scanner])

    def _missed(self, why: str) -> None:
        log.info("%s; all is looked at anew", why, extra={"action": "rescan"})
        self._rescan_wanted.set()

    # -- scans

    async def _rescan_forever(self) -> None:
        while True:
            pause_s = self._rescan_s if self.blind is None else min(self._rescan_s, _BLIND_RESCAN_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._rescan_wanted.wait()
            self._rescan_wanted.clear()
            try:
                await self._rescan()
            except Exception:
                # Whatever it was, the next round may do better; without one nothing would be heard of any more.
                log.exception("a rescan failed", extra={"action": "rescan_failed"})

    async def _rescan(self) -> None:
        self._trouble.clear()
        self._arm()
        slices = Slices()
        unheard = False
        for name in self._listing(self._heartbeats):
            unheard |= self._look_at_beat(name)
            await slices.breathe()
        self._unheard = self._unheard + 1 if unheard else 0
        seen: dict[str, int] = {}
        for number, (name, inode) in enumerate(self._notices_there()):
            seen[name] = inode
            if self._empty.get(name) != inode:
                self._waiting[name] = None
            if number % _CHECK_CLOCK_EVERY == 0:
                await slices.breathe()
        self._empty = {name: inode for name, inode in self._empty.items() if seen.get(name) == inode}
        while self._waiting:
            if self._rest is None:
                self._look_at_notices()
            await asyncio.sleep(0)
        runs = list(self._open_runs())
        self._started.intersection_update(runs)
        for worker, wire_id in runs:
            self._look_at_run(worker, wire_id)
            await slices.breathe()
        self.journals.look_at_all()
        self._questions.look_at_all()

    def _arm(self) -> None:
        """Watch what is not watched yet, or has been replaced."""
        self._watching.start()
        self._watching.forget_replaced()
        for folder, events, told in (
            (self._notices, Mask.MOVED_TO, self._notice_came),
            (self._heartbeats, Mask.MOVED_TO, self._beat_came),
            (self._events, Mask.CREATE | Mask.MOVED_TO, self._journals_came),
        ):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._trouble[folder] = f"{folder} cannot be made: {error.strerror or error}"
                continue
            self._watching.watch(folder, events | Mask.ONLYDIR, told)
        for worker in self._listing(self._events):
            self._watch_journals_of(worker)
        if (trouble := self._questions.arm(self._watching)) is not None:
            self._trouble[self._questions.folder] = trouble

    def _watch_journals_of(self, worker: str) -> bool:
        folder = self._events / worker
        if not is_worker_name(worker):
            return False
        return self._watching.watch(folder, Mask.CREATE | Mask.ONLYDIR, partial(self._journal_came, worker))

    def _listing(self, folder: Path) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError as error:
            self._trouble.setdefault(folder, f"{folder} cannot be looked at: {error.strerror or error}")
            return []

    def _notices_there(self) -> Iterable[tuple[str, int]]:
        try:
            with os.scandir(self._notices) as listing:
                for entry in listing:
                    if _task_of(entry.name) is not None:
                        yield entry.name, entry.inode()
        except OSError as error:
            told = f"{self._notices} cannot be looked at: {error.strerror or error}"
            self._trouble.setdefault(self._notices, told)

    def _look_at_run(self, worker: str, wire_id: str) -> None:
        layout = WorkerLayout.under(self._shared, worker)
        if (worker, wire_id) not in self._started and os.path.lexists(layout.event_journal(wire_id)):
            self._started.add((worker, wire_id))
            self._ears.hear_started(FILE, worker, wire_id)
        if not self._tell_result(worker, wire_id, None):
            answer = answer_of_letter(layout, wire_id)
            # It may have got its result, or been handed in anew, since the first look.
            if answer is not None and not self._tell_result(worker, wire_id, None):
                self._ears.hear_result(HeardResult(result=answer, transport=FILE))

    # -- results

    def _notice_came(self, name: str) -> None:
        if _task_of(name) is None:
            return
        self._waiting[name] = None
        if self._rest is None:
            self._look_at_notices()

    def _look_at_notices(self) -> None:
        """Look at those that wait, for one slice; the rest has its turn after the others in the loop."""
        self._rest = None
        until = perf_counter() + SLICE_S
        while self._waiting:
            name = next(iter(self._waiting))
            del self._waiting[name]
            self._look_at_notice(name)
            if self._waiting and perf_counter() >= until:
                self._rest = asyncio.get_running_loop().call_soon(self._look_at_notices)
                return

    def _look_at_notice(self, name: str) -> None:
        path = self._notices / name
        task_id = _task_of(name)
        notice = _read_object(path)
        worker = notice.get("worker")
        if task_id is None or notice.get("task_id") != task_id:
            worker = None
        is_told = isinstance(worker, str) and is_worker_name(worker) and self._tell_result(worker, task_id or "", path)
        if not is_told:
            # It lies, or it tells of a result that is in Redis or was taken away.
            with suppress(OSError):
                self._empty[name] = os.lstat(path).st_ino

    def _tell_result(self, worker: str, wire_id: str, notice: Path | None) -> bool:
        """Tell of a result, good or broken; False while there is none."""
        try:
            result = read_result_file(WorkerLayout.under(self._shared, worker), worker, wire_id)
        except BrokenResult as error:
            self._ears.hear_broken_result(FILE, worker, wire_id, str(error))
            return True
        if result is None:
            return False
        on_stored = None if notice is None else partial(_remove, notice)
        position = journal_size(WorkerLayout.under(self._shared, worker).event_journal(wire_id))
        self._ears.hear_result(HeardResult(result=result, transport=FILE, event_position=position, on_stored=on_stored))
        return True

    # -- heartbeats

    def _beat_came(self, name: str) -> None:
        self._unheard = 0
        self._look_at_beat(name)

    def _look_at_beat(self, name: str) -> bool:
        """Tell of a heartbeat unless it was told; returns whether it was told now."""
        worker = name.removesuffix(_BEAT_SUFFIX)
        if not name.endswith(_BEAT_SUFFIX) or not is_worker_name(worker):
            return False
        try:
            body, status = read_untrusted(f"{self._heartbeats}/{name}", max_bytes=_MOST_BEAT_BYTES, owners=None)
            if self._beats.get(name) == status.st_mtime_ns:
                return False
            beat = Heartbeat.model_validate_json(body)
        except (OSError, TriggerRejected, ValidationError):
            return False
        if beat.worker != worker:
            return False
        self._beats[name] = status.st_mtime_ns
        self._last_beats[worker, beat.instance] = beat
        if len(self._last_beats) > _MOST_BEATS:
            self.living()
        self._ears.hear_heartbeat(FILE, beat)
        return True

    # -- journals

    def _journals_came(self, worker: str) -> None:
        """A worker has got its directory of journals; what it wrote there before it is watched gave no hint."""
        if self._watch_journals_of(worker):
            for name in self._listing(self._events / worker):
                self._journal_came(worker, name)

    def _journal_came(self, worker: str, name: str) -> None:
        wire_id = name.removesuffix(_JOURNAL_SUFFIX)
        if name.endswith(_JOURNAL_SUFFIX) and is_task_id(wire_id):
            self._ears.hear_started(FILE, worker, wire_id)
            self.journals.created(self._events / worker / name)

    def _watch_journal(self, path: Path) -> None:
        self._watching.watch(path, Mask.MODIFY, lambda _: self.journals.changed(path))


def _task_of(name: str) -> str | None:
    """Return whose result a trigger of this name tells of; None for other triggers."""
    if not (name.startswith(_NOTICE_PREFIX) and name.endswith(TRIGGER_SUFFIX)):
        return None
    task_id = name[len(_NOTICE_PREFIX) : -len(TRIGGER_SUFFIX)]
    return task_id if is_task_id(task_id) else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        body, _ = read_untrusted(os.fspath(path), max_bytes=_MOST_NOTICE_BYTES, owners=None)
        fields = from_json(body)
    except (OSError, TriggerRejected, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
