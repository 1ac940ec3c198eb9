"""The dead-letter directory: what could not be run, with the reason beside it, to be looked at and replayed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from agent_bus.errors import BusError, DeadLetterReason
from agent_bus.files import copy_entry, publish_once, write_new
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, TaskStatus

REASON_SUFFIX: Final = ".reason.json"
_LONGEST_NAME_BYTES: Final = 180
_ENDS: Final = {TaskStatus.CANCELLED: "was cancelled", TaskStatus.TIMED_OUT: "was ended when its time was over"}


class DeadLetter(BaseModel):
    """The `NAME.reason.json` beside a file that was set aside."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    """The file's name in the dead-letter directory."""
    original_name: str
    """The name it came under."""
    reason: str
    message: str
    worker: str
    instance: str
    buried_at: datetime
    task_id: str | None = None
    attempts: int = 0


class DeadLetterError(BusError):
    """A dead letter could not be found or moved; the text says why."""


@dataclass(frozen=True)
class DeadLetterBox:
    """The dead letters of one worker."""

    layout: WorkerLayout
    move: Callable[[str, str], None] = os.rename
    """Moves a file here; the queue gives one that can cross mounts."""

    def bury(self, source: Path | str, letter: DeadLetter) -> DeadLetter:
        """Move `source` here beside its reason; the name is changed where it is taken or too long.

        Raises:
            FileNotFoundError: `source` is gone; another worker was faster, nothing is left behind.
            OSError: it cannot be moved (a full disk, say).
        """
        folder = self.layout.dead_letters
        folder.mkdir(parents=True, exist_ok=True)
        # The reason first: a crash between the two leaves a reason too many, never a letter without one.
        letter, reason_path = self._write_reason(letter)
        try:
            self.move(os.fspath(source), os.fspath(folder / letter.name))
        except OSError:
            reason_path.unlink(missing_ok=True)
            raise
        return letter

    def _write_reason(self, letter: DeadLetter) -> tuple[DeadLetter, Path]:
        while True:
            letter = letter.model_copy(update={"name": self._free_name(letter.original_name)})
            reason_path = self.layout.dead_letters / f"{letter.name}{REASON_SUFFIX}"
            staged = f"{self.layout.dead_letters}/.{os.urandom(6).hex()}.tmp"
            try:
                write_new(staged, letter.model_dump_json(indent=1).encode())
                # Another replica may be burying the same file at this moment: each needs a reason of its own.
                if publish_once(staged, os.fspath(reason_path)):
                    return letter, reason_path
            except OSError:
                with suppress(OSError):
                    os.unlink(staged)
                raise

    def _free_name(self, original: str) -> str:
        encoded = os.fsencode(original)
        printable = encoded.decode("utf-8", "replace").replace("\ufffd", "_")
        if len(encoded) > _LONGEST_NAME_BYTES:
            digest = hashlib.sha256(encoded).hexdigest()[:12]
            printable = encoded[: _LONGEST_NAME_BYTES - 20].decode("utf-8", "ignore") + f"~{digest}"
        candidate = printable
        folder = self.layout.dead_letters
        while os.path.lexists(folder / candidate) or os.path.lexists(folder / f"{candidate}{REASON_SUFFIX}"):
            candidate = f"{printable}~{time.time_ns():x}"
        return candidate

    def letters(self) -> Iterator[DeadLetter]:
        """Yield every letter, oldest first; one whose reason is unreadable is told as such."""
        found: list[DeadLetter] = []
        for path in self.layout.dead_letters.glob(f"*{REASON_SUFFIX}"):
            try:
                letter = DeadLetter.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue
            # A buried file may itself be called so, and say anything: it must not name a file elsewhere.
            is_reason = path.name == f"{letter.name}{REASON_SUFFIX}"
            if is_reason and os.path.lexists(self.layout.dead_letters / letter.name):
                found.append(letter)
        yield from sorted(found, key=lambda letter: letter.buried_at)

    def find(self, name: str) -> DeadLetter:
        """Return the letter of that file name or task id; the newest where several share a task id.

        Raises:
            DeadLetterError: there is none.
        """
        matches = [letter for letter in self.letters() if name in (letter.name, letter.task_id)]
        if not matches:
            raise DeadLetterError(
                f"No dead letter {name!r} in {self.layout.dead_letters}; `codehornets dead-letters list` shows all."
            )
        return matches[-1]

    def replay(self, letter: DeadLetter) -> Path:
        """Put the letter back among the triggers, to be run anew; returns its path there.

        A failed result that was written when it was buried is kept under `results/NAME/superseded/`, since a result
        that is in place is never overwritten and would stop the new run.

        Raises:
            DeadLetterError: it has a result that is not a failure, or its place among the triggers is taken.
        """
        target = self.layout.triggers / _trigger_name(letter.original_name)
        buried = self.layout.dead_letters / letter.name
        if os.path.lexists(target):
            raise DeadLetterError(f"{target} is there already; wait until it is taken, or remove it.")
        superseded: tuple[Path, Path] | None = None
        if letter.task_id is not None and letter.reason != DeadLetterReason.DUPLICATE:
            superseded = self._set_failed_result_aside(letter.task_id)
        try:
            _put_back(os.fspath(buried), os.fspath(target))
        except OSError as error:
            if superseded is not None:
                os.rename(superseded[1], superseded[0])
            raise DeadLetterError(f"{buried} cannot be moved to {target}: {error.strerror}.") from error
        (self.layout.dead_letters / f"{letter.name}{REASON_SUFFIX}").unlink(missing_ok=True)
        return target

    def _set_failed_result_aside(self, task_id: str) -> tuple[Path, Path] | None:
        path = self.layout.result(task_id)
        try:
            result = Result.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        if result.status is not TaskStatus.FAILED:
            how = "has completed" if result.status is TaskStatus.COMPLETED else _ENDS[result.status]
            raise DeadLetterError(
                f"Task {task_id} {how}; its result is {path}, and only a failed one may be set aside for a new run."
            )
        superseded = self.layout.results / "superseded"
        superseded.mkdir(exist_ok=True)
        aside = superseded / f"{task_id}-{time.time_ns():x}.json"
        os.rename(path, aside)
        return path, aside

    def drop(self, letter: DeadLetter) -> None:
        """Delete the letter and its reason.

        Raises:
            DeadLetterError: it cannot be deleted.
        """
        buried = self.layout.dead_letters / letter.name
        try:
            if buried.is_dir() and not buried.is_symlink():
                buried.rmdir()
            else:
                buried.unlink(missing_ok=True)
        except OSError as error:
            raise DeadLetterError(f"{buried} cannot be deleted: {error.strerror}.") from error
        (self.layout.dead_letters / f"{letter.name}{REASON_SUFFIX}").unlink(missing_ok=True)


def _put_back(buried: str, target: str) -> None:
    try:
        os.rename(buried, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A crash in between leaves the letter where it is; its task has a result by then, or waits, and says so.
        copy_entry(buried, target)
        if os.path.isdir(buried) and not os.path.islink(buried):
            shutil.rmtree(buried)
        else:
            os.unlink(buried)


def _trigger_name(original: str) -> str:
    # A task file comes back as a trigger of its own, which needs no second file.
    return f"task-{original.removesuffix('.json')}.trigger" if original.endswith(".json") else original
