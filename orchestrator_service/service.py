"""The orchestrator's parts, wired, and their lifetime: everything is opened here and closed here, in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import anyio

from agent_bus import VERSION
from agent_bus.heartbeats import write_heartbeat
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now
from orchestrator_service.clerk import Clerk
from orchestrator_service.core import Core
from orchestrator_service.dispatching import Dispatcher
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.fleet import Fleet
from orchestrator_service.gatekeeper import Gatekeeper
from orchestrator_service.inbox import Inbox
from orchestrator_service.ledger.database import Database, open_database
from orchestrator_service.ledger.series import add_sample
from orchestrator_service.orchestrator import Orchestrator
from orchestrator_service.reconciliation import Reconciler
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.book import Book
from orchestrator_service.scheduling.clock import advance
from orchestrator_service.scheduling.pruning import prune, prune_history
from orchestrator_service.scheduling.recurring import hand_in_due
from orchestrator_service.scheduling.step import Step
from orchestrator_service.settings import OrchestratorSettings
from orchestrator_service.stuck_tasks import StuckTasks
from orchestrator_service.transports.base import Transport
from orchestrator_service.transports.files import FileTransport
from service_kit.findings import Finding

log = logging.getLogger(__name__)

_LEDGER_RETRY_S: Final = 5.0
_BETWEEN_SLICES_S: Final = 0.05
_STUCK_AFTER_S: Final = 60.0
"""A transaction that is under way for longer will not end by itself."""
_SAMPLE_EVERY_S: Final = 60.0
_RESULTS_POSITION: Final = "redis:results"


class Service:
    """A running orchestrator. Made by `open_service`."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wire the parts; `clock` gives seconds since 1970, `monotonic` seconds that only grow."""
        self.settings = settings
        self.database = database
        self.http_port: int | None = None
        self.book = Book(settings.budget)
        self.fleet = Fleet(
            settings.team,
            settings.workers,
            silent_after_s=settings.silent_after_s,
            max_in_flight=settings.max_in_flight,
            clock=monotonic,
        )
        self.core = Core(database, self.book, self.fleet, clock)
        self.clerk = Clerk(self.core)
        self.transports: dict[str, Transport] = {}
        self.dispatcher = Dispatcher(self.core, self.transports)
        self.reconciler = Reconciler(
            self.core, self.clerk, self.dispatcher, self.transports, settings.shared / "results"
        )
        self.inbox = Inbox(self.core, self.transports)
        self.clerk.on_question = self.inbox.hear
        self.gatekeeper = Gatekeeper(self.core, self.transports, settings.shared / "gates")
        self._stuck = StuckTasks(self.core, self.transports)
        self.clerk.on_beat = self._hear_beat
        self.desk = Orchestrator(self.core, self.transports, self.reconciler, self.inbox, self.gatekeeper)
        self.instance = f"{socket.gethostname()}-{os.getpid()}"
        self.place_found = anyio.Event()
        """Set once it has found its place again after the start."""
        self.stopping = False
        self.beaten_at = 0.0
        """When the last heartbeat was written, in seconds since 1970."""
        self._silence: asyncio.TimerHandle | None = None
        self._sampled: tuple[int, int] | None = None
        self.core.on_fleet_change = self._fleet_changed
        self.core.on_due = self._advance

    def open_runs(self, transport: str) -> Callable[[], list[tuple[str, str]]]:
        """Return what gives (worker, wire id) of the dispatches on a transport that have not ended."""
        return lambda: [(run.worker, run.wire_id) for run in self.core.open.values() if run.transport == transport]

    def _hear_beat(self, beat: Heartbeat) -> None:
        self.gatekeeper.hear(beat)
        self._stuck.hear(beat)

    # -- what comes due

    async def _advance(self) -> None:
        def change(step: Step) -> None:
            advance(step)
            hand_in_due(step)

        try:
            await self.core.change(change)
        except LedgerUnavailable:
            await anyio.sleep(_LEDGER_RETRY_S)
            self.core.spawn(self._advance(), "due")

    # -- who is there

    def _fleet_changed(self, came: list[str], went: list[str]) -> None:
        self.core.spawn(self._tell_of_fleet(came, went), "fleet")

    async def _tell_of_fleet(self, came: list[str], went: list[str]) -> None:
        def change(step: Step) -> None:
            for name in came:
                step.happened("worker_up", {}, worker=name)
            for name in went:
                step.happened("worker_down", {"silent_after_seconds": self.settings.silent_after_s}, worker=name)

        for name in went:
            log.warning("worker %s is down", name, extra={"action": "worker_down", "worker_name": name})
        with suppress(LedgerUnavailable):
            await self.core.change(change)
        with suppress(LedgerUnavailable):
            # Whoever came may take what waits at those that are down.
            down = [name for name, member in self.fleet.view.members.items() if not member.up]
            await self.reconciler.evacuate(down)

    def watch_silence(self) -> None:
        """Look at the fleet when the next worker would have been silent for too long."""
        if self._silence is not None:
            self._silence.cancel()
        wait = self.fleet.next_silence()
        # A heartbeat that comes meanwhile only makes this look come early.
        self._silence = None if wait is None else asyncio.get_running_loop().call_later(wait, self._look)

    def _look(self) -> None:
        self.core.look_at_fleet()
        self.watch_silence()

    # -- loops

    async def beat(self) -> None:
        """Write the own heartbeat, again and again."""
        while True:
            self.write_beat()
            if self.database.trouble is not None:
                # Nobody may be writing, since it is said that one cannot: it is found out whether one can again.
                with suppress(LedgerUnavailable):
                    await self.core.change(_mark)
            if self._silence is None:
                self.watch_silence()
            await anyio.sleep(self.settings.heartbeat_interval_s)

    def write_beat(self, status: WorkerStatus | None = None) -> None:
        """Write the own heartbeat; a full disk costs the heartbeat and nothing else."""
        if status is None:
            status = WorkerStatus.IDLE if not self.core.open else WorkerStatus.BUSY
        beat = Heartbeat(
            worker="orchestrator",
            instance=self.instance,
            component="orchestrator",
            timestamp=utc_now(),
            status=status,
            queue_size=max(0, self.book.lanes.total()),
            mode="orchestrator",
            pid=os.getpid(),
            http_port=self.http_port,
            version=VERSION,
            interval_seconds=self.settings.heartbeat_interval_s,
            agent="none",
        )
        try:
            self.settings.heartbeat.parent.mkdir(parents=True, exist_ok=True)
            write_heartbeat(self.settings.heartbeat, beat)
            self.beaten_at = time.time()
        except OSError as error:
            log.warning("the heartbeat cannot be written: %s", error, extra={"action": "heartbeat_unwritable"})

    async def check(self) -> None:
        """Find the place again, then compare everything now and then."""
        while not self.place_found.is_set():
            try:
                await self.reconciler.catch_up()
                await self._advance()
                self.place_found.set()
            except LedgerUnavailable:
                await anyio.sleep(_LEDGER_RETRY_S)
        while True:
            await anyio.sleep(self.settings.check_interval_s)
            try:
                await self.reconciler.check()
                await self.inbox.sweep()
                await self._prune()
            except LedgerUnavailable:
                continue
            except Exception:
                # A check that fails must not end what it checks; its time stands still in the metrics.
                log.exception("the invariants could not be checked", extra={"action": "check_failed"})

    async def sample(self) -> None:
        """Note how much there is to do, once a minute."""
        while True:
            await anyio.sleep(_SAMPLE_EVERY_S - time.time() % _SAMPLE_EVERY_S)
            with suppress(LedgerUnavailable):
                await self.note_sample()

    async def note_sample(self) -> None:
        """Note how much there is to do now, if that has changed."""
        states = self.book.states
        queued = max(0, states[TaskState.READY] + states[TaskState.SENT])
        running = max(0, states[TaskState.RUNNING])
        if (queued, running) != self._sampled:
            at = int(self.core.clock())
            await self.database.write(lambda connection: add_sample(connection, at, queued, running))
            self._sampled = queued, running

    async def _prune(self) -> None:
        await self.core.change(prune_history)
        if self.settings.ledger_keep_days > 0:
            before = time.time() - self.settings.ledger_keep_days * 86_400.0
            left = 1
            while left:
                left = await self.core.change(lambda step: prune(step, before), large=True)
                # Slices, with room between them: nobody waits for the broom.
                await anyio.sleep(_BETWEEN_SLICES_S)

    # -- health

    def liveness(self) -> list[Finding]:
        """Judge what only a restart could mend. That the loop runs is proven by there being an answer."""
        stuck_s = self.database.stuck_s()
        stuck = stuck_s > _STUCK_AFTER_S
        told = f"has been at one transaction for {stuck_s:.0f} s" if stuck else "goes on"
        return [Finding("loop", True, "answers"), Finding("ledger writer", not stuck, told)]

    def readiness(self) -> list[Finding]:
        """Judge whether a task would be taken and handed on now."""
        trouble = self.database.trouble
        found = self.place_found.is_set()
        up = [name for name, member in self.fleet.view.members.items() if member.up]
        findings = [
            *self.liveness(),
            Finding("ledger", trouble is None, trouble or f"{self.settings.ledger} can be written"),
            Finding("place", found, "found again" if found else "is looked for"),
            Finding("stopping", not self.stopping, "yes" if self.stopping else "no"),
            # A team without workers is no fault of the orchestrator: it takes tasks, and they wait.
            Finding("workers", True, f"{len(up)} of {len(self.fleet.names)} up: {', '.join(up) or 'none'}"),
        ]
        for transport in self.transports.values():
            findings += transport.findings()
        return findings


