"""Clients whose commands can be cancelled whenever that comes.

The library sends each command by `asyncio.wait_for`, and before Python 3.12 that loses a cancellation that comes in the
very moment in which the sending ends (CPython issue 86296): the task goes on, and whoever waits for its end waits for
ever. It also loses what `asyncio.timeout` wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import redis.asyncio

_Untyped: Any = redis.asyncio.Redis
"""The library's client; its method has no type hints."""


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise at the end of the block the cancellation that was lost in it, if one was.

    Raises:
        asyncio.CancelledError: the task was cancelled inside the block, which went on to its end.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    yield
    # A scope of anyio's cancels again by itself, in its own words.
    if task is not None and task.cancelling() > before and anyio.current_effective_deadline() > -float("inf"):
        raise asyncio.CancelledError


class Client(redis.asyncio.Redis):
    """A client of one server."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See `redis.asyncio.Redis`."""
        with cancellation_kept():
            return await _Untyped.execute_command(self, *args, **options)


class ClusterClient(redis.asyncio.RedisCluster):
    """A client of a cluster."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """See `redis.asyncio.RedisCluster`."""
        with cancellation_kept():
            return await super().execute_command(*args, **kwargs)


async def connect(connection: Any) -> None:
    """Connect a connection of a pool.

    Raises:
        redis.exceptions.RedisError: it does not connect.
        OSError: the same.
    """
    try:
        with cancellation_kept():
            await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
