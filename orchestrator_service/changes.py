"""Waiting for something to change in some directories: by inotify, with a slow look as the net under it.

A change is a hint only: whoever waits looks at the files anew, and so a lost or doubled hint does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
from asyncinotify import Inotify, Mask

_CHANGES: Final = Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CLOSE_WRITE | Mask.MODIFY | Mask.DELETE
_BLIND_RECHECK_S: Final = 0.5
"""How often to look where inotify cannot be had."""
_MOST_AT_ONCE: Final = 1000


class Changes:
    """Directories under watch; made by `open_changes`."""

    def __init__(self, inotify: Inotify | None, directories: Iterable[Path], recheck_s: float) -> None:
        self._inotify = inotify
        self._unwatched = list(dict.fromkeys(directories))
        self._recheck_s = recheck_s if inotify is not None else min(recheck_s, _BLIND_RECHECK_S)
        self._arm()

    def _arm(self) -> bool:
        """Watch what can be watched by now; True when there was something new to watch."""
        if self._inotify is None:
            return False
        missing: list[Path] = []
        for directory in self._unwatched:
            try:
                self._inotify.add_watch(directory, _CHANGES | Mask.ONLYDIR)
            except OSError:
                missing.append(directory)
        armed = len(missing) < len(self._unwatched)
        self._unwatched = missing
        return armed

    async def wait(self) -> None:
        """Return when something changed, or after the recheck interval; a directory that came up is watched at once."""
        if self._arm():
            # What was put there before it was watched gave no hint.
            return
        with anyio.move_on_after(self._recheck_s if not self._unwatched else min(self._recheck_s, 1.0)):
            if self._inotify is None:
                await anyio.sleep_forever()
            else:
                await self._inotify.get()
                await self._drop_pending()

    async def _drop_pending(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            with anyio.move_on_after(0) as scope:
                if self._inotify is not None:
                    await self._inotify.get()
            if scope.cancelled_caught:
                return


@contextmanager
def open_changes(directories: Iterable[Path], *, recheck_s: float = 5.0) -> Iterator[Changes]:
    """Watch the directories for the length of the block, by looking now and then where inotify cannot be had.

    Args:
        directories: Those that are not there yet are watched from when they are.
        recheck_s: Seconds after which to look even if no change was told.
    """
    inotify: Inotify | None = None
    with suppress(OSError):
        inotify = Inotify()
    try:
        yield Changes(inotify, directories, recheck_s)
    finally:
        if inotify is not None:
            inotify.close()
