"""Results made durable in groups: one flush of the disk serves all that were written in the meantime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import anyio
import anyio.to_thread


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def sync_filesystem(directory: Path) -> None:
    """Flush the file system that holds `directory` to its disk (`syncfs(2)`).

    Raises:
        OSError: the disk reported an error.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc().syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(directory))
    finally:
        os.close(descriptor)


def is_in_memory(directory: Path) -> bool:
    """Tell whether `directory` lies on a file system without a disk (tmpfs, ramfs), where there is nothing to flush."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields, _, rest = line.partition(" - ")
                if fields.split()[2] == wanted:
                    return rest.split()[0] in ("tmpfs", "ramfs")
    except (OSError, IndexError):
        return False
    return False


class GroupCommit:
    """Lets many writers share one flush.

    Whoever has written a file awaits `flushed`; while one flush runs in its thread, the others gather for the next.
    A flush covers every write that was finished before it began, so nobody waits for more than two.
    """

    def __init__(self, directory: Path, flush: Callable[[Path], None] = sync_filesystem) -> None:
        """Flush the file system of `directory` with `flush`, which is called in a thread and may raise OSError."""
        self._directory = directory
        self._flush = flush
        self._gathering = _Group()

    async def run_forever(self) -> None:
        """Serve the groups, one after the other; `flushed` returns only while this runs."""
        while True:
            await self._gathering.wanted.wait()
            group, self._gathering = self._gathering, _Group()
            try:
                await anyio.to_thread.run_sync(self._flush, self._directory)
            except OSError as error:
                group.error = error
            group.done.set()

    async def flushed(self) -> None:
        """Return once everything written so far is on the disk.

        Raises:
            OSError: the flush failed; nothing may be taken for durable.
        """
        group = self._gathering
        group.wanted.set()
        await group.done.wait()
        if group.error is not None:
            raise OSError(group.error.errno, group.error.strerror, os.fspath(self._directory))


class _Group:
    __slots__ = ("done", "error", "wanted")

    def __init__(self) -> None:
        self.wanted = anyio.Event()
        self.done = anyio.Event()
        self.error: OSError | None = None
