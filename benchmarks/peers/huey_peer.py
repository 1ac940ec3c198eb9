"""huey: RedisHuey with results, run by huey's consumer.

Settings: C threads as workers, blocking reads (BRPOP, the default of RedisHuey), pickled messages (the default), no
periodic tasks (``-n``), no result notifications (the default).
"""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from huey import RedisHuey

from .measure import REDIS_VARIABLE, Enqueue, with_timeout
from .record import noop

DISTRIBUTION = "huey"
RESULTS_HASH = "huey.results.peers"


def run_consumer(concurrency: int) -> None:
    """Run the consumer until a signal, as ``huey_consumer -w C -k thread -n -q`` would."""
    logging.basicConfig(level=logging.WARNING)
    huey, _ = _connect(os.environ[REDIS_VARIABLE])
    huey.create_consumer(workers=concurrency, worker_type="thread", periodic=False).run()


def _connect(redis_url: str) -> tuple[Any, Any]:
    huey = RedisHuey("peers", url=redis_url, blocking=True)
    return huey, huey.task()(noop)


def worker_command(concurrency: int) -> list[str]:
    """A program that runs the consumer."""
    return [sys.executable, "-c", f"from {__name__} import run_consumer; run_consumer({concurrency})"]


@asynccontextmanager
async def open_producer(redis_url: str) -> AsyncIterator[Enqueue]:
    """A client with the same task; its calls are synchronous and block the producer, which does nothing else."""
    huey, task = _connect(with_timeout(redis_url))

    async def enqueue(slot: int, enqueued_ns: int) -> str:
        return str(task(slot, enqueued_ns).id)

    yield enqueue
    huey.storage.pool.disconnect()
