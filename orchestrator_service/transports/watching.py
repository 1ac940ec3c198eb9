"""inotify for the orchestrator: one instance, many directories and files, each with whom to tell of what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncinotify import Event, Inotify, Mask, Watch

_EVENTS_A_TURN: Final = 256
_READ_AT_ONCE: Final = 64
_LOSSES: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT

Told = Callable[[str], None]
"""Given the name in a watched directory, or an empty text for a watched file."""


@dataclass(slots=True)
class _Armed:
    watch: Watch
    path: Path
    told: Told
    identity: tuple[int, int]


class Watching:
    """What is watched, from `start` to `close`. Where there is no inotify, nothing is told and `blind` says why."""

    def __init__(self, on_gap: Callable[[str], None]) -> None:
        """Call `on_gap` with the reason when something may have been missed: everything must be looked at."""
        self._on_gap = on_gap
        self._inotify: Inotify | None = None
        self._armed: dict[int, _Armed] = {}
        self._descriptors: dict[Path, int] = {}
        self._rest: asyncio.Handle | None = None
        self._listens = False
        self.blind: str | None = "it is not started"
        """Why nothing is heard from the kernel, in one sentence's part; None while it is heard."""

    def start(self) -> None:
        """Open the instance, unless that is done; what comes before `listen` is kept by the kernel."""
        if self._inotify is None:
            try:
                self._inotify = Inotify(cache_size=_READ_AT_ONCE)
            except OSError as error:
                self.blind = f"inotify cannot be had ({error.strerror or error})"
                return
            if self._listens:
                self.listen()
        # What could not be watched is to be tried again.
        self.blind = None

    def watch(self, path: Path, events: Mask, told: Told) -> bool:
        """Watch a directory or file, from now on; what is watched already stays so. False where that cannot be.

        A directory must be there. Where only a limit stands in the way, `blind` says so.
        """
        if self._inotify is None:
            return False
        if (known := self._armed.get(self._descriptors.get(path, -1))) is not None:
            if _identity_or_none(path) == known.identity:
                return True
            self.unwatch(path)
        if not events & Mask.ONLYDIR:
            # Where a directory really is, is its owner's choice; what lies in it is anybody's.
            events |= Mask.DONT_FOLLOW
        try:
            watch = self._inotify.add_watch(path, events | Mask.DELETE_SELF | Mask.MOVE_SELF)
            identity = _identity(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self.blind = f"{path} cannot be watched ({error.strerror or error})"
            return False
        self._armed[watch.wd] = _Armed(watch, path, told, identity)
        self._descriptors[path] = watch.wd
        return True

    def unwatch(self, path: Path) -> None:
        """Watch it no more; it may be watched or not."""
        descriptor = self._descriptors.pop(path, None)
        if descriptor is not None and self._inotify is not None:
            armed = self._armed.pop(descriptor)
            with suppress(OSError):
                self._inotify.rm_watch(armed.watch)

    def forget_replaced(self) -> None:
        """Unwatch what does not have its name any more: that a parent was moved away no event tells."""
        for armed in list(self._armed.values()):
            if _identity_or_none(armed.path) != armed.identity:
                self.unwatch(armed.path)

    def listen(self) -> None:
        """Tell what comes, in the running loop."""
        self._listens = True
        if self._inotify is not None:
            # The library opens it so that a read without events would block.
            os.set_blocking(self._inotify.fd, False)
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._read)

    def close(self) -> None:
        """Hear nothing more."""
        self._listens = False
        if self._inotify is not None:
            with suppress(ValueError):
                asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
        if self._rest is not None:
            self._rest.cancel()
        self._armed.clear()
        self._descriptors.clear()
        self.blind = "it is closed"

    def _read(self) -> None:
        inotify = self._inotify
        if inotify is None:
            return
        if self._rest is not None:
            # New events woke it before the rest had its turn: they are read together.
            self._rest.cancel()
            self._rest = None
        try:
            for _ in range(_EVENTS_A_TURN):
                event = inotify.sync_get()
                if event is None or self._inotify is None:
                    return
                self.report(event)
        except BlockingIOError:
            return
        except OSError as error:
            self._on_gap(f"inotify fails ({error.strerror or error})")
            return
        # What is more lies in the library's buffer already: the descriptor would not tell of it.
        self._rest = asyncio.get_running_loop().call_soon(self._read)

    def report(self, event: Event) -> None:
        """Pass on one event of the kernel."""
        if event.mask & Mask.Q_OVERFLOW:
            self._on_gap("the kernel's event queue overflowed")
            return
        watch = event.watch
        armed = None if watch is None else self._armed.get(watch.wd)
        if armed is None or armed.watch is not watch:
            return
        if event.mask & (_LOSSES | Mask.IGNORED):
            self.unwatch(armed.path)
            self._on_gap(f"{armed.path} was removed or replaced")
            return
        armed.told("" if event.name is None else str(event.name))


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _identity_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path)
    except OSError:
        return None
