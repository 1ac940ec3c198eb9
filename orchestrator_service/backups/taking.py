"""Taking a backup of a team that may be at work.

A task moves on while it is read: ledger → trigger → claim → result → ledger, and by way of refusals to the dead
letters. What is read in the order in which things move is met at least once; what was met twice is sorted out. So:

1. The names of the results, and the dead letters: what came after these has come during the backup.
2. The queues (see `queue_capture`): every task that was accepted before is in them, or has its result.
3. The ledger, in one moment. It knows each dispatch before its trigger is there: what it sent after the queues were
   read it sends again, since there is no trace of it.
4. The results. What the ledger knows to have ended, or anything in the queues came to, is there by now: so no result
   that was counted is missing. A result of a run that the ledger has not begun, of a task that it knows, is left
   out: that task comes to it again, and must find no result in its way.
5. What became of the queues and the dead letters meanwhile, journals, sessions and the rest.

Of a task that was met in the queue and is done, set aside or taken back by now, only that later state is kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from agent_bus import VERSION
from agent_bus.dead_letters import REASON_SUFFIX
from agent_bus.errors import DeadLetterReason
from agent_bus.layout import CANCEL_SUFFIX, ORCHESTRATOR, TASK_SUFFIX, TRIGGER_SUFFIX, WorkerLayout
from agent_bus.messages import is_task_id
from orchestrator_service.backups.archive import ArchiveWriter
from orchestrator_service.backups.ledger_copy import LedgerCopy, copy_ledger
from orchestrator_service.backups.letters import LetterCapture
from orchestrator_service.backups.manifest import ALSO, FORMAT, LEDGER, SHARED, STATE, BackupError, Manifest
from orchestrator_service.backups.packing import Packer
from orchestrator_service.backups.queue_capture import Queue, QueueCapture, Waiting, listing, workers_of
from orchestrator_service.backups.stash import Stash

_NOTICE_PREFIX = "result-"

_Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BackupPlan:
    """What is to be saved."""

    shared: Path
    ledger: Path | None
    """None: without one."""
    scratch: Path
    """Where what is read is kept meanwhile; needs room for the archive and the queues."""
    events: bool = True
    logs: bool = False
    also: Mapping[str, Path] = field(default_factory=dict)


def take_backup(plan: BackupPlan, output: IO[bytes], progress: Callable[[int, int], None]) -> tuple[Manifest, int]:
    """Write an archive to `output`; returns its manifest and its size in bytes.

    Args:
        plan: What is to be saved.
        output: Written once, from the beginning.
        progress: Told how many files and bytes there are so far.

    Raises:
        BackupError: it cannot be taken.
        OSError: something cannot be read or written.
    """
    with (
        closing(Stash(plan.scratch)) as stash,
        closing(ArchiveWriter(plan.scratch, progress)) as writer,
        tempfile.TemporaryDirectory(dir=plan.scratch, prefix=".backup-") as folder,
    ):
        taking = _Taking(plan, stash, Packer(writer, stash))
        taking.take(Path(folder) / "ledger")
        manifest = Manifest(
            format=FORMAT,
            product=VERSION,
            created_at=taking.begun_at,
            shared_dir=str(plan.shared.absolute()),
            ledger=None if plan.ledger is None else str(plan.ledger.absolute()),
            also={name: str(path.absolute()) for name, path in plan.also.items()},
            counts=taking.counts,
            left_out=dict(+taking.packer.left_out),
            entries=writer.entries,
        )
        return manifest, writer.write_to(output, manifest)


class _Taking:
    def __init__(self, plan: BackupPlan, stash: Stash, packer: Packer) -> None:
        self.begun_at = datetime.now(UTC)
        self.packer = packer
        self.counts: dict[str, int] = {}
        self._plan = plan
        self._shared = plan.shared
        self._letters = LetterCapture(plan.shared, stash)
        self._queue = QueueCapture(plan.shared, stash)
        self._results: dict[tuple[str, str], bool] = {}
        """Worker and task id of each result that is in, and whether it was there at the beginning."""

    def take(self, ledger_copy: Path) -> None:
        before = self._results_there()
        letters_before = set(self._letters.look())
        queue = self._queue.take()
        ledger = None if self._plan.ledger is None else copy_ledger(self._plan.ledger, ledger_copy)
        self._take_results(before, queue, ledger)
        still_there = self._queue.still_there()
        kept = self._take_letters(letters_before, queue)
        self._take_queue([file for file in queue.files if not self._is_over(file, kept, ledger, still_there)], queue)
        self.packer.left_out["unreadable"] += queue.unreadable
        self._take_sessions_and_markers()
        self._take_notices()
        self.counts["gates"] = self.packer.files(f"{self._shared}/gates", f"{SHARED}/gates", (TASK_SUFFIX,))
        self.counts["hook_rules"] = self.packer.files(
            f"{self._shared}/hooks-config", f"{SHARED}/hooks-config", (".json",)
        )
        if ledger is not None:
            self.packer.file(f"{ledger.path}", LEDGER)
        self.counts["ledgers"] = int(ledger is not None)
        self._take_journals()
        if self._plan.logs:
            self.counts["logs"] = self.packer.files(f"{self._shared}/watcher-logs", f"{SHARED}/watcher-logs", ())
        for name, path in self._plan.also.items():
            self.counts[name] = self.packer.tree(path, f"{ALSO}/{name}")

    # -- results

    def _results_there(self) -> dict[tuple[str, str], _Stamp]:
        found: dict[tuple[str, str], _Stamp] = {}
        for worker in workers_of(self._shared):
            folder = f"{self._shared}/results/{worker}"
            for name in listing(folder):
                task_id = name.removesuffix(TASK_SUFFIX)
                if name.endswith(TASK_SUFFIX) and is_task_id(task_id):
                    try:
                        status = os.lstat(f"{folder}/{name}")
                    except FileNotFoundError:
                        continue
                    found[worker, task_id] = (status.st_ino, status.st_mtime_ns)
        return found

    def _take_results(self, before: Mapping[tuple[str, str], _Stamp], queue: Queue, ledger: LedgerCopy | None) -> None:
        in_queue = {(file.worker, file.task_id) for file in queue.files}
        for (worker, task_id), stamp in self._results_there().items():
            early = before.get((worker, task_id)) == stamp
            if not early and (worker, task_id) not in in_queue and _comes_again(task_id, ledger):
                continue
            path = f"results/{worker}/{task_id}{TASK_SUFFIX}"
            if self.packer.file(f"{self._shared}/{path}", f"{SHARED}/{path}"):
                self._results[worker, task_id] = early
        self.counts["results"] = len(self._results)
        for worker in workers_of(self._shared):
            place = f"results/{worker}/superseded"
            self.packer.files(f"{self._shared}/{place}", f"{SHARED}/{place}", (TASK_SUFFIX,))

    # -- the queue, and what was set aside

    def _is_over(
        self, file: Waiting, letters: set[tuple[str, str, str]], ledger: LedgerCopy | None, still_there: set[int]
    ) -> bool:
        """Tell whether the task has gone on since it was met, to a place where it was met again."""
        if file.is_bell:
            # Its task file is claimed without it. One that rings for nothing yet is left to its writer.
            return file.task_id in self._known_ids
        there = id(file) in still_there
        if file.task_id is None:
            return not there
        early = self._results.get((file.worker, file.task_id))
        if early is not None:
            # A fresh one under a used id is a mistake that its worker tells of; the claim of a task that was answered
            # is acknowledged.
            return not (early and there)
        if (file.worker, file.name, file.kept.sha256) in letters and not there:
            return True
        return not there and ledger is not None and ledger.runs.get(file.task_id, False)

    def _take_letters(self, before: set[tuple[str, str]], queue: Queue) -> set[tuple[str, str, str]]:
        """Pack the letters; returns worker, original name and checksum of those that are new."""
        self._known_ids = {file.task_id for file in queue.files if not file.is_bell}
        self._known_ids |= {task_id for _, task_id in self._results}
        waiting = {(file.worker, file.task_id) for file in queue.files if file.task_id is not None}
        new: set[tuple[str, str, str]] = set()
        count = 0
        for (worker, name), letter in self._letters.look().items():
            task_id = letter.reason.task_id
            if not letter.there_at_last and task_id is not None:
                # Replayed, if it was met in the queue or has a result that was not there; else dropped just now.
                again = (worker, task_id)
                if again in waiting or self._results.get(again) is False:
                    continue
            if (worker, name) not in before and letter.content and letter.reason.reason != DeadLetterReason.DUPLICATE:
                new.add((worker, letter.reason.original_name, letter.content.sha256))
            self._known_ids.add(task_id)
            place = f"{SHARED}/tasks/{worker}/dead-letter/{name}"
            self.packer.kept(letter.content, place)
            self.packer.kept(letter.reason_file, f"{place}{REASON_SUFFIX}")
            count += 1
        self.counts["dead_letters"] = count
        return new

    def _take_queue(self, files: list[Waiting], queue: Queue) -> None:
        counts = {"waiting": 0, "in_flight": 0, "released": 0}
        places: set[str] = set()
        # The newest first: of two that came under one name the other one is gone.
        for file in reversed(files):
            folder, _, name = file.place.rpartition("/")
            fresh = file.uid is None
            place = f"{folder}/{file.name if fresh else name}"
            if place in places:
                continue
            places.add(place)
            if file.uid is not None and (note := queue.notes.get((file.worker, file.uid))) is not None:
                self.packer.kept(note, f"{SHARED}/{folder}/{file.uid}.note")
            self.packer.kept(file.kept, f"{SHARED}/{place}")
            counts["waiting" if fresh else "released" if folder.endswith("/released") else "in_flight"] += 1
        self.counts.update(counts)

    # -- the rest

    def _take_sessions_and_markers(self) -> None:
        sessions = worktrees = 0
        for worker in workers_of(self._shared):
            layout = WorkerLayout.under(self._shared, worker)
            place = f"{SHARED}/tasks/{worker}"
            sessions += self.packer.files(f"{layout.sessions}", f"{place}/sessions", (TASK_SUFFIX,))
            worktrees += self.packer.files(f"{layout.worktree_records}", f"{place}/worktrees", (TASK_SUFFIX,))
            for name in listing(f"{layout.tasks}"):
                task_id = name.removesuffix(CANCEL_SUFFIX)
                if name.endswith(CANCEL_SUFFIX) and is_task_id(task_id) and (worker, task_id) not in self._results:
                    self.packer.file(f"{layout.tasks}/{name}", f"{place}/{name}")
        self.counts.update(sessions=sessions, worktrees=worktrees)

    def _take_notices(self) -> None:
        """Pack what the orchestrator, or a person's script, was told and has not taken: hints, but somebody's."""
        known = {task_id for _, task_id in self._results}
        folder = f"{self._shared}/triggers/{ORCHESTRATOR}"
        for name in listing(folder):
            if not name.endswith(TRIGGER_SUFFIX) or name.startswith("."):
                continue
            told = name.removeprefix(_NOTICE_PREFIX).removesuffix(TRIGGER_SUFFIX)
            if not name.startswith(_NOTICE_PREFIX) or told in known:
                self.packer.file(f"{folder}/{name}", f"{SHARED}/triggers/{ORCHESTRATOR}/{name}")

    def _take_journals(self) -> None:
        if not self._plan.events:
            return
        count = 0
        for worker in listing(f"{self._shared}/events"):
            place = f"events/{worker}"
            count += self.packer.files(f"{self._shared}/{place}", f"{SHARED}/{place}", (".jsonl",), whole_lines=True)
        if self._plan.ledger is not None:
            folder = self._plan.ledger.parent / "events"
            count += self.packer.files(f"{folder}", f"{STATE}/events", (".jsonl",), whole_lines=True)
        self.counts["journals"] = count


def _comes_again(task_id: str, ledger: LedgerCopy | None) -> bool:
    """Tell whether the ledger is to send a run of this id: it knows the task, and not this run."""
    if ledger is None or task_id in ledger.runs:
        return False
    return task_id in ledger.tasks or task_id.rpartition("+")[0] in ledger.tasks


def check_plan(plan: BackupPlan) -> None:
    """Make sure that what is to be saved is there.

    Raises:
        BackupError: it is not; names it.
    """
    if plan.ledger is not None and not plan.ledger.is_file():
        raise BackupError(f"There is no ledger {plan.ledger}; name it with --ledger, or leave it out with --no-ledger.")
    for name, path in plan.also.items():
        if not path.is_dir():
            raise BackupError(f"There is no directory {path}, which --also names {name}.")
