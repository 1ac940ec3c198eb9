"""inotify: the kernel tells which file came, within a fraction of a millisecond."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from asyncinotify import Event, Inotify, Mask, Watch

from agent_bus.trigger_index import Source

_ARRIVALS: Final = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.CREATE
"""Written in place, renamed into place; and links, FIFOs and directories, which only ever get created."""

_EVENTS_A_TURN: Final = 64

_LOSSES: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED | Mask.UNMOUNT


class DirectoryWatch:
    """Watches the queue's directories; reports file names, overflows, and directories that were replaced."""

    def __init__(
        self,
        inotify: Inotify,
        directories: Mapping[Source, Path],
        *,
        on_file: Callable[[Source, str], None],
        on_gap: Callable[[str], None],
    ) -> None:
        """Arm the watches.

        Args:
            inotify: An open instance.
            directories: What to watch.
            on_file: Called with each name that was created, written or renamed into place.
            on_gap: Called with the reason when names may have been missed; everything must be looked at.

        Raises:
            OSError: a watch cannot be had (a limit is reached, or a directory cannot be made).
        """
        self._inotify = inotify
        self._directories = directories
        self._on_file = on_file
        self._on_gap = on_gap
        self._failure: asyncio.Future[None] | None = None
        self._rest: asyncio.Handle | None = None
        self._sources: dict[int, Source] = {}
        self._watches: dict[Source, tuple[Watch, tuple[int, int]]] = {}
        for source in directories:
            self._arm(source)

    def _arm(self, source: Source) -> None:
        directory = self._directories[source]
        directory.mkdir(parents=True, exist_ok=True)
        watch: Watch = self._inotify.add_watch(directory, _ARRIVALS | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR)
        self._sources[watch.wd] = source
        self._watches[source] = (watch, _identity(directory))

    def follow_names(self) -> None:
        """Watch what has the directories' names now; that a parent was moved away no event tells.

        Raises:
            OSError: a directory was replaced and cannot be watched again.
        """
        for source, (watch, identity) in list(self._watches.items()):
            if self._sources.get(watch.wd) is not source or _identity(self._directories[source]) == identity:
                continue
            del self._sources[watch.wd]
            with suppress(OSError):
                self._inotify.rm_watch(watch)
            self._arm(source)
            self._on_gap(f"{self._directories[source]} was replaced")

    async def run_forever(self) -> None:
        """Report until cancelled.

        Raises:
            OSError: a directory was replaced and cannot be watched again.
        """
        loop = asyncio.get_running_loop()
        # The library opens it so that a read without events would block.
        os.set_blocking(self._inotify.fd, False)
        self._failure = loop.create_future()
        # Straight from the reader's callback: a coroutine of its own would cost a turn of the loop for each wake-up.
        loop.add_reader(self._inotify.fd, self._read)
        try:
            await self._failure
        finally:
            loop.remove_reader(self._inotify.fd)
            if self._rest is not None:
                self._rest.cancel()

    def _read(self) -> None:
        try:
            for _ in range(_EVENTS_A_TURN):
                event = self._inotify.sync_get()
                if event is None:
                    return
                self._report(event)
            # What is more is reported in the loop's next turn, so that a burst starves nobody. It lies in the library's
            # buffer already: the descriptor would not tell of it.
            self._rest = asyncio.get_running_loop().call_soon(self._read)
        except BlockingIOError:
            return
        except OSError as error:
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)
        except ValueError:
            # Closed between two turns.
            return

    def _report(self, event: Event) -> None:
        if event.mask & Mask.Q_OVERFLOW:
            self._on_gap("the kernel's event queue overflowed")
            return
        watch = event.watch
        if event.mask & _LOSSES:
            self._replace(event, watch)
            return
        if watch is not None and event.name is not None and (source := self._sources.get(watch.wd)) is not None:
            self._on_file(source, str(event.name))

    def _replace(self, event: Event, watch: Watch | None) -> None:
        if watch is None or (source := self._sources.pop(watch.wd, None)) is None:
            return
        if event.mask & Mask.MOVE_SELF:
            # The watch followed the old directory; what matters is whatever has the name now.
            with suppress(OSError):
                self._inotify.rm_watch(watch)
        self._arm(source)
        self._on_gap(f"{self._directories[source]} was removed or replaced")


def _identity(directory: Path) -> tuple[int, int]:
    try:
        status = os.stat(directory)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


@contextmanager
def open_watch(
    directories: Mapping[Source, Path], *, on_file: Callable[[Source, str], None], on_gap: Callable[[str], None]
) -> Iterator[DirectoryWatch]:
    """Open an inotify instance and arm the watches; see `DirectoryWatch`.

    Raises:
        OSError: no instance or watch can be had.
    """
    with Inotify() as inotify:
        yield DirectoryWatch(inotify, directories, on_file=on_file, on_gap=on_gap)
