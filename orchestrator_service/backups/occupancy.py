"""Whether a place is free for a restored team: nobody works there, and nothing is there to be mixed with it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from agent_bus.heartbeats import MISSED_BEATS, is_alive, read_heartbeat
from agent_bus.ownership import LOCK_NAME
from orchestrator_service.backups.manifest import BackupError

STAGING_PREFIX: Final = ".restore-"

_KEPT_ROOTS: Final = ("triggers", "tasks", "results", "events", "gates", "orchestrator")
"""What a restore brings; the rest of a shared directory means nothing to a team that is not there."""


def check_nobody_lives(shared: Path, ledger: Path) -> None:
    """Make sure that no worker and no orchestrator is at work there.

    Raises:
        BackupError: somebody is; says who.
    """
    for lock in sorted(shared.glob(f"tasks/*/inflight/*/{LOCK_NAME}")):
        if _is_locked(lock):
            raise BackupError(
                f"Worker {lock.parent.parent.parent.name} is at work in {shared}; stop the team, then restore."
            )
    if _is_locked(Path(f"{ledger}.lock")):
        raise BackupError(f"An orchestrator has the ledger {ledger}; stop it, then restore.")
    for path in sorted(shared.glob("heartbeats/*.json")):
        beat = read_heartbeat(path)
        if beat is not None and is_alive(beat):
            wait_s = MISSED_BEATS * beat.interval_seconds
            raise BackupError(
                f"{beat.worker} is alive by its heartbeat {path}; stop it, or wait {wait_s:g} s if it was killed."
            )


def check_shared_is_free(shared: Path) -> None:
    """Make sure that a shared directory has nothing of a team in it but empty directories, pipes and locks.

    Raises:
        BackupError: it has; names something.
    """
    check_not_half_restored(shared)
    for root in _KEPT_ROOTS:
        if (found := find_content(shared / root)) is not None:
            raise BackupError(
                f"{shared} is not empty ({found} is there) and nothing is ever mixed; empty it, or restore elsewhere "
                "with --into or --shared-dir."
            )


def check_ledger_is_free(ledger: Path) -> None:
    """Make sure that there is no ledger.

    Raises:
        BackupError: there is one.
    """
    for path in (ledger, Path(f"{ledger}-wal"), ledger.parent / "events"):
        if path.is_file() or find_content(path) is not None:
            raise BackupError(f"{path} is there already; move it away, or name another place with --ledger.")
    check_not_half_restored(ledger.parent)


def check_directory_is_free(path: Path) -> None:
    """Make sure that a directory is empty or missing.

    Raises:
        BackupError: it is not.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise BackupError(f"{path} is no directory; name another place.")
    check_not_half_restored(path)
    if found := [name for name in sorted(os.listdir(path)) if name != "lost+found"]:
        raise BackupError(f"{path} is not empty ({found[0]} is there); empty it, or name another place.")


def check_not_half_restored(path: Path) -> None:
    """Make sure that no restore into the directory was cut short.

    Raises:
        BackupError: one was.
    """
    if path.is_dir() and (left := [name for name in os.listdir(path) if name.startswith(STAGING_PREFIX)]):
        raise BackupError(
            f"A restore into {path} was killed, or is under way: {left[0]} is there; empty the place, then restore."
        )


def find_content(path: Path) -> Path | None:
    """Return something below a path that is worth keeping, or None: anything but directories, pipes and locks."""
    for folder, _, names in os.walk(path, onerror=_raise):
        for name in names:
            found = Path(folder, name)
            mode = os.lstat(found).st_mode
            if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or name.endswith(".lock") or name.startswith(".probe-")):
                return found
    return None


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
