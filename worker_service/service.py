"""Wires the parts of a worker and owns their lifetime: starting → ready → draining → stopped."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio

from agent_bus import VERSION
from agent_bus.claude_credentials import find_credential
from agent_bus.dead_letters import DeadLetter
from agent_bus.file_queue import FileQueue
from agent_bus.files import remove_stale
from agent_bus.gates import Gate
from agent_bus.heartbeats import is_alive, read_heartbeat, write_heartbeat
from agent_bus.intake import IntakeSettings
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now
from agent_bus.queue import TriggerEvent
from worker_service.agents.base import Agent
from worker_service.agents.choice import make_agent
from worker_service.agents.claude import ClaudeAgent
from worker_service.bell import Bell
from worker_service.dispatcher import Dispatcher
from worker_service.health import Health
from worker_service.hooks.bridge import HookBridge, HookSettings
from worker_service.metrics import Metrics
from worker_service.modes import Activation
from worker_service.probe import Prober
from worker_service.settings import AgentKind, WorkerSettings
from worker_service.sidecar import Sidecar, listen, make_app, serve
from worker_service.task_runner import DispatchSettings, TaskRunner
from worker_service.wakeups.watcher import Watcher

log = logging.getLogger(__name__)

_LONGEST_LOGGED_BODY: Final = 2000


class Worker:
    """A running worker. Made by `open_worker`."""

    def __init__(self, settings: WorkerSettings, agent: Agent, listener: socket.socket) -> None:
        """Wire the parts; nothing runs yet.

        Raises:
            agent_bus.hook_actions.RuleError: the file of hook rules is wrong.
            agent_bus.errors.QueueUnavailable: a directory cannot be used.
        """
        self.settings = settings
        self.agent = agent
        self.http_port: int = listener.getsockname()[1]
        self.metrics = Metrics(settings.worker)
        self.hooks = self._bridge_hooks(agent)
        self.bell = Bell()
        self._status = WorkerStatus.STARTING
        self._beat_failed = False
        self._rings_told: Counter[str] = Counter()
        layout = settings.layout
        self.queue = FileQueue(
            layout,
            worker=settings.worker,
            instance=settings.instance,
            intake=IntakeSettings(
                max_bytes=settings.max_trigger_bytes, settle_s=settings.settle_s, owners=settings.trigger_owners
            ),
            sync_results=settings.sync_results,
            observer=self,
        )
        gate = None
        if settings.agent is AgentKind.CLAUDE and (credential := find_credential(settings.agent_environment)):
            gate = Gate(layout.gates, credential.fingerprint)
        dispatching = DispatchSettings(
            worker=settings.worker,
            instance=settings.instance,
            slots=settings.slots,
            task_timeout_s=settings.task_timeout_s,
            max_attempts=settings.max_attempts,
            park_on_limit=settings.claude.park_on_limit,
        )
        self.runner = TaskRunner(
            dispatching,
            queue=self.queue,
            agent=agent,
            metrics=self.metrics,
            layout=layout,
            gate=gate,
            bell=self.bell,
        )
        self.dispatcher = Dispatcher(dispatching, queue=self.queue, bell=self.bell, runner=self.runner)
        self.watcher = Watcher(
            self.queue,
            self.bell,
            self.metrics,
            worker=settings.worker,
            use_inotify=settings.wake_ups.activation is Activation.INOTIFY,
            poll_interval_s=settings.poll_interval_s,
            rescan_interval_s=settings.rescan_interval_s,
        )
        self.prober = Prober(
            layout.probe(settings.instance),
            queue=self.queue,
            bell=self.bell,
            dispatcher=self.dispatcher,
            watcher=self.watcher,
            interval_s=settings.probe_interval_s,
        )
        self.health = Health(dispatcher=self.dispatcher, watcher=self.watcher, prober=self.prober, agent=agent)

    def _bridge_hooks(self, agent: Agent) -> HookBridge | None:
        settings = self.settings
        if not settings.wake_ups.bridges_hooks:
            return None
        told = HookSettings(
            worker=settings.worker,
            layout=settings.layout,
            rules=settings.hooks_config,
            timeout_s=settings.hook_timeout_s,
        )
        bridge = HookBridge(told, self.metrics)
        bridge.reload()
        if isinstance(agent, ClaudeAgent):
            agent.bridge = bridge
        return bridge

    # -- what the queue tells (agent_bus.file_queue.QueueObserver)

    def ready(self) -> None:
        """Ring for something that can be claimed."""
        self.bell.ring("queue")

    def trigger_event(self, event: TriggerEvent) -> None:
        """Publish a trigger that is no task."""
        self.metrics.trigger_events.inc()
        log.info("event %s", event.name, extra={"action": "trigger_event", "body": event.body[:_LONGEST_LOGGED_BODY]})

    def buried(self, letter: DeadLetter) -> None:
        """Tell of a file that was set aside."""
        self.metrics.dead_letters.labels(self.settings.worker, letter.reason).inc()
        log.warning(
            "%s was set aside: %s",
            letter.original_name,
            letter.message,
            extra={"action": "buried", "reason": letter.reason, "task_id": letter.task_id},
        )

    def cancel_requested(self, task_id: str) -> None:
        """End the task."""
        self.dispatcher.cancel(task_id)

    # -- how it is

    @property
    def status(self) -> WorkerStatus:
        """What the worker is doing."""
        if self._status is not WorkerStatus.IDLE:
            return self._status
        if self.dispatcher.current_tasks:
            return WorkerStatus.BUSY
        return WorkerStatus.PAUSED if self.dispatcher.parked() is not None else WorkerStatus.IDLE

    def heartbeat(self) -> Heartbeat:
        """Return the present state as a heartbeat."""
        parked = self.dispatcher.parked()
        return Heartbeat(
            worker=self.settings.worker,
            instance=self.settings.instance,
            timestamp=utc_now(),
            status=self.status,
            current_tasks=self.dispatcher.current_tasks,
            queue_size=self.queue.depth(),
            mode=self.settings.mode.value,
            pid=os.getpid(),
            http_port=self.http_port,
            version=VERSION,
            interval_seconds=self.settings.heartbeat_interval_s,
            slots=self.settings.slots,
            agent=self.agent.name,
            probe_age_seconds=self.prober.age_s,
            bells=self.watcher.bells,
            parked_until=None if parked is None else parked.until,
        )

    def beat(self) -> None:
        """Write a heartbeat; a disk that is full costs heartbeats, never the worker."""
        self.runner.flush_log()
        try:
            path = self.settings.layout.heartbeat(self.settings.worker)
            if self._leaves_the_file_to_another(path):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_heartbeat(path, self.heartbeat())
            self.metrics.heartbeat.set(time.time())
            self._beat_failed = False
        except OSError as error:
            if not self._beat_failed:
                log.error("no heartbeat can be written: %s", error, extra={"action": "heartbeat_failed"})
            self._beat_failed = True

    def _leaves_the_file_to_another(self, path: Path) -> bool:
        # Replicas share the file: one that leaves must not tell of its end over the fresh heartbeat of another one,
        # or a worker that lives would look stopped.
        if self._status not in (WorkerStatus.DRAINING, WorkerStatus.STOPPED):
            return False
        standing = read_heartbeat(path)
        return standing is not None and standing.instance != self.settings.instance and is_alive(standing)

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date."""
        worker = self.settings.worker
        self.metrics.queue_depth.set(self.queue.depth())
        self.metrics.tasks_in_flight.set(len(self.dispatcher.current_tasks))
        age = self.prober.age_s
        self.metrics.probe_age.set(-1 if age is None else age)
        for state, number in self.agent.processes().items():
            self.metrics.agent_processes.labels(worker, state).set(number)
        for source, rings in self.bell.rings.items():
            self.metrics.wakeups.labels(worker, source).inc(rings - self._rings_told[source])
            self._rings_told[source] = rings

    # -- its life

    def start(self) -> None:
        """Take over what dead owners left, and begin to be visible."""
        layout = self.settings.layout
        for directory in (layout.heartbeats, layout.dead_letters, layout.gates, layout.sessions, layout.released):
            remove_stale(directory)
        remove_stale(layout.results, suffixes=(".tmp", ".result"))
        reclaimed = self.queue.reclaim()
        if reclaimed:
            log.info("%d interrupted task(s) taken over", reclaimed, extra={"action": "reclaimed", "count": reclaimed})
        self._status = WorkerStatus.IDLE
        self.beat()

    async def drain(self, grace_s: float) -> None:
        """Stop taking tasks and end the running ones."""
        self._status = WorkerStatus.DRAINING
        self.beat()
        await self.dispatcher.drain(grace_s)

    def stopped(self) -> None:
        """Leave a last heartbeat."""
        self._status = WorkerStatus.STOPPED
        self.beat()

    async def beat_forever(self) -> None:
        """Write heartbeats until cancelled."""
        while True:
            await anyio.sleep(self.settings.heartbeat_interval_s)
            self.beat()


