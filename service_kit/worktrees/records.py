"""What is known of each worktree, a file each, and who uses it now.

The files lie with the tasks, where no agent may write: they say what is removed one day.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from agent_bus.files import write_atomic
from agent_bus.messages import utc_now

_SUFFIX: Final = ".json"
_LOCK_SUFFIX: Final = ".lock"


class Busy(Exception):
    """Somebody else uses the worktree now."""


class WorktreeRecord(BaseModel):
    """One worktree, from before it is made until it is removed."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    key: str
    """`task:ID` or `session:NAME`: whose it is."""
    worker: str
    task_id: str
    """The task that worked in it last."""
    path: Path
    top: Path
    """The top of the working tree that it was made from."""
    common: Path
    """The repository's own directory."""
    git_dir: Path | None = None
    """Its administrative directory in the repository; None until it is made."""
    branch: str
    """Full name of its branch."""
    base: str
    """The commit that it began with."""
    base_branch: str | None = None
    """The branch that was checked out in the workspace then; None for a detached head."""
    made: bool = False
    """Whether it is whole. One that is not has never been given to an agent."""
    host: str = ""
    made_at: datetime
    used_at: datetime
    """When a task last began or ended in it."""
    ended: bool = False
    """Whether the task has its result; one that has none may come back."""


class RecordBook:
    """The records of one worker."""

    def __init__(self, directory: Path) -> None:
        """Keep them in `directory`, which is made with the first one."""
        self._directory = directory

    def names(self) -> list[str]:
        """Return the names of all worktrees that are known."""
        try:
            found = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX) and name[0] != ".")

    def read(self, name: str) -> WorktreeRecord | None:
        """Return a record; None where there is none that can be understood."""
        try:
            return WorktreeRecord.model_validate_json((self._directory / f"{name}{_SUFFIX}").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, record: WorktreeRecord) -> WorktreeRecord:
        """Store a record; its time is now.

        Raises:
            OSError: it cannot be stored.
        """
        record = record.model_copy(update={"used_at": utc_now()})
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomic(self._directory / f"{record.name}{_SUFFIX}", record.model_dump_json(indent=2).encode())
        return record

    def forget(self, name: str) -> None:
        """Remove a record; one that is gone is fine."""
        with suppress(FileNotFoundError):
            (self._directory / f"{name}{_SUFFIX}").unlink()

    def is_held(self, name: str) -> bool:
        """Tell whether somebody uses the worktree now."""
        try:
            with self.hold(name):
                return False
        except Busy:
            return True

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Use a worktree for the length of the block; a process that dies lets go.

        Raises:
            Busy: somebody else uses it.
            OSError: the directory cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{name}{_LOCK_SUFFIX}"
        descriptor = _lock(path)
        try:
            yield
        finally:
            if not (self._directory / f"{name}{_SUFFIX}").exists():
                with suppress(OSError):
                    path.unlink()
            # A child between its fork and its exec has the descriptor as well: closing alone would not let go.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it last may have removed the file between the two calls.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise Busy(str(path)) from error
        except FileNotFoundError:
            pass
        os.close(descriptor)
