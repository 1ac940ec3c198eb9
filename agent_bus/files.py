"""The few file operations that the shared directory's promises rest on."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent_bus.errors import DeadLetterReason, TriggerRejected

_OPEN_UNTRUSTED: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_ROOM_BYTES: Final = 4096
_STALE_S: Final = 3600.0

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a symbolic link"),
)


def read_untrusted(path: str, *, max_bytes: int, owners: frozenset[int] | None) -> tuple[bytes, os.stat_result]:
    """Read a file that anybody may have put there: no link is followed, nothing blocks, nothing too large is read.

    Args:
        path: The file.
        max_bytes: The most that is read; a larger file is refused.
        owners: User ids whose files are accepted; None accepts any.

    Raises:
        FileNotFoundError: it is gone (another worker took it).
        TriggerRejected: it is no plain file, unreadable, too large or of a stranger.
    """
    try:
        descriptor = os.open(path, _OPEN_UNTRUSTED)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _open_refusal(path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise TriggerRejected(
                DeadLetterReason.NOT_A_FILE, f"it is {kind_of(status.st_mode)}; a trigger must be a plain file"
            )
        if owners is not None and status.st_uid not in owners:
            raise TriggerRejected(
                DeadLetterReason.FOREIGN_OWNER,
                f"it belongs to user id {status.st_uid}; to accept it, name that id in TRIGGER_OWNERS",
            )
        if status.st_size > max_bytes:
            raise TriggerRejected(
                DeadLetterReason.TOO_LARGE,
                f"it has {status.st_size:,} bytes; MAX_TRIGGER_BYTES allows {max_bytes:,}",
            )
        # Room for what is there and a little more: a buffer of `max_bytes` would cost more than all the rest.
        body = os.read(descriptor, status.st_size + _ROOM_BYTES)
        while len(body) > status.st_size and len(body) <= max_bytes and (more := os.read(descriptor, _ROOM_BYTES)):
            body += more
        if len(body) > max_bytes:
            raise TriggerRejected(
                DeadLetterReason.TOO_LARGE, f"it grew past the {max_bytes:,} bytes that MAX_TRIGGER_BYTES allows"
            )
        return body, status
    finally:
        os.close(descriptor)


def _open_refusal(path: str, error: OSError) -> TriggerRejected:
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return TriggerRejected(
            DeadLetterReason.NOT_A_FILE, "it is a symbolic link; a trigger must be a plain file, links are not followed"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return TriggerRejected(
            DeadLetterReason.UNREADABLE, f"the worker (user id {os.geteuid()}) may not read it; mend its mode or owner"
        )
    if error.errno == errno.ENXIO:
        return TriggerRejected(DeadLetterReason.NOT_A_FILE, "it is a socket; a trigger must be a plain file")
    return TriggerRejected(DeadLetterReason.UNREADABLE, f"it cannot be opened: {error.strerror} ({path})")


def kind_of(mode: int) -> str:
    """Say in words what a file of this mode is."""
    return next((words for test, words in _KINDS if test(mode)), "a special file")


def write_atomic(path: Path | str, body: bytes) -> None:
    """Put `body` at `path` so that a reader sees the old file or the new one, never a part."""
    target = os.fspath(path)
    folder, name = os.path.split(target)
    # Not the process id: replicas in containers all have the same.
    staged = os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")
    try:
        write_new(staged, body)
        os.rename(staged, target)
    except OSError:
        with suppress(OSError):
            os.unlink(staged)
        raise


def write_new(path: str, body: bytes, *, mode: int = 0o644) -> None:
    """Write `body` to a file of the caller's own naming, replacing a left-over of that name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        written = os.write(descriptor, body)
        while written < len(body):
            written += os.write(descriptor, body[written:])
    finally:
        os.close(descriptor)


def move(source: str, target: str, moving_mark: str) -> None:
    """Move a file, atomically where both places share a file system.

    Between two mounts the file is first renamed to `moving_mark` + its name beside itself, so that only one of several
    movers gets it; then it is copied with its times, and removed. A crash leaves the marked file behind.

    Raises:
        FileNotFoundError: `source` is gone.
        OSError: it cannot be moved; what was at `source` is there or at the marked name.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        folder, name = os.path.split(source)
        marked = os.path.join(folder, moving_mark + name)
        os.rename(source, marked)
        try:
            copy_entry(marked, target)
        except OSError:
            os.rename(marked, source)
            raise
        if os.path.isdir(marked) and not os.path.islink(marked):
            shutil.rmtree(marked)
        else:
            os.unlink(marked)


def copy_entry(source: str, target: str) -> None:
    """Copy a file of any kind with its times; a plain one appears whole or not at all.

    Raises:
        OSError: it cannot be copied.
    """
    status = os.lstat(source)
    folder, name = os.path.split(target)
    staged = os.path.join(folder, f".{name[-200:]}.tmp")
    if stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, staged, follow_symlinks=False)
        os.utime(staged, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(staged, target)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISDIR(status.st_mode):
        shutil.copytree(source, target, symlinks=True)
    else:
        # A FIFO or socket has no content to keep; its reason file tells what it was.
        write_new(target, b"")


def is_copy(path: str, of: str) -> bool:
    """Tell whether `path` is a plain file that `move` has copied from `of`: the same size and time of change."""
    try:
        here, there = os.lstat(path), os.lstat(of)
    except OSError:
        return False
    return stat.S_ISREG(here.st_mode) and (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def remove_stale(directory: Path, *, suffixes: tuple[str, ...] = (".tmp",)) -> None:
    """Remove the hidden files that writers were about to put into place when they were killed, an hour ago or more."""
    with suppress(OSError):
        for name in os.listdir(directory):
            if name[:1] == "." and name.endswith(suffixes):
                path = directory / name
                with suppress(OSError):
                    if time.time() - path.lstat().st_mtime > _STALE_S:
                        path.unlink()


def publish_once(staged: str, target: str) -> bool:
    """Give the file `staged` the name `target` unless that name is taken; `staged` is gone afterwards either way.

    Returns False when `target` existed; it is left as it was.
    """
    try:
        os.link(staged, target)
    except FileExistsError:
        os.unlink(staged)
        return False
    except OSError as error:
        # Some mounts (vfat, several FUSE ones) have no hard links: there the claim that the caller holds is the guard.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        if os.path.lexists(target):
            os.unlink(staged)
            return False
        os.rename(staged, target)
        return True
    os.unlink(staged)
    return True
