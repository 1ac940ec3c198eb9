"""The watcher: which wake-up source is in force, when it falls back to the timer, and when it returns.

inotify can fail in three ways, and each is found out, never guessed: no instance or watch can be had (an error says
so); no event arrives at all (the probe file comes back unseen); or events of other hosts do not arrive, as on NFS or
a desktop's bind mount (a scan finds triggers that no event had named). In each case the timer takes over at
`POLL_INTERVAL`, and inotify is tried again until it proves itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Final

import anyio

from agent_bus.file_queue import FileQueue
from agent_bus.trigger_index import Source
from service_kit.modes import Activation
from worker_service.bell import Bell
from worker_service.metrics import Metrics
from worker_service.wakeups.inotify import DirectoryWatch, open_watch
from worker_service.wakeups.interval import Interval

log = logging.getLogger(__name__)

_RETRY_S: Final = 30.0
_UNNAMED_AGE_S: Final = 1.0
"""A file that no event has named for this long will not be named any more."""
_EVENTS_MAY_LAG_S: Final = 0.5
"""A scan that found an unnamed file waits this long for late events before it blames the file system."""
_PROOFS_TO_RETURN: Final = 3
"""So many triggers in a row must have been named by events before the timer is trusted to rest again."""


class Watcher:
    """Rings the bell when a file comes, by whatever source works."""

    def __init__(
        self,
        queue: FileQueue,
        bell: Bell,
        metrics: Metrics,
        *,
        worker: str,
        activation: Activation,
        poll_interval_s: float,
        rescan_interval_s: float,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._queue = queue
        self._bell = bell
        self._metrics = metrics
        self._worker = worker
        self._activation = activation
        self._use_inotify = activation is Activation.INOTIFY
        self._poll_interval_s = poll_interval_s
        self._rescan_interval_s = rescan_interval_s
        self._retry_s = retry_s
        self._interval = Interval(pace_s=self._pace_s, cost_s=lambda: queue.intake.last_scan_s, tick=self._tick)
        self._armed = False
        self._blind_until = 0.0
        self._proofs = 0
        self._named = 0
        self._probe_was_lost = False
        self._watch: DirectoryWatch | None = None
        self._last_reclaim = time.monotonic()
        self._alive = False
        self.fallback_reason: str | None = None
        """Why the timer stands in for what should find new files, or None."""
        self.on_tick: list[Callable[[], None]] = []
        """Called at each tick, for whoever else is to look from time to time."""
        queue.intake.found_by_scan = self._judge_by_scan

    @property
    def bells(self) -> list[str]:
        """The sources in force."""
        if self._use_inotify and self.fallback_reason is None:
            return ["inotify", "interval"]
        return ["interval"]

    @property
    def is_alive(self) -> bool:
        """Whether the sources are being served."""
        return self._alive

    @property
    def polls(self) -> bool:
        """Whether the timer is what finds new files."""
        return self._activation is Activation.POLLING or self.fallback_reason is not None

    @property
    def pace_s(self) -> float:
        """Seconds between two looks at the directories, as things are."""
        return self._interval.spacing_s

    async def run_forever(self) -> None:
        """Serve the sources until cancelled."""
        self._alive = True
        try:
            async with anyio.create_task_group() as tasks:
                if self._use_inotify:
                    tasks.start_soon(self._watch_forever, name="inotify")
                else:
                    self._queue.intake.request_scan()
                await self._interval.run_forever()
        finally:
            self._alive = False

    def probe_unseen(self) -> None:
        """Take note that no event named the probe file."""
        if self._armed and self.fallback_reason is None:
            self._fall_back("inotify events do not arrive on this file system")
            self._probe_was_lost = True

    def redis_lost(self, reason: str) -> None:
        """Poll, where messages on Redis should have told of new files."""
        if self._activation is Activation.REDIS:
            self._fall_back(reason)

    def redis_returned(self) -> None:
        """Rest again, where messages on Redis tell of new files."""
        if self._activation is Activation.REDIS and self.fallback_reason is not None:
            self._return("Redis is back")
            self._queue.intake.request_scan()

    def _pace_s(self) -> float:
        return self._poll_interval_s if self.polls else self._rescan_interval_s

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_reclaim >= self._rescan_interval_s * 0.9:
            self._last_reclaim = now
            self._queue.reclaim()
        if self._watch is not None:
            try:
                self._watch.follow_names()
            except OSError as error:
                self._fall_back(f"inotify cannot be used: {_why(error)}")
        self._queue.intake.request_scan()
        for look in self.on_tick:
            look()
        self._bell.ring("interval")

    async def _watch_forever(self) -> None:
        while True:
            try:
                with open_watch(self._queue.intake.directories, on_file=self._on_file, on_gap=self._on_gap) as watch:
                    self._on_gap(None)
                    self._armed = True
                    self._watch = watch
                    if self.fallback_reason is not None:
                        self._return("inotify can be used again")
                    await watch.run_forever()
            except OSError as error:
                self._fall_back(f"inotify cannot be used: {_why(error)}")
            finally:
                self._armed = False
                self._watch = None
            # Files may come between the end of the watch and the timer's first tick.
            self._queue.intake.request_scan()
            await anyio.sleep(self._retry_s)

    def _on_file(self, source: Source, name: str) -> None:
        self._queue.intake.notice(source, name)
        self._bell.ring("inotify")
        if source is not Source.TRIGGERS:
            return
        is_probe = name[:1] == "."
        if not is_probe:
            self._named += 1
        # Only where the probe itself had gone unseen does its return prove anything: on a network file system
        # the events of this machine's own files arrive all the time.
        if self.fallback_reason is not None and (not is_probe or self._probe_was_lost):
            self._proofs += 1
            if self._proofs >= _PROOFS_TO_RETURN:
                self._return("events arrive again")

    def _on_gap(self, reason: str | None) -> None:
        if reason is not None:
            log.warning("%s; all directories are looked at", reason, extra={"action": "watch_gap"})
        # What came before this moment may well have gone unnamed: that is no fault of the file system.
        self._blind_until = time.time()
        self._queue.intake.request_scan()

    def _judge_by_scan(self, status: os.stat_result) -> None:
        if not self._armed:
            return
        self._proofs = 0
        arrived = status.st_ctime
        if self.fallback_reason is None and arrived > self._blind_until and time.time() - arrived > _UNNAMED_AGE_S:
            # After a pause of the whole process a scan may run before the events that wait in the kernel.
            asyncio.get_running_loop().call_later(_EVENTS_MAY_LAG_S, self._confirm_unnamed, self._named)

    def _confirm_unnamed(self, named_before: int) -> None:
        if self._armed and self._named == named_before:
            self._fall_back("triggers come without inotify events, as on network file systems")

    def _fall_back(self, reason: str) -> None:
        self._proofs = 0
        if self.fallback_reason is not None:
            return
        self.fallback_reason = reason
        log.warning(
            "%s; polling every %g s instead",
            reason,
            self._poll_interval_s,
            extra={"action": "fallback", "to": "polling"},
        )
        self._metrics.fallbacks.labels(self._worker, self._activation.value, "polling").inc()
        self._interval.pace_changed()

    def _return(self, reason: str) -> None:
        self.fallback_reason = None
        self._probe_was_lost = False
        source = self._activation.value
        log.info("%s; polling ends", reason, extra={"action": "fallback", "to": source})
        self._metrics.fallbacks.labels(self._worker, "polling", source).inc()
        self._interval.pace_changed()


def _why(error: OSError) -> str:
    limits = {
        24: "all inotify instances are in use (raise fs.inotify.max_user_instances)",
        28: "all inotify watches are in use (raise fs.inotify.max_user_watches)",
    }
    return limits.get(error.errno or 0, error.strerror or str(error))
