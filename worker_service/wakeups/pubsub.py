"""The Redis link: one subscription that rings, and messages that go out.

Pub/sub is only ever the bell: what was said while the link was down is never heard, so each time it is up again the
queue is looked at anew. The link asks for a sign of life by itself, because a Redis that is stopped keeps its
connections open and says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from agent_bus.redis_connection import close_client, explain, failures, make_client, make_pubsub_clients
from agent_bus.redis_keys import CONTROL_ALL_CHANNEL, GATES_CHANNEL, WorkerKeys
from agent_bus.redis_url import RedisAddress

log = logging.getLogger(__name__)

_PING_S: Final = 15.0
_PONG_S: Final = 3.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_MOST_OUTGOING: Final = 1000
_MOST_IN_ONE_WRITE: Final = 100


def _no_message(message: bytes) -> None:
    """Do nothing."""


def _nothing() -> None:
    """Do nothing."""


def _no_trouble(trouble: str) -> None:
    """Do nothing."""


@dataclass(kw_only=True)
class LinkListener:
    """Whom the link calls, on the event loop; none of these may block or raise."""

    on_activate: Callable[[bytes], None] = _no_message
    """A message on `activate:NAME`: ring."""
    on_control: Callable[[bytes], None] = _no_message
    """A command on `control:NAME` or `control:all`."""
    on_gate: Callable[[bytes], None] = _no_message
    """A gate was closed somewhere."""
    on_connected: Callable[[], None] = _nothing
    """Subscribed, for the first time or again: ring, rescan, read the gate."""
    on_lost: Callable[[str], None] = _no_trouble
    """The link is down; with the reason, in one sentence."""


@dataclass(slots=True)
class _Link:
    pubsub: Any
    client: Any
    pinged_at: float | None = field(default=None)


class RedisLink:
    """One worker's subscription and its messages."""

    def __init__(self, address: RedisAddress, *, worker: str, listener: LinkListener, ping_s: float = _PING_S) -> None:
        """Connect as soon as `run_forever` runs; ask for a sign of life every `ping_s` seconds."""
        self._address = address
        self._keys = WorkerKeys(worker)
        self._listener = listener
        self._ping_s = ping_s
        self._heard_at: float | None = None
        self._failures = failures()
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._any_outgoing = asyncio.Event()
        self._told_down = False
        self.connected = False
        """Whether it is subscribed."""
        self.trouble: str | None = f"Redis at {address.shown} has not answered yet"
        """Why it is not, in one sentence without a password, or None."""
        self.dropped = 0
        """How many outgoing messages were dropped, because Redis was away or slow."""
        self._channels: dict[bytes, Callable[[bytes], None]] = {
            self._keys.bell.encode(): listener.on_activate,
            self._keys.control.encode(): listener.on_control,
            CONTROL_ALL_CHANNEL.encode(): listener.on_control,
            GATES_CHANNEL.encode(): listener.on_gate,
        }

    @property
    def age_s(self) -> float | None:
        """Seconds since Redis was last heard on this link; None before the first time."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    def publish(self, channel: str, message: bytes) -> None:
        """Send the message some time soon, or never: it is dropped and counted where Redis is away or too slow."""
        if not self.connected or len(self._outgoing) >= _MOST_OUTGOING:
            self.dropped += 1
            return
        self._outgoing.append((channel, message))
        self._any_outgoing.set()

    async def run_forever(self) -> None:
        """Stay subscribed, and send what is published, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send_forever, name="redis messages")
            await self._listen_forever()

    # -- in

    async def _listen_forever(self) -> None:
        pause_s = _FIRST_PAUSE_S
        attempt = 0
        while True:
            clients = make_pubsub_clients(self._address)
            client = clients[attempt % len(clients)]
            attempt += 1
            link = _Link(client.pubsub(), client)
            try:
                await self._subscribe(link)
                pause_s = _FIRST_PAUSE_S
                await self._listen(link)
            except self._failures as error:
                self._is_down(explain(error, self._address))
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                    await _close(link)
            # Full jitter: the workers of a team do not come back at the same moment.
            await anyio.sleep(random.uniform(0.0, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _subscribe(self, link: _Link) -> None:
        with anyio.fail_after(2 * _PONG_S):
            await link.pubsub.subscribe(*self._channels)
            confirmed = 0
            while confirmed < len(self._channels):
                message = await link.pubsub.get_message(timeout=_PONG_S)
                if message is None:
                    raise TimeoutError
                if message["type"] == "subscribe":
                    confirmed += 1
                else:
                    self._take(message)
        self._heard_at = time.monotonic()
        self.connected = True
        self.trouble = None
        log.info("listening to Redis at %s", self._address.shown, extra={"action": "redis_connected"})
        self._told_down = False
        self._listener.on_connected()

    async def _listen(self, link: _Link) -> None:
        while True:
            message = await link.pubsub.get_message(timeout=_PONG_S if link.pinged_at else self._ping_s)
            if message is not None:
                self._heard_at = time.monotonic()
                # Any word from Redis is a sign of life.
                link.pinged_at = None
                self._take(message)
            elif link.pinged_at is None:
                link.pinged_at = time.monotonic()
                await link.pubsub.ping()
            else:
                raise TimeoutError

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "message" and (callback := self._channels.get(message["channel"])) is not None:
            callback(message["data"])

    def _is_down(self, trouble: str) -> None:
        was_connected, self.connected = self.connected, False
        self.trouble = trouble
        self.dropped += len(self._outgoing)
        self._outgoing.clear()
        if was_connected or not self._told_down:
            self._told_down = True
            log.warning("%s; files go on, and it is tried again", trouble, extra={"action": "redis_lost"})
            self._listener.on_lost(trouble)

    # -- out

    async def _send_forever(self) -> None:
        client: Any = make_client(self._address)
        try:
            while True:
                await self._any_outgoing.wait()
                self._any_outgoing.clear()
                while self._outgoing:
                    batch = [self._outgoing.popleft() for _ in range(min(_MOST_IN_ONE_WRITE, len(self._outgoing)))]
                    try:
                        await self._send(client, batch)
                    except self._failures:
                        # The subscription tells of the loss; it finds out by itself.
                        self.dropped += len(batch)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await close_client(client)

    async def _send(self, client: Any, batch: list[tuple[str, bytes]]) -> None:
        pipe = client.pipeline(transaction=False) if len(batch) > 1 and hasattr(client, "connection_pool") else None
        if pipe is None:
            for channel, message in batch:
                await client.execute_command("PUBLISH", channel, message)
            return
        async with pipe:
            for channel, message in batch:
                pipe.execute_command("PUBLISH", channel, message)
            await pipe.execute()


async def _close(link: _Link) -> None:
    try:
        await link.pubsub.aclose()
        await close_client(link.client)
    except Exception:
        log.debug("the link did not close cleanly", exc_info=True)
