"""A subscription whose messages are handed over in the very callback in which they arrive.

redis-py connects, greets and signs in; after that the connection's transport is taken over, as in `wire.py`.
What wakes a worker should not take the way through a stream, a task and a timer for each message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import hiredis
import redis.asyncio
import redis.exceptions

from agent_bus.redis.cancellation import connect

_pack: Any = hiredis.pack_command


class Subscription(asyncio.Protocol):
    """One connection that listens on channels. Made by `open_subscription`."""

    def __init__(self, connection: Any, names: Iterable[str], on_message: Callable[[bytes, bytes], None]) -> None:
        self._connection = connection
        """redis-py's: kept, since it closes the transport when it is collected."""
        self._transport: asyncio.Transport = connection._writer.transport
        self._reader = hiredis.Reader(replyError=redis.exceptions.ResponseError)
        self._on_message = on_message
        self._unconfirmed = {name.encode() for name in names}
        self._confirmed = asyncio.Event()
        self._heard = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard_at = time.monotonic()
        """When Redis last said anything, by the monotonic clock."""

    def data_received(self, data: bytes) -> None:
        """Hand over what came."""
        self.heard_at = time.monotonic()
        self._heard.set()
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.HiredisError as error:
                self._end(redis.exceptions.InvalidResponse(str(error)))
                return
            if reply is False:
                return
            if isinstance(reply, redis.exceptions.RedisError):
                self._end(reply)
                return
            if not isinstance(reply, list) or len(reply) not in (3, 4):
                continue
            # A message that came by a pattern names the pattern before its channel.
            kind, channel, content = reply[0], *reply[-2:]
            if kind in (b"message", b"pmessage"):
                self._on_message(channel, content)
            elif kind in (b"subscribe", b"psubscribe"):
                self._unconfirmed.discard(channel)
                if not self._unconfirmed:
                    self._confirmed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever listens."""
        self._end(redis.exceptions.ConnectionError(str(exc or "the server closed the connection")))

    async def confirmed(self) -> None:
        """Return once every channel and pattern is subscribed.

        Raises:
            redis.exceptions.RedisError: the connection was lost, or the server refused.
        """
        await self._first(self._confirmed.wait(), None)

    async def stays_for(self, seconds: float) -> None:
        """Return after so many seconds.

        Raises:
            redis.exceptions.RedisError: the connection was lost in that time.
        """
        await asyncio.wait([self._lost], timeout=seconds)
        if self._lost.done():
            self._lost.result()

    async def answers_within(self, seconds: float) -> bool:
        """Ask for a sign of life and tell whether one came in time.

        Raises:
            redis.exceptions.RedisError: the connection was lost.
        """
        self._heard.clear()
        self._transport.write(_pack(("PING",)))
        return await self._first(self._heard.wait(), seconds)

    async def _first(self, waited_for: Any, seconds: float | None) -> bool:
        waiting = asyncio.ensure_future(waited_for)
        try:
            await asyncio.wait([waiting, self._lost], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._lost.done():
            self._lost.result()
        return waiting.done() and not waiting.cancelled()

    async def aclose(self) -> None:
        """Close the connection."""
        self._end(redis.exceptions.ConnectionError("the connection was closed"))
        await self._connection.disconnect(nowait=True)

    def _end(self, error: redis.exceptions.RedisError) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)
            # Nobody may be waiting at this moment; whoever waits next is told.
            self._lost.exception()
        self._transport.abort()


async def open_subscription(
    client: redis.asyncio.Redis,
    channels: Iterable[str],
    on_message: Callable[[bytes, bytes], None],
    *,
    patterns: Iterable[str] = (),
) -> Subscription:
    """Connect by way of the client's pool and subscribe; messages may come before the channels are confirmed.

    Args:
        client: Whose server it is.
        channels: What to listen on.
        on_message: Given the channel and the message, on the event loop; must not block or raise.
        patterns: All channels that match one of these are listened on as well.

    Raises:
        redis.exceptions.RedisError: it does not connect.
        OSError: the same.
    """
    pool: Any = client.connection_pool
    connection: Any = pool.make_connection()
    await connect(connection)
    names, globs = tuple(channels), tuple(patterns)
    subscription = Subscription(connection, (*names, *globs), on_message)
    subscription._transport.set_protocol(subscription)
    if subscription._transport.is_closing():
        subscription.connection_lost(None)
    for command, wanted in (("SUBSCRIBE", names), ("PSUBSCRIBE", globs)):
        if wanted:
            subscription._transport.write(_pack((command, *wanted)))
    return subscription
