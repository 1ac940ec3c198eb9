"""The worker's sign of life: what it says of itself, and the heartbeat that carries it out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from agent_bus import VERSION
from agent_bus.heartbeats import is_alive, read_heartbeat, write_heartbeat
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now
from agent_bus.queue import Queue
from worker_service.agents.base import Agent
from worker_service.dispatcher import Dispatcher
from worker_service.metrics import Metrics
from worker_service.settings import WorkerSettings

log = logging.getLogger(__name__)


class Pulse:
    """Knows the worker's status and writes it down from time to time."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        http_port: int,
        queue: Queue,
        dispatcher: Dispatcher,
        agent: Agent,
        metrics: Metrics,
        bells: Callable[[], list[str]],
        probe_age_s: Callable[[], float | None],
        stuck_tasks: Callable[[], list[str]] = list,
        cost_is_notional: bool | None = None,
        open_questions: Callable[[], int] = lambda: 0,
    ) -> None:
        """Speak for these parts; `bells` names the sources in force, `stuck_tasks` what does not get on."""
        self._settings = settings
        self._http_port = http_port
        self._queue = queue
        self._dispatcher = dispatcher
        self._agent = agent
        self._metrics = metrics
        self._bells = bells
        self._probe_age_s = probe_age_s
        self._stuck_tasks = stuck_tasks
        self._cost_is_notional = cost_is_notional
        self._open_questions = open_questions
        self._failed = False
        self.phase = WorkerStatus.STARTING
        """Where the worker is in its life; while it is `idle` the dispatcher knows more."""
        self.on_beat: list[Callable[[Heartbeat], None]] = []
        """Given each heartbeat; for those who carry it elsewhere."""

    @property
    def status(self) -> WorkerStatus:
        """What the worker is doing."""
        if self.phase is not WorkerStatus.IDLE:
            return self.phase
        if self._dispatcher.paused or (self._dispatcher.parked() is not None and not self._dispatcher.current_tasks):
            return WorkerStatus.PAUSED
        return WorkerStatus.BUSY if self._dispatcher.current_tasks else WorkerStatus.IDLE

    def heartbeat(self) -> Heartbeat:
        """Return the present state."""
        settings = self._settings
        parked = self._dispatcher.parked()
        return Heartbeat(
            worker=settings.worker,
            instance=settings.instance,
            timestamp=utc_now(),
            status=self.status,
            current_tasks=self._dispatcher.current_tasks,
            queue_size=self._queue.depth(),
            mode=settings.mode.value,
            pid=os.getpid(),
            http_port=self._http_port,
            version=VERSION,
            interval_seconds=settings.heartbeat_interval_s,
            slots=settings.slots,
            agent=self._agent.name,
            probe_age_seconds=self._probe_age_s(),
            bells=self._bells(),
            open_questions=self._open_questions(),
            parked_until=None if parked is None else parked.until,
            stuck_tasks=self._stuck_tasks(),
            gate_id=self._dispatcher.gate_id,
            cost_is_notional=self._cost_is_notional,
        )

    def beat(self) -> None:
        """Write a heartbeat; a disk that is full costs heartbeats, never the worker."""
        heartbeat = self.heartbeat()
        for carry in self.on_beat:
            carry(heartbeat)
        try:
            path = self._settings.layout.heartbeat(self._settings.worker)
            if self._leaves_the_file_to_another(path):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_heartbeat(path, heartbeat)
            self._metrics.heartbeat.set(time.time())
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("no heartbeat can be written: %s", error, extra={"action": "heartbeat_failed"})
            self._failed = True

    def _leaves_the_file_to_another(self, path: Path) -> bool:
        # Replicas share the file: one that leaves must not tell of its end over the fresh heartbeat of another one,
        # or a worker that lives would look stopped.
        if self.phase not in (WorkerStatus.DRAINING, WorkerStatus.STOPPED):
            return False
        standing = read_heartbeat(path)
        return standing is not None and standing.instance != self._settings.instance and is_alive(standing)

    async def run_forever(self) -> None:
        """Beat until cancelled."""
        while True:
            await anyio.sleep(self._settings.heartbeat_interval_s)
            self.beat()
