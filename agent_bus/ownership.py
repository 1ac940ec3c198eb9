"""Who owns a claim: the process that holds the lock of the claim's directory.

Each instance has a directory `inflight/INSTANCE/` with a `.lock` that it keeps locked (`flock`) as long as it lives.
The kernel lets go of the lock when the process dies in whatever way, and so tells the dead from the slow: no
time-out, no heartbeat, no guess. Descriptors are close-on-exec, so no agent can inherit the lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

LOCK_NAME: Final = ".lock"
_NEWCOMER_PREFIX: Final = ".new-"
_NEWCOMER_LIFE_S: Final = 60.0


def try_lock(path: Path | str) -> int | None:
    """Lock the file at `path`, made if need be; None when another open file holds it.

    The caller keeps the descriptor open as long as the lock shall last.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock_new(path: Path) -> int:
    descriptor = try_lock(path)
    if descriptor is None:
        raise OSError(f"another process has taken {path}; start again")
    return descriptor


class InstanceDirectory:
    """The directory of this instance's claims, locked from before anyone can see it until `close`."""

    def __init__(self, inflight: Path, instance: str) -> None:
        """Make and lock `inflight/instance`.

        Raises:
            OSError: the directory cannot be made.
        """
        self.path = inflight / instance
        newcomer = inflight / f"{_NEWCOMER_PREFIX}{instance}"
        newcomer.mkdir(parents=True)
        self._descriptor = _lock_new(newcomer / LOCK_NAME)
        # Renamed only once locked: nobody ever sees an unlocked directory of a living instance.
        newcomer.rename(self.path)

    def still_there(self) -> bool:
        """Tell whether the directory is the one that was locked (somebody may have deleted the shared directory)."""
        try:
            there = os.stat(self.path / LOCK_NAME)
        except OSError:
            return False
        mine = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def renew(self) -> None:
        """Own a directory of the same name again, whatever became of the one that was locked, or of its lock alone.

        Raises:
            OSError: it cannot be made; the ownership is as it was.
        """
        token = os.urandom(4).hex()
        if self.path.is_dir():
            staged = self.path / f"{LOCK_NAME}.{token}"
            fresh = _lock_new(staged)
            staged.rename(self.path / LOCK_NAME)
        else:
            newcomer = self.path.with_name(f"{_NEWCOMER_PREFIX}{self.path.name}-{token}")
            newcomer.mkdir(parents=True)
            fresh = _lock_new(newcomer / LOCK_NAME)
            newcomer.rename(self.path)
        os.close(self._descriptor)
        self._descriptor = fresh

    def close(self) -> None:
        """Let go; the directory is removed if it holds no claim."""
        with suppress(OSError):
            (self.path / LOCK_NAME).unlink()
            self.path.rmdir()
        os.close(self._descriptor)


@contextmanager
def _locked_if_dead(directory: Path) -> Iterator[bool]:
    try:
        descriptor = try_lock(directory / LOCK_NAME)
    except OSError:
        yield False
        return
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def is_alive(inflight: Path, instance: str) -> bool:
    """Tell whether a living process owns `inflight/instance`."""
    directory = inflight / instance
    if not directory.is_dir():
        return False
    with _locked_if_dead(directory) as dead:
        return not dead


def dead_owners(inflight: Path, own: str) -> Iterator[Path]:
    """Yield each directory whose owner is dead, locked for the caller during its turn and removed after it if empty."""
    try:
        with os.scandir(inflight) as listing:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    except FileNotFoundError:
        return
    for name, is_directory in entries:
        if not is_directory or name == own:
            continue
        directory = inflight / name
        if name.startswith(_NEWCOMER_PREFIX):
            with suppress(OSError):
                if time.time() - directory.stat().st_mtime < _NEWCOMER_LIFE_S:
                    continue
        elif name.startswith("."):
            continue
        with _locked_if_dead(directory) as dead:
            if not dead:
                continue
            yield directory
            with suppress(OSError):
                remaining = [entry for entry in os.listdir(directory) if entry != LOCK_NAME]
                if not remaining:
                    (directory / LOCK_NAME).unlink()
                    directory.rmdir()
