"""Redis: the queue for more than one host, the subscription that wakes the worker for it, and what goes out there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import anyio

from agent_bus.errors import QueueUnavailable
from agent_bus.messages import Event, Heartbeat
from agent_bus.redis.activation import BadMessage, Nothing, TaskName, TaskPath, TaskText, parse_activation
from agent_bus.redis.queue import RedisQueue, RedisQueueObserver
from agent_bus.redis.shared_gate import SharedGate
from agent_bus.redis.url import parse_redis_url
from service_kit.findings import Finding
from worker_service.bell import Bell
from worker_service.metrics import Metrics
from worker_service.settings import WorkerSettings
from worker_service.transports.files import FileTransport
from worker_service.wakeups.interval import Interval
from worker_service.wakeups.pacing import Paced
from worker_service.wakeups.pubsub import LinkListener, RedisLink

log = logging.getLogger(__name__)

_MOST_TASKS_WAITING: Final = 1000
"""Tasks that came as messages and are not in the stream yet."""
_MOST_COMMANDS_WAITING: Final = 10_000
"""Commands of a flood that are not carried out yet; what comes beyond is refused."""
_CLOSE_S: Final = 5.0


class RedisTransport:
    """Tasks that come by Redis."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        bell: Bell,
        metrics: Metrics,
        observer: RedisQueueObserver,
        files: FileTransport | None,
        on_control: Callable[[bytes], None],
        on_bad_message: Callable[[str], None],
        on_returned: Callable[[], None],
    ) -> None:
        """Connect once it runs.

        Args:
            settings: What the worker goes by; there is a `redis_url`.
            bell: Rung by messages, by the return of Redis, and by a timer.
            metrics: Told whether Redis is there.
            observer: Told what happens in the queue.
            files: The other transport, whose directories a message may name; None where there is none.
            on_control: Given each command.
            on_bad_message: Given a sentence for each message that means nothing.
            on_returned: Called when Redis is there, for the first time or again.
        """
        assert settings.redis_url is not None
        self._settings = settings
        self._bell = bell
        self._metrics = metrics
        self._files = files
        self._commands = Paced(on_control)
        self._on_bad_message = on_bad_message
        self._on_returned = on_returned
        address = parse_redis_url(settings.redis_url)
        self._shown = address.shown
        self.queue = RedisQueue(
            address,
            worker=settings.worker,
            instance=settings.instance,
            observer=observer,
            max_bytes=settings.max_trigger_bytes,
            lease_s=settings.redis_lease_s,
        )
        self.link: RedisLink | None = None
        if settings.wake_ups.redis:
            listener = LinkListener(
                on_activate=self._activated,
                on_control=self._commanded,
                on_gate=self._gate_changed,
                on_connected=self._returned,
                on_lost=self._lost,
            )
            self.link = RedisLink(address, worker=settings.worker, listener=listener)
        self.gate: SharedGate | None = None
        """The credential's gate, seen by other hosts too; None where there is no credential."""
        self._interval = Interval(pace_s=self._pace_s, cost_s=lambda: 0.0, tick=self._tick)
        self._to_enqueue: asyncio.Queue[TaskText] = asyncio.Queue(_MOST_TASKS_WAITING)
        self._heartbeat: Heartbeat | None = None
        self._beats = asyncio.Event()

    def share_gate(self, fingerprint: str) -> SharedGate:
        """Make the gate of a credential that workers of other hosts see, too."""
        directory = self._settings.layout.gates if self._files is not None else None
        self.gate = SharedGate(
            fingerprint, directory=directory, caller=self.queue.caller, on_change=lambda: self._bell.ring("gate")
        )
        return self.gate

    # -- how it is

    @property
    def connected(self) -> bool:
        """Whether Redis answers."""
        return self.queue.connected if self.link is None else self.link.connected

    @property
    def dropped(self) -> int:
        """How many messages to Redis were dropped."""
        return 0 if self.link is None else self.link.dropped

    @property
    def bells(self) -> list[str]:
        """The wake-up sources in force; beside files the timer is named there."""
        named = ["redis"] if self.link is not None and self.link.connected else []
        return named if self._files is not None else [*named, "interval"]

    @property
    def probe_age_s(self) -> float | None:
        """Seconds since Redis last answered on the subscription."""
        return None if self.link is None else self.link.age_s

    def liveness(self) -> list[Finding]:
        """Find nothing: no restart of this worker brings Redis back."""
        return []

    def readiness(self) -> list[Finding]:
        """Judge whether Redis is there; where files go on without it the worker is ready all the same."""
        trouble = None if self.connected else self._trouble() or f"{self._shown} is away"
        if trouble is None:
            return [Finding("redis", True, f"{self._shown} answers")]
        if self._files is not None:
            return [Finding("redis", True, f"away, files go on: {trouble}")]
        return [Finding("redis", False, trouble)]

    def _trouble(self) -> str | None:
        return (None if self.link is None else self.link.trouble) or self.queue.trouble

    # -- what it does

    def start(self) -> int:
        """Do nothing: what dead owners left is taken over once their leases are over."""
        return 0

    def wake(self) -> None:
        """Look at the stream now."""
        self.queue.notice()

    def tell(self, event: Event, line: bytes) -> None:
        """Publish an event on `hooks:NAME`, or drop it."""
        if self.link is not None:
            self.link.publish(self.queue.keys.hooks, line)

    def carry(self, heartbeat: Heartbeat) -> None:
        """Store the heartbeat where other hosts see it."""
        self._heartbeat = heartbeat
        self._beats.set()

    async def run_forever(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.queue.run_forever, name="redis queue")
            tasks.start_soon(self._interval.run_forever, name="redis timer")
            tasks.start_soon(self._enqueue_forever, name="redis activations")
            tasks.start_soon(self._beat_forever, name="redis heartbeat")
            if self.link is not None:
                tasks.start_soon(self.link.run_forever, name="redis link")
            if self.gate is not None:
                tasks.start_soon(self.gate.run_forever, name="redis gate")

    async def aclose(self) -> None:
        """Give back what is still held; what Redis does not take now is another one's when its lease is over."""
        self._commands.close()
        with anyio.move_on_after(_CLOSE_S):
            if self.connected and self._heartbeat is not None:
                try:
                    await self.queue.caller.command("DEL", self.queue.keys.heartbeat(self._heartbeat.instance))
                except QueueUnavailable:
                    log.debug("the heartbeat was left to expire")
            await self.queue.aclose()

    def _pace_s(self) -> float:
        hears = self.link is not None and self.link.connected
        return self._settings.rescan_interval_s if hears else self._settings.poll_interval_s

    def _tick(self) -> None:
        self.queue.notice()
        if self.link is None and self.gate is not None:
            # Nothing tells of a gate that is closed elsewhere.
            self.gate.read_again()
        self._bell.ring("interval")

    async def _beat_forever(self) -> None:
        while True:
            await self._beats.wait()
            self._beats.clear()
            if self._heartbeat is not None:
                try:
                    await self.queue.beat(self._heartbeat)
                except QueueUnavailable:
                    # The next one comes in a few seconds; that Redis is away is told elsewhere.
                    continue

    # -- what it hears

    def _returned(self) -> None:
        self._metrics.show_redis(True)
        if self._files is not None:
            self._files.watcher.redis_returned()
        if self.gate is not None:
            self.gate.read_again()
        self._interval.pace_changed()
        self._on_returned()
        self.queue.notice()
        self._bell.ring("redis")

    def _lost(self, reason: str) -> None:
        self._metrics.show_redis(False)
        self._metrics.redis_losses.inc()
        self._interval.pace_changed()
        if self._files is not None:
            self._files.watcher.redis_lost(reason)

    def _gate_changed(self, message: bytes) -> None:
        if self.gate is not None:
            self.gate.hear(message)

    def _commanded(self, line: bytes) -> None:
        if len(self._commands) >= _MOST_COMMANDS_WAITING:
            self._on_bad_message(f"a command was dropped: {_MOST_COMMANDS_WAITING} others wait; send it again later")
            return
        self._commands.put(line)
        self._commands.work_soon()

    def _activated(self, message: bytes) -> None:
        meaning = parse_activation(message, max_bytes=self._settings.max_trigger_bytes)
        match meaning:
            case BadMessage(why=why):
                self._on_bad_message(why)
                return
            case TaskText():
                try:
                    self._to_enqueue.put_nowait(meaning)
                except asyncio.QueueFull:
                    self._on_bad_message("a task was dropped: too many messages wait; put it into the stream")
                return
            case TaskPath(path=path):
                self._look_at(path)
            case TaskName(task_id=task_id):
                if self._files is not None:
                    self._files.look_for(task_id)
            case Nothing():
                if self._files is not None:
                    self._files.bell_rang()
        self.queue.notice()
        self._bell.ring("redis")

    def _look_at(self, path: str) -> None:
        if self._files is None:
            self._on_bad_message(f"{path[:200]!r} was not looked at: this worker has no shared directory")
        elif not self._files.look_at(path):
            self._on_bad_message(f"{path[:200]!r} was not looked at: it lies in no directory of this worker")

    async def _enqueue_forever(self) -> None:
        while True:
            task = await self._to_enqueue.get()
            try:
                await self.queue.enqueue_activated(task.body, task.task_id)
            except QueueUnavailable as error:
                log.error("a task that came as a message is lost: %s", error, extra={"action": "activation_lost"})
                self._on_bad_message(f"a task that came as a message is lost: {error}; put tasks into the stream")
                continue
            self._bell.ring("redis")
