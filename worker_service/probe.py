"""The round-trip probe: a hidden file goes through the real watcher and bell to the real dispatcher.

It proves what a heartbeat cannot: that a file which comes now would be taken up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio

from agent_bus.file_queue import FileQueue
from worker_service.bell import Bell
from worker_service.dispatcher import Dispatcher
from worker_service.wakeups.watcher import Watcher

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 2.0
"""How long a probe may take beside the poll interval; in practice it takes less than a millisecond."""

_UNSEEN_TO_TELL: Final = 2
"""One unseen probe may be the fault of a process that was held up; a second one at once after it is not."""


class Prober:
    """Sends probes round and knows how long ago the last one came back."""

    def __init__(
        self,
        path: Path,
        *,
        queue: FileQueue,
        bell: Bell,
        dispatcher: Dispatcher,
        watcher: Watcher,
        interval_s: float,
        announce: Callable[[Path], None] | None = None,
    ) -> None:
        """Use the hidden file `path` in the trigger directory, every `interval_s` seconds.

        `announce` is told of each probe, where messages and not the kernel tell of new files.
        """
        self._announce = announce
        self._path = path
        self._bell = bell
        self._watcher = watcher
        self._interval_s = interval_s
        self._started = time.monotonic()
        self._last_return: float | None = None
        self._seen = False
        self._done = anyio.Event()
        self._unwritable = False
        self._unseen = 0
        queue.intake.probe = (path.name, self._on_seen)
        dispatcher.on_heard.append(self._on_heard)

    @property
    def age_s(self) -> float | None:
        """Seconds since a probe last came back; None before the first one."""
        return None if self._last_return is None else time.monotonic() - self._last_return

    @property
    def overdue_s(self) -> float:
        """Seconds by which the next return is late; 0.0 while all is well or no probe can be written."""
        if self._unwritable:
            return 0.0
        since = self._last_return if self._last_return is not None else self._started
        allowed = 2 * self._interval_s + self._patience_s
        return max(0.0, time.monotonic() - since - allowed)

    @property
    def _patience_s(self) -> float:
        return _PATIENCE_S + (2 * self._watcher.pace_s if self._watcher.polls else 0.0)

    async def run_forever(self) -> None:
        """Probe until cancelled; the file is removed in the end."""
        try:
            while True:
                await self._probe_once()
                if 0 < self._unseen < _UNSEEN_TO_TELL:
                    continue
                await anyio.sleep(self._interval_s)
        finally:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    async def _probe_once(self) -> None:
        self._seen = False
        self._done = anyio.Event()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(b"")
            if self._announce is not None:
                self._announce(self._path)
        except OSError as error:
            # A full disk is told by /readyz; it must not make the worker be restarted.
            if not self._unwritable:
                log.warning("no probe can be written: %s", error, extra={"action": "probe_unwritable"})
            self._unwritable = True
            return
        self._unwritable = False
        with anyio.move_on_after(self._patience_s):
            await self._done.wait()
            self._last_return = time.monotonic()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._unseen = 0 if self._seen else self._unseen + 1
        if self._unseen >= _UNSEEN_TO_TELL:
            self._watcher.probe_unseen()

    def _on_seen(self) -> None:
        self._seen = True
        self._bell.ring("probe")

    def _on_heard(self) -> None:
        if self._seen:
            self._done.set()
