"""Named pipes: made, opened and written to without ever waiting for the other end."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent_bus.errors import BusError

if TYPE_CHECKING:
    from agent_bus.messages import Event

PIPE_MODE: Final = 0o660
LONGEST_STATUS_LINE: Final = select.PIPE_BUF
"""In bytes, with the line end. Up to this the kernel takes a line whole or not at all, whoever else writes."""

DROP_REASONS: Final = ("no_reader", "slow_reader")
"""Why a line of a status pipe is lost; the label of `codehornets_pipe_drops_total`."""

_TEXT_LENGTHS: Final = (1000, 200, 40)
_MOST_ITEMS: Final = 20


class PipeUnavailable(BusError):
    """The pipe cannot be made or used; the text names it and the mend."""


def make_pipe(path: Path) -> None:
    """Make sure that there is a named pipe; one that was left over is used.

    Raises:
        PipeUnavailable: something else has its name, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.mkfifo(path, PIPE_MODE)
            # The umask has no say in who may use a pipe that is there for others.
            path.chmod(PIPE_MODE)
        mode = path.lstat().st_mode
    except OSError as error:
        raise PipeUnavailable(
            f"the pipe {path} cannot be made: {error.strerror or error}; mend the directory or set PIPE_DIR"
        ) from error
    if not stat.S_ISFIFO(mode):
        raise PipeUnavailable(f"{path} is {_kind(mode)}, not a named pipe; remove it or set PIPE_DIR")


def open_for_reading(path: Path) -> int:
    """Open a pipe without waiting for a writer.

    Raises:
        PipeUnavailable: it cannot be opened, or is no pipe.
    """
    return _open(path, os.O_RDONLY)


def open_for_writing(path: Path) -> int:
    """Open a pipe that somebody reads.

    Raises:
        OSError: nobody reads it (ENXIO).
        PipeUnavailable: it cannot be opened, or is no pipe.
    """
    return _open(path, os.O_WRONLY)


def is_same_pipe(descriptor: int, path: Path) -> bool:
    """Tell whether the path still leads to the pipe that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


class StatusPipe:
    """The writing end: one event a line, dropped and counted where nobody reads or a reader is slow."""

    def __init__(self, path: Path) -> None:
        """Write to the pipe at `path`, which `make_pipe` has made."""
        self._path = path
        self._descriptor: int | None = None
        self.drops: Counter[str] = Counter()
        """How many lines were lost, by `DROP_REASONS`."""

    def tell(self, event: Event, line: bytes) -> None:
        """Write the event, or drop it."""
        if len(line) >= LONGEST_STATUS_LINE:
            line = shortened(event, LONGEST_STATUS_LINE - 1)
        # A reader that has gone may have been followed by another.
        for _ in range(2):
            if self._descriptor is None and not self._open():
                break
            assert self._descriptor is not None
            try:
                os.write(self._descriptor, line + b"\n")
                return
            except BlockingIOError:
                self.drops["slow_reader"] += 1
                return
            except OSError:
                self.close()
        self.drops["no_reader"] += 1

    def check(self) -> None:
        """Let go of a pipe that somebody has removed or replaced, and make it again where it is missing.

        Raises:
            PipeUnavailable: it cannot be made.
        """
        make_pipe(self._path)
        if self._descriptor is not None and not is_same_pipe(self._descriptor, self._path):
            self.close()

    def close(self) -> None:
        """Close it; a later `tell` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> bool:
        try:
            self._descriptor = open_for_writing(self._path)
        except (OSError, PipeUnavailable):
            return False
        return True


def shortened(event: Event, longest: int) -> bytes:
    """Return the event as JSON of at most `longest` bytes; what was cut is marked by `shortened` in its data."""
    # Who only makes a pipe need not wait until the messages are loaded, which takes longer than all the rest.
    from agent_bus.messages import encode_event

    for length in _TEXT_LENGTHS:
        data = {key: _cut(value, length) for key, value in list(event.data.items())[:_MOST_ITEMS]}
        line = encode_event(event.model_copy(update={"data": {**data, "shortened": True}}))
        if len(line) <= longest:
            return line
    return encode_event(event.model_copy(update={"data": {"shortened": True}}))


def _cut(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= length else f"{value[:length]}…"
    if isinstance(value, dict):
        return {str(key)[:length]: _cut(item, length) for key, item in list(value.items())[:_MOST_ITEMS]}
    if isinstance(value, list | tuple):
        return [_cut(item, length) for item in value[:_MOST_ITEMS]]
    return value


def _open(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise
        raise PipeUnavailable(f"the pipe {path} cannot be opened: {error.strerror or error}") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode):
        return descriptor
    os.close(descriptor)
    raise PipeUnavailable(f"{path} is {_kind(mode)}, not a named pipe; remove it or set PIPE_DIR")


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "an ordinary file" if stat.S_ISREG(mode) else "a socket or device"
