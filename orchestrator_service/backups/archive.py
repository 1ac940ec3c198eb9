"""The archive: a compressed tar whose first member is the manifest, then each entry in the manifest's order.

The manifest knows every checksum, so it can be written only when all else has been read: the rest is kept aside in a
nameless file, and follows it as a second gzip member. `tar` and `gzip` read such a file as one.

Reading trusts nothing. Only plain files, directories and links are members; a header that names another kind, another
name or another size than the manifest did ends it. The tar library would do more than is wanted here: it follows
extensions that make it allocate what a header asks for.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from orchestrator_service.backups.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_NAME,
    BackupError,
    Entry,
    Kind,
    Manifest,
    read_manifest,
)

_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK: Final = 1024 * 1024
_LEVEL: Final = 6
_LONGEST_NAME: Final = 64 * 1024
_TYPES: Final = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.LINK: tarfile.SYMTYPE}

CUT_SHORT: Final = "The backup is cut short or broken ({}); nothing was restored, take another copy of it."


class ArchiveWriter:
    """Collects entries; `write_to` puts them behind their manifest."""

    def __init__(self, scratch: Path, progress: Callable[[int, int], None] = lambda files, size: None) -> None:
        """Keep what is collected in a nameless file in the directory `scratch`.

        Raises:
            OSError: none can be made there.
        """
        self.entries: list[Entry] = []
        self._kept = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by `close`)
        self._packed = gzip.GzipFile(fileobj=self._kept, mode="wb", compresslevel=_LEVEL, mtime=0)
        self._progress = progress
        self._size = 0

    def add(self, entry: Entry, content: IO[bytes] | None = None) -> bool:
        """Add an entry; of a file its `size` bytes of `content` are read, and its checksum is taken here.

        Returns False where there were fewer bytes than that: the rest is filled with zeros.
        """
        self._packed.write(_header(entry))
        whole = True
        if entry.kind is Kind.FILE:
            assert content is not None
            digest = hashlib.sha256()
            missing = entry.size
            while missing:
                chunk = content.read(min(_CHUNK, missing))
                if not chunk:
                    whole = False
                    chunk = bytes(min(_CHUNK, missing))
                digest.update(chunk)
                self._packed.write(chunk)
                missing -= len(chunk)
            self._packed.write(bytes(-entry.size % _BLOCK))
            entry = entry.model_copy(update={"sha256": digest.hexdigest()})
        self.entries.append(entry)
        self._size += entry.size
        self._progress(len(self.entries), self._size)
        return whole

    def write_to(self, output: IO[bytes], manifest: Manifest) -> int:
        """Write the manifest and all that was added; returns the size of the whole in bytes.

        Raises:
            BackupError: there are more files than an archive can name.
            OSError: it cannot be written.
        """
        body = manifest.model_dump_json().encode()
        if len(body) > LARGEST_MANIFEST_BYTES:
            raise BackupError(
                f"There are {len(manifest.entries):,} files, too many for one backup; "
                "leave out journals with --without-events, or prune old results."
            )
        self._packed.write(bytes(2 * _BLOCK))
        self._packed.close()
        first = _header(Entry(path=MANIFEST_NAME, size=len(body), mode=0o600)) + body + bytes(-len(body) % _BLOCK)
        packed = gzip.compress(first, _LEVEL, mtime=0)
        output.write(packed)
        size = self._kept.tell()
        self._kept.seek(0)
        shutil.copyfileobj(self._kept, output, _CHUNK)
        return len(packed) + size

    def close(self) -> None:
        """Give the nameless file back, and what could not be written to it with it."""
        for file in (self._packed, self._kept):
            with suppress(OSError):
                file.close()


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.type = _TYPES[entry.kind]
    info.size = entry.size
    info.mode = entry.mode
    info.mtime = entry.mtime_ns // 10**9
    info.linkname = entry.target
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


class ArchiveReader:
    """Reads an archive from a stream, once, from the beginning."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = gzip.GzipFile(fileobj=stream, mode="rb")

    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            BackupError: this is no backup, or one that must not be restored.
        """
        try:
            kind, name, size, _ = self._next()
        except (gzip.BadGzipFile, tarfile.HeaderError) as error:
            raise BackupError("This is no backup of codehornets: it is no compressed tar archive.") from error
        except (EOFError, zlib.error) as error:
            raise BackupError(CUT_SHORT.format(error)) from error
        if kind != tarfile.REGTYPE or name != MANIFEST_NAME:
            raise BackupError("This is no backup of codehornets: it does not begin with a manifest.")
        if size > LARGEST_MANIFEST_BYTES:
            raise BackupError(f"The backup cannot be trusted: its manifest has {size:,} bytes; nothing was restored.")
        try:
            body = self._exactly(size)
            self._exactly(-size % _BLOCK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BackupError(CUT_SHORT.format(error)) from error
        return read_manifest(body)

    def contents(self, manifest: Manifest) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Yield each entry with its content, which must be read to its end before the next one; all is checked.

        Raises:
            BackupError: it is cut short, broken, or holds other things than its manifest says.
        """
        try:
            for entry in manifest.entries:
                kind, name, size, target = self._next()
                if (kind, name, size, target) != (_TYPES[entry.kind], entry.path, entry.size, entry.target):
                    raise BackupError(
                        f"The backup cannot be trusted: where its manifest has {entry.path!r} there is another thing; "
                        "nothing was restored."
                    )
                yield entry, self._content(entry)
            if self._exactly(_BLOCK).strip(b"\0"):
                raise BackupError("The backup cannot be trusted: it holds more than its manifest says.")
            # To the very end, where the compression has a checksum of its own.
            while self._stream.read(_CHUNK):
                pass
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.HeaderError) as error:
            raise BackupError(CUT_SHORT.format(error)) from error

    def _content(self, entry: Entry) -> Iterator[bytes]:
        digest = hashlib.sha256()
        left = entry.size
        try:
            while left:
                chunk = self._exactly(min(_CHUNK, left))
                left -= len(chunk)
                digest.update(chunk)
                yield chunk
            self._exactly(-entry.size % _BLOCK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BackupError(CUT_SHORT.format(error)) from error
        if entry.kind is Kind.FILE and digest.hexdigest() != entry.sha256:
            raise BackupError(CUT_SHORT.format(f"the checksum of {entry.path!r} is another"))

    def _next(self) -> tuple[bytes, str, int, str]:
        """Return kind, name, size and target of the next member."""
        long: dict[bytes, str] = {}
        while True:
            info = tarfile.TarInfo.frombuf(self._exactly(_BLOCK), "utf-8", "surrogateescape")
            if info.type not in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                kind = tarfile.REGTYPE if info.type == tarfile.AREGTYPE else info.type
                return (
                    kind,
                    long.get(tarfile.GNUTYPE_LONGNAME, info.name).rstrip("/"),
                    info.size,
                    long.get(tarfile.GNUTYPE_LONGLINK, info.linkname),
                )
            if not 0 < info.size <= _LONGEST_NAME or info.type in long:
                raise tarfile.HeaderError("a name is too long")
            text = self._exactly(info.size + -info.size % _BLOCK)[: info.size]
            long[info.type] = text.rstrip(b"\0").decode("utf-8", "surrogateescape")

    def _exactly(self, size: int) -> bytes:
        """Read so many bytes, a piece at a time: what a header claims is no reason to ask for the memory at once."""
        pieces: list[bytes] = []
        while size:
            piece = self._stream.read(min(_CHUNK, size))
            if not piece:
                raise EOFError("its end is missing")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable, where the file system can.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
