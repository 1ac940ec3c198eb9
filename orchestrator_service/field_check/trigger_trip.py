"""One trigger on its way: dropped into the directory, and the moment at which its worker takes it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from asyncinotify import Inotify, Mask

from agent_bus.files import write_new

_LOOK_EVERY_S: Final = 0.05
"""The net under the events."""
_BLIND_LOOK_EVERY_S: Final = 0.0005
"""Where there are no events to be had."""


class TriggerDoor:
    """The trigger directory of one worker, under watch; made by `open_door`.

    Watching is all that is done: whoever else hears of the files there hears of them as ever.
    """

    def __init__(self, directory: Path, inotify: Inotify | None) -> None:
        self._directory = directory
        self._inotify = inotify

    def send(
        self, name: str, body: bytes, *, within_s: float, ring: Callable[[Path], None] | None = None
    ) -> float | None:
        """Rename a file into place and return the seconds until it was taken; None, and the file is removed, if not.

        Args:
            name: What the file is called.
            body: What it holds.
            within_s: How long to wait.
            ring: Told of the file, where messages and not the kernel tell of new files.

        Raises:
            OSError: it cannot be written.
        """
        target = self._directory / name
        staged = self._directory / f".{name}.{os.getpid()}.tmp"
        try:
            write_new(str(staged), body)
            started = time.monotonic()
            staged.rename(target)
            if ring is not None:
                ring(target)
            return self._until_gone(target, started, within_s)
        finally:
            for path in (staged, target):
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _until_gone(self, target: Path, started: float, within_s: float) -> float | None:
        while True:
            if self._sees_it_go(target.name):
                return time.monotonic() - started
            if not os.path.lexists(target):
                return time.monotonic() - started
            if time.monotonic() - started >= within_s:
                return None

    def _sees_it_go(self, name: str) -> bool:
        if self._inotify is None:
            time.sleep(_BLIND_LOOK_EVERY_S)
            return False
        event = self._inotify.sync_get()
        return event is not None and str(event.name) == name


@contextmanager
def open_door(directory: Path) -> Iterator[TriggerDoor]:
    """Watch the directory for the length of the block, by events where they can be had."""
    with ExitStack() as stack:
        inotify: Inotify | None = None
        with suppress(OSError):
            inotify = stack.enter_context(Inotify(sync_timeout=_LOOK_EVERY_S))
            inotify.add_watch(directory, Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR)
        yield TriggerDoor(directory, inotify)
