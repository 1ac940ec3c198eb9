"""The log: JSON lines in a file that rotates, and readable lines on the terminal.

Each line has a stable `action`; tests and alerts look at that, never at the prose.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROTATE_AT_BYTES: Final = 10 * 1024 * 1024
KEPT_FILES: Final = 5

_PLAIN_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _PLAIN_FIELDS}


class LineQuota:
    """Allows so many lines a second: more than that nobody reads, and each costs as much as a small task."""

    def __init__(self, lines_a_second: int) -> None:
        self._allowed = lines_a_second
        self._second = 0
        self._lines = 0

    def allows_one(self) -> bool:
        """Take one line of this second's quota; False when it is used up."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        return self._lines <= self._allowed


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, worker and the record's extra fields."""

    def __init__(self, **constant: str) -> None:
        """Put the `constant` fields on every line."""
        super().__init__()
        self._constant = constant

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._constant,
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TerminalLines(logging.Formatter):
    """`12:00:00 marie  what happened`, for people."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = f"{clock} {self._name:<8} {level}{record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class SharedRotatingFile(logging.Handler):
    """Appends to a file that several replicas of a worker may share, and rotates it when it is large.

    The standard rotating handler renames the file under the feet of another process; here rotation happens under a
    lock, and each writer follows the file's name. A full disk costs log lines, never the worker: `lost_lines` counts.
    """

    def __init__(self, path: Path, *, rotate_at_bytes: int = ROTATE_AT_BYTES, kept_files: int = KEPT_FILES) -> None:
        super().__init__()
        self.lost_lines = 0
        self._path = path
        self._rotate_at_bytes = rotate_at_bytes
        self._kept_files = kept_files
        self._descriptor: int | None = None
        self._until_check = 0
        self._torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            self._until_check -= len(line)
            if self._descriptor is None or self._until_check <= 0:
                self._follow_name()
            if self._descriptor is not None:
                if self._torn:
                    line = b"\n" + line
                written = os.write(self._descriptor, line)
                # Other replicas append as well, so half a line cannot be cut off again; it is ended with the next.
                self._torn = written < len(line)
                if self._torn:
                    self.lost_lines += 1
        except OSError:
            self.lost_lines += 1

    def _follow_name(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(self._descriptor).st_size >= self._rotate_at_bytes:
            self._rotate(self._descriptor)
        # Looking at the file's name for every line would cost more than the line.
        self._until_check = min(64 * 1024, self._rotate_at_bytes // 8)

    def _rotate(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    for number in range(self._kept_files - 1, 0, -1):
                        with suppress(FileNotFoundError):
                            os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
                    os.rename(self._path, f"{self._path}.1")
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        super().close()
