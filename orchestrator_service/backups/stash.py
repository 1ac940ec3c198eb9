"""What was read of files that may be gone a moment later."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHUNK: Final = 1024 * 1024


class NotPlain(OSError):
    """It is no plain file, but a link, a pipe, a socket, a device or a directory."""


class Kept(NamedTuple):
    """A file as it was when it was read."""

    offset: int
    size: int
    sha256: str
    inode: int
    mtime_ns: int
    mode: int


def open_plain(path: str) -> IO[bytes]:
    """Open a plain file; no link is followed and nothing blocks.

    Raises:
        FileNotFoundError: it is gone.
        NotPlain: it is something else.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise NotPlain(path)
    file = os.fdopen(os.open(path, _OPEN), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotPlain(path)
    return file


class Stash:
    """A nameless file that holds the content of others."""

    def __init__(self, scratch: Path) -> None:
        """Make it in the directory `scratch`.

        Raises:
            OSError: it cannot be made.
        """
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by `close`)

    def keep(self, path: str) -> Kept:
        """Read a file.

        Raises:
            OSError: see `open_plain`; or there is no room.
        """
        offset = self._file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        with open_plain(path) as file:
            status = os.fstat(file.fileno())
            size = 0
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                self._file.write(chunk)
                size += len(chunk)
        return Kept(offset, size, digest.hexdigest(), status.st_ino, status.st_mtime_ns, status.st_mode & 0o777)

    def open(self, kept: Kept) -> IO[bytes]:
        """Return the stash at the beginning of what was kept; read no more than its size, and close nothing."""
        self._file.seek(kept.offset)
        return self._file

    def beginning(self, kept: Kept, most: int) -> bytes:
        """Return what was kept, or its first `most` bytes."""
        return self.open(kept).read(min(kept.size, most))

    def close(self) -> None:
        """Give it back, and what could not be written to it with it."""
        with suppress(OSError):
            self._file.close()
