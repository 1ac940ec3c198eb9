"""Putting files of a directory into an archive, whatever becomes of them meanwhile."""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path
from typing import IO, Final

from orchestrator_service.backups.archive import ArchiveWriter
from orchestrator_service.backups.manifest import Entry, Kind, check_paths, wrong_link
from orchestrator_service.backups.queue_capture import listing
from orchestrator_service.backups.stash import Kept, NotPlain, Stash, open_plain

_BLOCK_BYTES: Final = 65_536


class Packer:
    """Adds files to an archive, and counts what cannot be in one."""

    def __init__(self, writer: ArchiveWriter, stash: Stash) -> None:
        self.left_out: Counter[str] = Counter()
        """Things by kind."""
        self._writer = writer
        self._stash = stash

    def kept(self, kept: Kept | None, place: str) -> None:
        """Add what the stash holds; an empty file for None."""
        if kept is None:
            self._writer.add(Entry(path=place), open_nothing())
            return
        entry = Entry(path=place, size=kept.size, mtime_ns=kept.mtime_ns, mode=kept.mode)
        self._writer.add(entry, self._stash.open(kept))

    def file(self, path: str, place: str, *, whole_lines: bool = False) -> bool:
        """Add a plain file; False when it is gone, or is something else.

        Args:
            path: The file.
            place: Its path in the archive.
            whole_lines: Whether a last line without an end is left out.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with open_plain(path) as file:
                status = os.fstat(file.fileno())
                size = _end_of_lines(file, status.st_size) if whole_lines else status.st_size
                self._add(file, place, size, status)
        except FileNotFoundError:
            return False
        except NotPlain:
            self.left_out["special"] += 1
            return False
        return True

    def files(self, folder: str, place: str, suffixes: tuple[str, ...], *, whole_lines: bool = False) -> int:
        """Add the plain files of a directory that are not hidden and end so; returns how many. No suffix means any.

        Raises:
            OSError: one cannot be read.
        """
        return sum(
            self.file(f"{folder}/{name}", f"{place}/{name}", whole_lines=whole_lines)
            for name in listing(folder)
            if not name.startswith(".") and _is_text(name) and (not suffixes or name.endswith(suffixes))
        )

    def tree(self, root: Path, place: str) -> int:
        """Add everything below a directory; returns how many files. What cannot be read is counted as left out.

        Raises:
            OSError: the directory itself cannot be read.
        """
        count = 0
        folders = [(f"{root}", place)]
        while folders:
            folder, here = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                if here == place:
                    raise
                self.left_out["unreadable"] += 1
                continue
            for entry in entries:
                there = f"{here}/{entry.name}"
                try:
                    if not _is_text(entry.name):
                        self.left_out["badly_named"] += 1
                    elif entry.is_symlink():
                        self._link(entry.path, there)
                    elif entry.is_dir(follow_symlinks=False):
                        mode = entry.stat(follow_symlinks=False).st_mode & 0o777
                        self._writer.add(Entry(path=there, kind=Kind.DIRECTORY, mode=mode))
                        folders.append((entry.path, there))
                    else:
                        count += self.file(entry.path, there)
                except FileNotFoundError:
                    continue
                except PermissionError:
                    self.left_out["unreadable"] += 1
        return count

    def _link(self, path: str, place: str) -> None:
        target = os.readlink(path)
        if not _is_text(target) or wrong_link(place, target) is not None:
            self.left_out["links_out"] += 1
            return
        self._writer.add(Entry(path=place, kind=Kind.LINK, target=target))

    def _add(self, file: IO[bytes], place: str, size: int, status: os.stat_result) -> None:
        entry = Entry(
            path=place, size=size, mtime_ns=max(0, status.st_mtime_ns), mode=stat.S_IMODE(status.st_mode) & 0o777
        )
        check_paths([entry], [place.split("/")[1]])
        if not self._writer.add(entry, file):
            self.left_out["changed_while_read"] += 1


def open_nothing() -> IO[bytes]:
    """Return a file without content."""
    return Path(os.devnull).open("rb")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _end_of_lines(file: IO[bytes], size: int) -> int:
    """Return where the last whole line within the first `size` bytes ends."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        position = os.pread(file.fileno(), end - start, start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0
