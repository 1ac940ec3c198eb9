"""dramatiq: RedisBroker with the Results middleware, run by the ``dramatiq`` program.

Settings: 1 process, C threads, default middleware (leaving it out gained nothing). The worker polls Redis, so two
documented environment variables are lowered or raised: ``dramatiq_worker_timeout`` 5 ms, the longest pause of an idle
poll (1 s by default), and ``dramatiq_queue_prefetch`` 100 messages (twice the threads by default).
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from .measure import REDIS_VARIABLE, Enqueue, with_timeout
from .record import noop

DISTRIBUTION = "dramatiq"
RESULTS_HASH = None


def set_worker_broker() -> None:
    """Install the worker's broker; the ``dramatiq`` program calls this."""
    _connect(os.environ[REDIS_VARIABLE])


def _connect(redis_url: str) -> tuple[dramatiq.Actor[[int, int], int], Any]:
    results = RedisBackend(url=redis_url)
    broker = RedisBroker(url=redis_url)  # type: ignore[no-untyped-call]
    broker.add_middleware(Results(backend=results))  # type: ignore[no-untyped-call]
    dramatiq.set_broker(broker)
    return dramatiq.actor(broker=broker, store_results=True)(noop), results


def worker_command(concurrency: int) -> list[str]:
    """The library's own worker program, its environment variables set by ``env``."""
    program = ["env", "dramatiq_worker_timeout=5", "dramatiq_queue_prefetch=100", sys.executable, "-m", "dramatiq"]
    return [*program, f"{__name__}:set_worker_broker", "--processes", "1", "--threads", str(concurrency)]


@asynccontextmanager
async def open_producer(redis_url: str) -> AsyncIterator[Enqueue]:
    """A client with the same actor; its calls are synchronous and block the producer, which does nothing else."""
    actor, results = _connect(with_timeout(redis_url))

    async def enqueue(slot: int, enqueued_ns: int) -> str:
        return str(results.build_message_key(actor.send(slot, enqueued_ns)))

    yield enqueue
