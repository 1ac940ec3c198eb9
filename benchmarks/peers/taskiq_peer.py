"""taskiq: a Redis stream with acknowledgements, results in Redis, run by ``taskiq worker``.

Settings: 1 worker process, ``--max-async-tasks`` C, an asynchronous task, uvloop (taken where installed), else
defaults; ``--no-parse`` and ``--max-prefetch 100`` were tried and gained nothing.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from .measure import REDIS_VARIABLE, Enqueue
from .record import noop

DISTRIBUTION = "taskiq"
RESULTS_HASH = None


async def noop_async(slot: int, enqueued_ns: int) -> int:
    """The timed task; not shared between peers, because taskiq renames the function that it registers."""
    return noop(slot, enqueued_ns)


def build_broker() -> AsyncBroker:
    """The worker's broker; ``taskiq worker`` calls this."""
    return _connect(os.environ[REDIS_VARIABLE])[0]


def _connect(redis_url: str) -> tuple[AsyncBroker, AsyncTaskiqDecoratedTask[[int, int], Any]]:
    results: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(redis_url)
    broker = RedisStreamBroker(redis_url).with_result_backend(results)
    return broker, broker.register_task(noop_async, task_name="noop")


def worker_command(concurrency: int) -> list[str]:
    """The library's own worker program."""
    program = [sys.executable, "-m", "taskiq", "worker", f"{__name__}:build_broker", "--log-level", "WARNING"]
    return [*program, "--workers", "1", "--max-async-tasks", str(concurrency)]


@asynccontextmanager
async def open_producer(redis_url: str) -> AsyncIterator[Enqueue]:
    """Start a client broker, which also creates the consumer group, so that tasks may precede the worker."""
    broker, task = _connect(redis_url)

    async def enqueue(slot: int, enqueued_ns: int) -> str:
        return (await task.kiq(slot, enqueued_ns)).task_id

    await broker.startup()
    try:
        yield enqueue
    finally:
        await broker.shutdown()
