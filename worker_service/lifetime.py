"""A worker from its start to its end: signals and control commands that stop it, and how long it may take."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio

from worker_service.service import Worker, open_worker
from worker_service.settings import WorkerSettings

log = logging.getLogger(__name__)


async def run_worker(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM, SIGINT or a command ends it; a second signal ends the grace period at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_worker(settings) as worker:
            log.info(
                "ready: %s mode, bells %s, %s agent, %d slot(s), http://%s:%d",
                settings.mode.value,
                "+".join(worker.bells),
                worker.agent.name,
                settings.slots,
                settings.http_host,
                worker.http_port,
                extra={
                    "action": "ready",
                    "mode": settings.mode.value,
                    "bells": worker.bells,
                    "http_port": worker.http_port,
                },
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_heed_signals, signals, worker)
                await worker.stop_asked.wait()
                grace_s = math.inf if worker.stops_patiently else settings.shutdown_grace_s
                log.info("draining for at most %g s", grace_s, extra={"action": "draining"})
                await worker.drain(grace_s)
                tasks.cancel_scope.cancel()
    log.info("stopped", extra={"action": "stopped"})


async def _heed_signals(signals: AsyncIterator[signal.Signals], worker: Worker) -> None:
    with suppress(StopAsyncIteration):
        await anext(signals)
        async with anyio.create_task_group() as tasks:
            if worker.stop_asked.is_set():
                # A command to drain has all the time in the world; whoever sends a signal has not.
                tasks.start_soon(worker.drain, worker.settings.shutdown_grace_s)
            else:
                worker.ask_to_stop(patiently=False)
            await anext(signals)
            log.warning("a second signal: running tasks are interrupted now", extra={"action": "hurry"})
            await worker.drain(0.0)
