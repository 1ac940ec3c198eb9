"""Files: the queue in the shared directory, the watcher that wakes the worker for it, and the probe that proves it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from agent_bus.file_queue import FileQueue, QueueObserver
from agent_bus.files import remove_stale
from agent_bus.intake import IntakeSettings
from agent_bus.layout import TASK_SUFFIX, TRIGGER_SUFFIX
from agent_bus.trigger_index import Source
from service_kit.findings import Finding
from service_kit.modes import Activation
from worker_service.bell import Bell
from worker_service.dispatcher import Dispatcher
from worker_service.metrics import Metrics
from worker_service.probe import Prober
from worker_service.settings import WorkerSettings
from worker_service.wakeups.watcher import Watcher

_PRUNE_S: Final = 3600.0


class FileTransport:
    """Tasks that come as files."""

    def __init__(self, settings: WorkerSettings, *, bell: Bell, metrics: Metrics, observer: QueueObserver) -> None:
        """Make the directories and take ownership of this instance's own.

        Raises:
            agent_bus.errors.QueueUnavailable: a directory cannot be used.
        """
        self._settings = settings
        self._bell = bell
        self.queue = FileQueue(
            settings.layout,
            worker=settings.worker,
            instance=settings.instance,
            intake=IntakeSettings(
                max_bytes=settings.max_trigger_bytes, settle_s=settings.settle_s, owners=settings.trigger_owners
            ),
            sync_results=settings.sync_results,
            observer=observer,
        )
        self.watcher = Watcher(
            self.queue,
            bell,
            metrics,
            worker=settings.worker,
            activation=settings.wake_ups.activation,
            poll_interval_s=settings.poll_interval_s,
            rescan_interval_s=settings.rescan_interval_s,
        )
        self.prober: Prober | None = None

    def prove(self, dispatcher: Dispatcher, announce: Callable[[Path], None] | None) -> None:
        """Send probes round to the dispatcher; see `Prober` for `announce`."""
        self.prober = Prober(
            self._settings.layout.probe(self._settings.instance),
            queue=self.queue,
            bell=self._bell,
            dispatcher=dispatcher,
            watcher=self.watcher,
            interval_s=self._settings.probe_interval_s,
            announce=announce,
        )

    @property
    def bells(self) -> list[str]:
        """The wake-up sources in force."""
        return self.watcher.bells

    @property
    def probe_age_s(self) -> float | None:
        """Seconds since a probe last came back."""
        return None if self.prober is None else self.prober.age_s

    def liveness(self) -> list[Finding]:
        """Judge the watcher and its probe."""
        overdue = 0.0 if self.prober is None else self.prober.overdue_s
        age = self.probe_age_s
        return [
            Finding(
                "watcher",
                self.watcher.is_alive,
                f"bells: {', '.join(self.bells)}" if self.watcher.is_alive else "has ended",
            ),
            Finding(
                "probe",
                overdue == 0.0,
                f"overdue by {overdue:.0f} s" if overdue else "none yet" if age is None else f"{age:.0f} s ago",
            ),
        ]

    def readiness(self) -> list[Finding]:
        """Tell of a fall-back: it is slower, but it works."""
        reason = self.watcher.fallback_reason
        return [] if reason is None else [Finding("wake-ups", True, f"polling, since {reason}")]

    def start(self) -> int:
        """Clear away what dead writers left half done, and take over their claims."""
        layout = self._settings.layout
        for directory in (layout.heartbeats, layout.dead_letters, layout.gates, layout.sessions, layout.released):
            remove_stale(directory)
        remove_stale(layout.results, suffixes=(".tmp", ".result"))
        return self.queue.reclaim()

    def wake(self) -> None:
        """Look at all directories now."""
        self.queue.intake.request_scan()

    def bell_rang(self) -> None:
        """Look at all directories, where messages and not the kernel tell of new files."""
        if self._settings.wake_ups.activation is Activation.REDIS:
            self.queue.intake.request_scan()

    def look_for(self, task_id: str) -> None:
        """Look at the files in which a task of this id would be."""
        self.queue.intake.notice(Source.TASKS, f"{task_id}{TASK_SUFFIX}")
        self.queue.intake.notice(Source.TRIGGERS, f"task-{task_id}{TRIGGER_SUFFIX}")

    def look_at(self, path: str) -> bool:
        """Look at one file; False when it lies in none of this worker's directories."""
        directory, name = os.path.split(path)
        for source in (Source.TRIGGERS, Source.TASKS):
            if name and os.path.normpath(directory) == str(self.queue.intake.directories[source]):
                self.queue.intake.notice(source, name)
                return True
        return False

    async def run_forever(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.queue.run_forever, name="file queue")
            tasks.start_soon(self.watcher.run_forever, name="watcher")
            tasks.start_soon(self._prune_forever, name="prune")
            if self.prober is not None:
                tasks.start_soon(self.prober.run_forever, name="probe")

    async def _prune_forever(self) -> None:
        while True:
            # A directory of many notices takes its time to list, which the loop has not.
            await anyio.to_thread.run_sync(self.queue.notices.prune)
            await anyio.sleep(_PRUNE_S)

    async def aclose(self) -> None:
        """Give back what is still held, and the ownership itself."""
        self.queue.close()
