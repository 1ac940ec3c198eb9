"""The queue's way to Redis: runs scripts and commands, mends what can be mended, knows whether Redis is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from agent_bus.errors import QueueUnavailable
from agent_bus.redis import keys as redis_keys
from agent_bus.redis.connection import close_client, explain, failures, make_client
from agent_bus.redis.scripts import Script
from agent_bus.redis.url import RedisAddress, RedisKind

if TYPE_CHECKING:
    from agent_bus.redis.wire import Wire

Argument = str | bytes | int | float

_NOT_THE_MASTER: Final = ("READONLY", "MASTERDOWN", "LOADING")


class RedisCaller:
    """Sends commands; every failure is a `QueueUnavailable` with one sentence and no password."""

    def __init__(self, address: RedisAddress) -> None:
        """Connect with the first command."""
        self.address = address
        self.client: Any = make_client(address)
        self.connected = False
        """Whether the last command was answered."""
        self.answered_since: float | None = None
        """Since when, by the monotonic clock, every command was answered; None while one was not."""
        self.trouble: str | None = f"Redis at {address.shown} has not answered yet"
        """Why it cannot be used, or None."""
        self.on_change: list[Callable[[bool], None]] = []
        """Called with True when Redis answers again, and with False when it does not any more."""
        self._failures = failures()
        self._send = self.client.execute_command
        # The short way is for one server, and for answers as RESP 2 has them.
        self._is_short = address.kind is not RedisKind.CLUSTER and address.options.get("protocol", 2) == 2
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()

    @property
    def is_cluster(self) -> bool:
        """Whether keys of different names may lie on different servers."""
        return self.address.kind is RedisKind.CLUSTER

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script whose first key is a task stream or the results; makes group and script where they are gone.

        Raises:
            QueueUnavailable: it was not run, or its answer was lost on the way.
        """
        command: tuple[Argument, ...] = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        for _ in range(3):
            try:
                answer = await self._send_soon(command)
            except self._failures as error:
                text = str(error)
                if "NOSCRIPT" in text or "No matching script" in text:
                    command = ("EVAL", script.text, *command[2:])
                elif "NOGROUP" in text:
                    await self._make_group(keys[0])
                else:
                    raise self._failed(error) from None
            else:
                if not self.connected:
                    self._answered()
                return answer
        raise QueueUnavailable(f"Redis at {self.address.shown} loses its data while it is used")

    async def command(self, *parts: Argument) -> Any:
        """Send one command.

        Raises:
            QueueUnavailable: it failed, or its answer was lost on the way.
        """
        try:
            answer = await self._send(*parts)
        except self._failures as error:
            raise self._failed(error) from None
        if not self.connected:
            self._answered()
        return answer

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Use `client` inside the block: it is noted whether Redis answers.

        Raises:
            QueueUnavailable: something in the block failed for Redis' sake.
        """
        from agent_bus.redis.cancellation import cancellation_kept

        try:
            with cancellation_kept():
                yield
        except self._failures as error:
            raise self._failed(error) from None
        if not self.connected:
            self._answered()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._wire is not None:
            await self._wire.aclose()
        await close_client(self.client)

    async def _send_soon(self, command: tuple[Argument, ...]) -> Any:
        if not self._is_short:
            return await self._send(*command)
        wire = self._wire
        if wire is None or wire.broken:
            wire = await self._open_wire()
        return await wire.send(command)

    async def _open_wire(self) -> Wire:
        from agent_bus.redis.wire import open_wire

        async with self._opening:
            if self._wire is not None:
                if not self._wire.broken:
                    return self._wire
                await self._wire.aclose()
            self._wire = None
            self._wire = await open_wire(self.client)
            return self._wire

    async def _make_group(self, stream: str) -> None:
        try:
            await self._send("XGROUP", "CREATE", stream, redis_keys.GROUP, "0", "MKSTREAM")
        except self._failures as error:
            # Another replica may have been faster.
            if "BUSYGROUP" not in str(error):
                raise self._failed(error) from None

    def _answered(self) -> None:
        self.connected = True
        self.answered_since = time.monotonic()
        self.trouble = None
        for listener in self.on_change:
            listener(True)

    def _failed(self, error: BaseException) -> QueueUnavailable:
        told = explain(error, self.address)
        was_connected, self.connected = self.connected, False
        self.answered_since = None
        self.trouble = told
        if self._wire is not None and any(sign in str(error) for sign in _NOT_THE_MASTER):
            # The sentinels are asked anew who the master is.
            self._wire.abandon()
        if was_connected:
            for listener in self.on_change:
                listener(False)
        return QueueUnavailable(told)
