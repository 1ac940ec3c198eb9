"""A gate that workers on other hosts see, too: beside the directory, or in its place, it is a key in Redis.

The key holds the notice and expires when the gate opens; a message tells everybody at once. Whoever was away reads the
key when it is back. Asking whether the gate is closed never waits for Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
from pydantic import ValidationError

from agent_bus.errors import QueueUnavailable
from agent_bus.gates import Gate, GateNotice
from agent_bus.redis import keys as redis_keys
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.scripts import script

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


class SharedGate(Gate):
    """The gate of one credential, in a directory, in Redis, or in both."""

    def __init__(
        self,
        fingerprint: str,
        *,
        directory: Path | None,
        caller: RedisCaller,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Share the gate by way of `caller`; `on_closed` is called when another host has closed it."""
        super().__init__(directory if directory is not None else Path(), fingerprint)
        self._fingerprint = fingerprint
        self._in_directory = directory is not None
        self._caller = caller
        self._on_closed = on_closed
        self._heard: GateNotice | None = None
        self._to_tell: GateNotice | None = None
        self._to_read = True
        self._due = anyio.Event()
        self._due.set()

    def closed(self) -> GateNotice | None:
        """Return why nothing may start now, or None; the later moment where directory and Redis differ."""
        here = super().closed() if self._in_directory else None
        heard = self._heard
        if heard is None or heard.until.timestamp() <= time.time():
            return here
        return heard if here is None or heard.until > here.until else here

    def close_until(self, notice: GateNotice) -> None:
        """Hold everything back, here at once and elsewhere as soon as Redis takes it; a later moment stays.

        Raises:
            OSError: the directory's gate cannot be written; the other hosts are told all the same.
        """
        standing = self.closed()
        if standing is not None and standing.until >= notice.until:
            return
        self._heard = notice
        self._to_tell = notice
        self._due.set()
        if self._in_directory:
            super().close_until(notice)

    def hear(self, message: bytes) -> None:
        """Take note of a message on the gates' channel; those of other credentials and bad ones mean nothing here."""
        try:
            notice = GateNotice.model_validate_json(message)
        except ValidationError as error:
            log.warning(
                "a message on %s was dropped: %d wrong field(s)",
                redis_keys.GATES_CHANNEL,
                error.error_count(),
                extra={"action": "bad_gate_message"},
            )
            return
        if (notice.model_extra or {}).get("fingerprint") == self._fingerprint:
            self._take(notice)

    def read_again(self) -> None:
        """Look at Redis, because messages may have been missed."""
        self._to_read = True
        self._due.set()

    async def run_forever(self) -> None:
        """Tell and read until cancelled."""
        while True:
            await self._due.wait()
            self._due = anyio.Event()
            try:
                await self._tell()
                await self._read()
            except QueueUnavailable:
                # `read_again` is called when the link is back, too; this is for a failure in between.
                await anyio.sleep(_RETRY_S)
                self._due.set()

    async def _tell(self) -> None:
        notice = self._to_tell
        if notice is None:
            return
        left_ms = int(1000 * (notice.until.timestamp() - time.time()))
        if left_ms > 0:
            told = notice.model_copy(update={"fingerprint": self._fingerprint})
            body = told.model_dump_json().encode()
            await self._caller.run(script("gate"), (redis_keys.gate(self._fingerprint),), (body, left_ms))
            await self._caller.command("PUBLISH", redis_keys.GATES_CHANNEL, body)
        if self._to_tell is notice:
            self._to_tell = None

    async def _read(self) -> None:
        if not self._to_read:
            return
        body = await self._caller.command("GET", redis_keys.gate(self._fingerprint))
        self._to_read = False
        if body is not None:
            self.hear(body)

    def _take(self, notice: GateNotice) -> None:
        if notice.until.timestamp() <= time.time() or (self._heard is not None and self._heard.until >= notice.until):
            return
        self._heard = notice
        self._on_closed()
