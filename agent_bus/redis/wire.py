"""A short way to Redis for commands that come thousands of times a second.

redis-py connects, greets and signs in; after that the connection's transport is taken over by a protocol of ours, which
writes a command as it is and hands its answer to whoever waits, with no stream, lock or pool in between. That costs a
third of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis.asyncio
import redis.exceptions

from agent_bus.redis.cancellation import connect
from agent_bus.redis.url import COMMAND_TIMEOUT_S

_CLOSE_S = 1.0
_pack: Any = hiredis.pack_command


class Wire(asyncio.Protocol):
    """One connection; commands are answered in the order in which they were sent. Made by `open_wire`."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        """redis-py's: kept, since it closes the transport when it is collected."""
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport = connection._writer.transport
        self._reader = hiredis.Reader(replyError=redis.exceptions.ResponseError)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._deadline: asyncio.TimerHandle | None = None
        self._closed = asyncio.get_running_loop().create_future()
        self.broken = False
        """Whether it can be used no more."""

    def send(self, command: Sequence[str | bytes | int | float]) -> asyncio.Future[Any]:
        """Send the command at once; the future brings its answer, or raises as redis-py does."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self.broken:
            answer.set_exception(redis.exceptions.ConnectionError("the connection was lost"))
            return answer
        self._waiting.append(answer)
        if self._deadline is None:
            # One timer for all that wait: it is set anew when an answer comes and others are still due.
            self._deadline = loop.call_later(self._timeout_s, self._too_late)
        self._transport.write(_pack(tuple(command)))
        return answer

    def data_received(self, data: bytes) -> None:
        """Hand out the answers."""
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.HiredisError as error:
                self._break(redis.exceptions.InvalidResponse(str(error)))
                return
            if reply is False:
                break
            if not self._waiting:
                self._break(redis.exceptions.InvalidResponse("an answer came that nobody asked for"))
                return
            answer = self._waiting.popleft()
            if answer.done():
                continue
            if isinstance(reply, redis.exceptions.RedisError):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            if self._waiting:
                self._deadline = asyncio.get_running_loop().call_later(self._timeout_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        self._break(redis.exceptions.ConnectionError(str(exc or "the server closed the connection")))
        if not self._closed.done():
            self._closed.set_result(None)

    async def aclose(self) -> None:
        """Close the connection; what waits fails."""
        self._break(redis.exceptions.ConnectionError("the connection was closed"))
        try:
            await asyncio.wait([self._closed], timeout=_CLOSE_S)
        finally:
            await self._connection.disconnect(nowait=True)

    def abandon(self) -> None:
        """Use it no more: it leads to a server that is not the right one any longer."""
        self._break(redis.exceptions.ConnectionError("the connection was given up"))

    def _too_late(self) -> None:
        self._deadline = None
        self._break(redis.exceptions.TimeoutError("no answer in time"))

    def _break(self, error: redis.exceptions.RedisError) -> None:
        self.broken = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)
        # Nothing is to be saved of what could not be sent; closing it politely would wait for a server that hangs.
        self._transport.abort()


async def open_wire(client: redis.asyncio.Redis) -> Wire:
    """Connect by way of the client's pool, and take the connection over.

    Raises:
        redis.exceptions.RedisError: it does not connect.
        OSError: the same.
    """
    pool: Any = client.connection_pool
    connection: Any = pool.make_connection()
    await connect(connection)
    wire = Wire(connection, connection.socket_timeout or COMMAND_TIMEOUT_S)
    wire._transport.set_protocol(wire)
    if wire._transport.is_closing():
        # It was lost before the protocol was there to be told.
        wire.connection_lost(None)
    return wire
