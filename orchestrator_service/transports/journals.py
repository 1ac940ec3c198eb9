"""Following journals live: one reader a journal, however many listen, and nobody waits for a slow one.

Each follower has a short queue. One whose queue is full is left behind: it reads the file by itself, at its own pace,
until it is where the reader is.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from orchestrator_service.transports.base import JournalLine

_BLOCK_BYTES: Final = 262_144
_MOST_QUEUED: Final = 1000
_MOST_QUEUED_BYTES: Final = 262_144
"""What followers that do not read keep alive, a follower at most."""
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Follower:
    """Where one listener is."""

    def __init__(self, after: int) -> None:
        self.position = after
        """Behind the last line that it was given, or that lies in its queue."""
        self.behind = True
        """Whether it reads the file by itself."""
        self.queue: deque[JournalLine] = deque()
        self.queued_bytes = 0
        self.woken = asyncio.Event()

    def offer(self, line: JournalLine) -> None:
        if self.behind or line.position <= self.position:
            return
        if len(self.queue) >= _MOST_QUEUED or self.queued_bytes >= _MOST_QUEUED_BYTES:
            self.behind = True
            return
        self.queue.append(line)
        self.queued_bytes += len(line.line)
        self.position = line.position

    def take(self) -> JournalLine:
        line = self.queue.popleft()
        self.queued_bytes -= len(line.line)
        return line


class _Journal:
    """One file, and all who follow it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.followers: set[_Follower] = set()
        self.position = 0
        """Up to where its whole lines were read."""
        self._descriptor: int | None = None

    @property
    def is_open(self) -> bool:
        return self._descriptor is not None

    def open(self) -> bool:
        """Open the file that has the name now; False while there is none. What is in it is not told again."""
        try:
            descriptor = os.open(self.path, _OPEN)
        except OSError:
            return False
        if self._descriptor is not None:
            if os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor)):
                os.close(descriptor)
                return True
            # Somebody removed the journal and the task is run anew: a new one begins.
            os.close(self._descriptor)
            for follower in self.followers:
                follower.position = 0
        self._descriptor = descriptor
        self.position = self._end_of_whole_lines(os.fstat(descriptor).st_size)
        for follower in self.followers:
            follower.behind = follower.behind or follower.position < self.position
        return True

    def _end_of_whole_lines(self, size: int) -> int:
        assert self._descriptor is not None
        end = size
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            if (last := os.pread(self._descriptor, end - start, start).rfind(b"\n")) >= 0:
                return start + last + 1
            end = start
        return 0

    def read(self, position: int) -> list[JournalLine]:
        """Return some whole lines behind a position; none where no whole one has come yet."""
        if self._descriptor is None:
            return []
        length = _BLOCK_BYTES
        while True:
            try:
                block = os.pread(self._descriptor, length, position)
            except OSError:
                return []
            end = block.rfind(b"\n") + 1
            if end or len(block) < length:
                break
            # One line that is longer than the block.
            length *= 2
        lines = []
        for line in block[:end].split(b"\n")[:-1]:
            position += len(line) + 1
            lines.append(JournalLine(position=position, line=line))
        return lines

    def begin_of_line(self, position: int) -> int:
        """Return the position itself, or where the next line begins if it is in the middle of one."""
        if position <= 0 or self._descriptor is None:
            return max(0, position)
        lines = self.read(position - 1)
        return lines[0].position if lines else position

    def tell(self) -> None:
        """Read what is new and hand it to all."""
        while lines := self.read(self.position):
            self.position = lines[-1].position
            for follower in self.followers:
                for line in lines:
                    follower.offer(line)
        for follower in self.followers:
            follower.woken.set()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Journals:
    """All journals that somebody follows."""

    def __init__(self, watch: Callable[[Path], None], unwatch: Callable[[Path], None]) -> None:
        """Ask `watch` to call `changed` whenever a file that is there grows, and `unwatch` to stop that."""
        self._watch = watch
        self._unwatch = unwatch
        self._journals: dict[Path, _Journal] = {}

    def created(self, path: Path) -> None:
        """Look at a journal that has come to be."""
        journal = self._journals.get(path)
        if journal is not None and self._open(journal):
            journal.tell()

    def changed(self, path: Path) -> None:
        """Tell what is new in a journal; nothing happens where nobody follows it."""
        if (journal := self._journals.get(path)) is not None:
            if not journal.is_open and not self._open(journal):
                return
            journal.tell()

    def look_at_all(self) -> None:
        """Look at every journal that is followed, as if each had changed."""
        for path in list(self._journals):
            self.created(path)

    def _open(self, journal: _Journal) -> bool:
        # Watched before its end is sought: what comes in between is told then.
        self._watch(journal.path)
        return journal.open()

    async def follow(self, path: Path, after: int) -> AsyncIterator[JournalLine]:
        """Yield the whole lines behind byte `after`, then each as it comes; the file may not be there yet."""
        follower = _Follower(after)
        journal = self._journals.get(path)
        if journal is None:
            journal = self._journals[path] = _Journal(path)
        journal.followers.add(follower)
        try:
            if journal.is_open or self._open(journal):
                follower.position = journal.begin_of_line(after)
            while True:
                while follower.queue:
                    yield follower.take()
                if follower.behind:
                    if follower.position < journal.position and (lines := journal.read(follower.position)):
                        for line in lines:
                            follower.position = line.position
                            yield line
                            if follower.position != line.position:
                                break  # Another file has the name now.
                        # Much that is read at once must not keep the loop from others.
                        await asyncio.sleep(0)
                    else:
                        # From here on it is told; no other turn of the loop lies in between.
                        follower.behind = False
                    continue
                follower.woken.clear()
                await follower.woken.wait()
        finally:
            journal.followers.discard(follower)
            if not journal.followers and self._journals.get(path) is journal:
                del self._journals[path]
                self._unwatch(path)
                journal.close()


def read_journal(path: Path, after: int) -> list[JournalLine]:
    """Return the whole lines behind byte `after` that are there now."""
    journal = _Journal(path)
    try:
        if not journal.open():
            return []
        found: list[JournalLine] = []
        position = journal.begin_of_line(after)
        while lines := journal.read(position):
            found += lines
            position = lines[-1].position
        return found
    finally:
        journal.close()


def journal_size(path: Path) -> int:
    """Return the bytes of a journal; 0 where there is none."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
