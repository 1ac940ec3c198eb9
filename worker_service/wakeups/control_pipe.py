"""The control pipe: lines from whoever writes, read on the event loop.

Writers come and go. While the last of them is gone the pipe is opened anew, since a pipe whose writers have all left
reports its end for ever; the new descriptor is there before the old one goes, so no writer ever meets a pipe without
a reader. A flood is worked off a slice at a time, and what is not read yet waits in the kernel and slows its writer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent_bus.commands import LONGEST_COMMAND_BYTES, shown
from agent_bus.pipes import PipeUnavailable, is_same_pipe, make_pipe, open_for_reading
from worker_service.wakeups.pacing import Paced

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 65_536
_UNENDED_S: Final = 5.0
"""The rest of a line may come this much later; after that whoever began it has gone."""


class ControlPipe:
    """The reading end. Made by a worker at its start; `open` begins, `close` ends."""

    def __init__(self, path: Path, *, on_line: Callable[[bytes], None], on_bad: Callable[[str], None]) -> None:
        """Read the pipe at `path`.

        Args:
            path: The pipe; made where it is missing.
            on_line: Given each line, without its line end.
            on_bad: Given a sentence for each line that is too long or never ended.
        """
        self._path = path
        self._on_bad = on_bad
        self._descriptor: int | None = None
        self._lines = Paced(on_line, on_empty=self._go_on)
        self._partial = bytearray()
        self._skipping = False
        self._stale: asyncio.TimerHandle | None = None
        self._held_back = False
        """Whether lines wait here, so that none is read."""
        self.trouble: str | None = None
        """Why nothing can be read, or None."""

    def open(self) -> None:
        """Make the pipe and read from now on.

        Raises:
            agent_bus.pipes.PipeUnavailable: something else has its name, or it cannot be made.
        """
        make_pipe(self._path)
        self._descriptor = open_for_reading(self._path)
        self._listen()

    def check(self) -> None:
        """Follow the path where somebody has removed or replaced the pipe; call it from time to time."""
        try:
            make_pipe(self._path)
            if self._descriptor is None or not is_same_pipe(self._descriptor, self._path):
                log.warning("%s was replaced; it is opened anew", self._path, extra={"action": "pipe_replaced"})
                self._reopen()
        except PipeUnavailable as error:
            if self.trouble is None:
                log.error("%s", error, extra={"action": "pipe_lost"})
            self.trouble = str(error)
        else:
            self.trouble = None

    def close(self) -> None:
        """Stop reading; the pipe stays for the next worker of this name."""
        if self._stale is not None:
            self._stale.cancel()
        self._lines.close()
        self._close_descriptor()

    def _listen(self) -> None:
        assert self._descriptor is not None
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _reopen(self) -> None:
        fresh = open_for_reading(self._path)
        self._close_descriptor()
        self._descriptor = fresh
        if not self._held_back:
            self._listen()

    def _read(self) -> None:
        assert self._descriptor is not None
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._drop_partial("its writer left before the line's end")
            try:
                self._reopen()
            except PipeUnavailable as error:
                # The next check mends it; an open end that is never closed would keep the loop busy.
                self._close_descriptor()
                self.trouble = str(error)
            return
        self._split(chunk)
        self._lines.work()
        self._hold_back()

    def _split(self, chunk: bytes) -> None:
        *ended, rest = chunk.split(b"\n")
        if ended:
            first = bytes(self._partial) + ended[0]
            self._partial.clear()
            if self._skipping:
                self._skipping = False
            else:
                self._take(first)
            for line in ended[1:]:
                self._take(line)
        self._partial += rest if not self._skipping else b""
        if len(self._partial) > LONGEST_COMMAND_BYTES:
            self._refuse_long(bytes(self._partial))
            self._partial.clear()
            self._skipping = True
        self._watch_partial()

    def _take(self, line: bytes) -> None:
        if len(line) > LONGEST_COMMAND_BYTES:
            self._refuse_long(line)
        elif line.strip():
            self._lines.put(line)

    def _refuse_long(self, line: bytes) -> None:
        self._on_bad(f"a line of more than {LONGEST_COMMAND_BYTES} bytes is no command: {shown(line)}")

    def _watch_partial(self) -> None:
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None
        if self._partial or self._skipping:
            loop = asyncio.get_running_loop()
            reason = f"its end did not come within {_UNENDED_S:g} s"
            self._stale = loop.call_later(_UNENDED_S, self._drop_partial, reason)

    def _drop_partial(self, reason: str) -> None:
        partial = bytes(self._partial)
        self._partial.clear()
        self._skipping = False
        self._watch_partial()
        if partial.strip():
            self._on_bad(f"{shown(partial)} was dropped: {reason}")

    def _hold_back(self) -> None:
        if self._lines.is_behind and not self._held_back and self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._held_back = True

    def _go_on(self) -> None:
        if self._held_back:
            self._held_back = False
            if self._descriptor is not None:
                self._listen()