@asynccontextmanager
async def open_worker(settings: WorkerSettings, agent: Agent | None = None) -> AsyncIterator[Worker]:
    """Run a worker for the length of the block; leaving it drains with the settings' grace period.

    Args:
        settings: What it goes by.
        agent: Who does the work; None makes the one that the settings name.

    Raises:
        agent_bus.errors.QueueUnavailable: a directory cannot be used.
        worker_service.sidecar.SidecarUnavailable: the HTTP address cannot be listened on.
        worker_service.agents.choice.AgentUnavailable: the agent cannot be used.
    """
    agent = agent if agent is not None else make_agent(settings)
    with listen(settings.http_host, settings.http_port) as listener:
        worker = Worker(settings, agent, listener)
        sidecar = Sidecar(
            make_app(
                worker.health,
                worker.metrics,
                worker.refresh_metrics,
                hooks=worker.hooks,
                hook_token=settings.hook_token,
            )
        )
        try:
            async with anyio.create_task_group() as parts, anyio.create_task_group() as workings:
                await parts.start(serve, sidecar, listener)
                workings.start_soon(worker.queue.run_forever, name="queue")
                workings.start_soon(worker.dispatcher.run_forever, name="dispatcher")
                workings.start_soon(worker.watcher.run_forever, name="watcher")
                workings.start_soon(worker.prober.run_forever, name="probe")
                workings.start_soon(worker.beat_forever, name="heartbeat")
                workings.start_soon(agent.serve_forever, name="agent")
                worker.start()
                try:
                    yield worker
                finally:
                    with anyio.CancelScope(shield=True):
                        await worker.drain(settings.shutdown_grace_s)
                    workings.cancel_scope.cancel()
                    sidecar.stop()
        finally:
            with anyio.CancelScope(shield=True):
                await agent.aclose()
            if worker.hooks is not None:
                worker.hooks.close()
            worker.queue.close()
            worker.stopped()


async def run_worker(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal ends the grace period at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_worker(settings) as worker:
            log.info(
                "ready: %s mode, bells %s, %s agent, %d slot(s), http://%s:%d",
                settings.mode.value,
                "+".join(worker.watcher.bells),
                worker.agent.name,
                settings.slots,
                settings.http_host,
                worker.http_port,
                extra={"action": "ready", "mode": settings.mode.value, "http_port": worker.http_port},
            )
            await anext(signals)
            log.info("draining for at most %g s", settings.shutdown_grace_s, extra={"action": "draining"})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_hurry_on_second_signal, signals, worker)
                await worker.drain(settings.shutdown_grace_s)
                tasks.cancel_scope.cancel()
    log.info("stopped", extra={"action": "stopped"})


async def _hurry_on_second_signal(signals: AsyncIterator[signal.Signals], worker: Worker) -> None:
    with suppress(StopAsyncIteration):
        await anext(signals)
        log.warning("a second signal: running tasks are interrupted now", extra={"action": "hurry"})
        await worker.drain(0.0)