@asynccontextmanager
async def open_service(settings: OrchestratorSettings) -> AsyncIterator[Service]:
    """Open everything but the HTTP side, find the place again, and work for the length of the block.

    Raises:
        orchestrator_service.ledger.database.LedgerInUse: another orchestrator has the ledger.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.ledger))
        service = Service(settings, database)
        if database.trouble is None:
            with suppress(LedgerUnavailable):
                await service.core.load()
        service.transports["file"] = FileTransport(
            settings.shared,
            known=lambda: list(service.fleet.names),
            rescan_s=settings.rescan_interval_s,
            open_runs=service.open_runs("file"),
        )
        if settings.redis_url is not None:
            service.transports["redis"] = await _redis_transport(service)
        for transport in service.transports.values():
            await stack.enter_async_context(transport.open(service.clerk))
        # Before the transports: what is on its way then is not told as lost, but found at the next start.
        stack.push_async_callback(service.core.aclose)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(service.check, name="check")
        tasks.start_soon(service.gatekeeper.run_forever, name="gates")
        tasks.start_soon(service.sample, name="samples")
        try:
            yield service
        finally:
            service.stopping = True
            tasks.cancel_scope.cancel()


def _mark(step: Step) -> None:
    step.connection.execute(
        "INSERT INTO positions (name, value) VALUES ('written', ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (str(step.now),),
    )


async def _redis_transport(service: Service) -> Transport:
    # Redis costs time and memory that a team of files need not pay.
    from agent_bus.redis.gate_keys import RedisGates
    from agent_bus.redis.url import parse_redis_url
    from orchestrator_service.transports.redis import RedisTransport

    def position(connection: Any) -> str | None:
        found = connection.execute("SELECT value FROM positions WHERE name = ?", (_RESULTS_POSITION,)).fetchone()
        return None if found is None else str(found[0])

    known: str | None = None
    with suppress(LedgerUnavailable):
        known = await service.database.read(position)
    transport = RedisTransport(
        parse_redis_url(service.settings.redis_url or ""),
        journals=service.settings.ledger.parent / "events",
        known=lambda: list(service.fleet.names),
        poll_s=service.settings.heartbeat_interval_s,
        position=known,
        open_runs=service.open_runs("redis"),
    )
    service.gatekeeper.remote = RedisGates(transport.caller)
    return transport
