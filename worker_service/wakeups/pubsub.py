"""The Redis link: one subscription that rings, and messages that go out.

Pub/sub is only ever the bell: what was said while the link was down is never heard, so each time it is up again the
queue is looked at anew. The link asks for a sign of life by itself, because a Redis that is stopped keeps its
connections open and says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import anyio

from agent_bus.redis.connection import close_client, explain, failures, make_client, make_pubsub_clients
from agent_bus.redis.keys import CONTROL_ALL_CHANNEL, GATES_CHANNEL, WorkerKeys
from agent_bus.redis.scripts import script
from agent_bus.redis.url import RedisAddress, RedisKind

if TYPE_CHECKING:
    from agent_bus.redis.subscription import Subscription

log = logging.getLogger(__name__)

_PING_S: Final = 15.0
_PONG_S: Final = 3.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_MOST_OUTGOING: Final = 1000
_MOST_IN_ONE_WRITE: Final = 100
_BUSY_S: Final = 0.02
_GATHER_S: Final = 0.005


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
    """A gate was closed or opened somewhere."""
    on_connected: Callable[[], None] = _nothing
    """Subscribed, for the first time or again: ring, rescan, read the gate."""
    on_lost: Callable[[str], None] = _no_trouble
    """The link is down; with the reason, in one sentence."""


class RedisLink:
    """One worker's subscription and its messages."""

    def __init__(self, address: RedisAddress, *, worker: str, listener: LinkListener, ping_s: float = _PING_S) -> None:
        """Connect as soon as `run_forever` runs; ask for a sign of life every `ping_s` seconds."""
        self._address = address
        self._keys = WorkerKeys(worker)
        self._listener = listener
        self._ping_s = ping_s
        self._subscription: Subscription | None = None
        self._failures = failures()
        self._script = script("publish")
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._any_outgoing = asyncio.Event()
        self._told_down = False
        self.connected = False
        """Whether it is subscribed."""
        self.trouble: str | None = f"Redis at {address.shown} has not answered yet"
        """Why it is not, in one sentence without a password, or None."""
        self.dropped = 0
        """How many outgoing messages were dropped, because Redis was away or slow."""
        channels = {
            self._keys.bell: listener.on_activate,
            self._keys.control: listener.on_control,
            CONTROL_ALL_CHANNEL: listener.on_control,
            GATES_CHANNEL: listener.on_gate,
        }
        self._channels = list(channels)
        self._callbacks = {channel.encode(): callback for channel, callback in channels.items()}

    @property
    def age_s(self) -> float | None:
        """Seconds since Redis was last heard on this link; None before the first time."""
        return None if self._subscription is None else time.monotonic() - self._subscription.heard_at

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
            subscription: Subscription | None = None
            try:
                subscription = await self._subscribe(client)
                pause_s = _FIRST_PAUSE_S
                await self._listen(subscription)
            except self._failures as error:
                self._is_down(explain(error, self._address))
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                    if subscription is not None:
                        await subscription.aclose()
                    for unused in clients:
                        await close_client(unused)
            # Full jitter: the workers of a team do not come back at the same moment.
            await anyio.sleep(random.uniform(0.0, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _subscribe(self, client: Any) -> Subscription:
        from agent_bus.redis.subscription import open_subscription

        with anyio.fail_after(2 * _PONG_S):
            subscription = await open_subscription(client, self._channels, self._take)
            try:
                await subscription.confirmed()
            except BaseException:
                await subscription.aclose()
                raise
        self._subscription = subscription
        self.connected = True
        self.trouble = None
        log.info("listening to Redis at %s", self._address.shown, extra={"action": "redis_connected"})
        self._told_down = False
        self._listener.on_connected()
        return subscription

    async def _listen(self, subscription: Subscription) -> None:
        while True:
            silent_s = time.monotonic() - subscription.heard_at
            if silent_s < self._ping_s:
                await subscription.stays_for(self._ping_s - silent_s)
            elif not await subscription.answers_within(_PONG_S):
                raise TimeoutError

    def _take(self, channel: bytes, message: bytes) -> None:
        if (callback := self._callbacks.get(channel)) is not None:
            callback(message)

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
        sent_at = 0.0
        try:
            while True:
                await self._any_outgoing.wait()
                if time.monotonic() - sent_at < _BUSY_S:
                    # One message goes at once; in a stream of them each write costs more than a little wait.
                    await asyncio.sleep(_GATHER_S)
                self._any_outgoing.clear()
                while self._outgoing:
                    batch = [self._outgoing.popleft() for _ in range(min(_MOST_IN_ONE_WRITE, len(self._outgoing)))]
                    try:
                        await self._send(client, batch)
                    except self._failures:
                        # The subscription tells of the loss; it finds out by itself.
                        self.dropped += len(batch)
                sent_at = time.monotonic()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await close_client(client)

    async def _send(self, client: Any, batch: list[tuple[str, bytes]]) -> None:
        if self._address.kind is RedisKind.CLUSTER:
            for channel, message in batch:
                await client.execute_command("PUBLISH", channel, message)
            return
        # Many messages as one command: to make and to take in a command each costs more than the message.
        for channel, group in itertools.groupby(batch, key=itemgetter(0)):
            messages = [message for _, message in group]
            try:
                await client.execute_command("EVALSHA", self._script.sha, 0, channel, *messages)
            except self._failures as error:
                if "NOSCRIPT" not in str(error) and "No matching script" not in str(error):
                    raise
                await client.execute_command("EVAL", self._script.text, 0, channel, *messages)
