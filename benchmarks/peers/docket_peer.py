"""docket (pydocket): its Worker on a Redis stream, results in Redis.

Settings: concurrency C, ``minimum_check_interval`` 1 ms. A worker whose slots are all taken sleeps for that interval,
so the default of 250 ms allows only 4 batches of C a second. uvloop was tried and gained nothing.
"""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from docket import Docket, Worker

from .measure import REDIS_VARIABLE, Enqueue
from .record import noop

DISTRIBUTION = "pydocket"
RESULTS_HASH = None
CHECK_INTERVAL = timedelta(milliseconds=1)


async def noop_async(slot: int, enqueued_ns: int) -> int:
    """The timed task; not shared between peers, because taskiq renames the function that it registers."""
    return noop(slot, enqueued_ns)


async def run_worker(concurrency: int) -> None:
    """Run a worker until a signal."""
    logging.basicConfig(level=logging.WARNING)
    async with Docket("peers", os.environ[REDIS_VARIABLE]) as docket:
        docket.register(noop_async)
        async with Worker(docket, concurrency=concurrency, minimum_check_interval=CHECK_INTERVAL) as worker:
            await worker.run_forever()


def worker_command(concurrency: int) -> list[str]:
    """A program that runs the worker."""
    program = f"import asyncio; from {__name__} import run_worker; asyncio.run(run_worker({concurrency}))"
    return [sys.executable, "-c", program]


@asynccontextmanager
async def open_producer(redis_url: str) -> AsyncIterator[Enqueue]:
    """A client docket with the same task."""
    async with Docket("peers", redis_url) as docket:
        docket.register(noop_async)

        async def enqueue(slot: int, enqueued_ns: int) -> str:
            execution = await docket.add(noop_async)(slot, enqueued_ns)
            return f"peers:results::{execution.key}:1"  # 1 is the generation of a task added once

        yield enqueue
