"""A gate that workers on other hosts see, too: beside the directory, or in its place, it is a key in Redis.

The key holds the notice and expires when the gate opens; a message tells everybody at once. Whoever was away reads the
key when it is back. Asking whether the gate is closed never waits for Redis.

A gate is opened before its time by removing the key and telling so. Where a directory shows the gate as well, to open
one of the two opens both: whoever sees that the file is gone removes the key, and whoever hears it removes the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import anyio
from pydantic import ValidationError

from agent_bus.errors import QueueUnavailable
from agent_bus.gates import Gate, GateNotice, open_gate
from agent_bus.redis import keys as redis_keys
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.gate_keys import OPENED_BY, opening
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
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Share the gate by way of `caller`; `on_change` is called when others close or open it."""
        super().__init__(directory if directory is not None else Path(), fingerprint)
        self._directory = directory
        self._caller = caller
        self._on_change = on_change
        self._heard: GateNotice | None = None
        self._filed: datetime | None = None
        """Until when the directory has shown it closed."""
        self._to_tell: GateNotice | None = None
        self._to_open: GateNotice | None = None
        self._to_read = True
        self._due = anyio.Event()
        self._due.set()

    def closed(self) -> GateNotice | None:
        """Return why nothing may start now, or None; the later moment where directory and Redis differ."""
        here = super().closed() if self._directory is not None else None
        if here is not None:
            self._filed = here.until
        heard = self._heard
        if heard is None or heard.is_over:
            return here
        if here is None and self._filed is not None and heard.until <= self._filed:
            self._heard, self._to_tell, self._to_open = None, None, heard
            self._due.set()
            return None
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
        self._to_tell, self._to_open = notice, None
        self._filed = None
        self._due.set()
        if self._directory is not None:
            self._write(notice)
            self._filed = notice.until

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
        told = notice.model_extra or {}
        if told.get("fingerprint") == self.gate_id:
            self._take(notice) if OPENED_BY not in told else self._opened()

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
                await self._tell_of_opening()
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
            told = notice.model_copy(update={"fingerprint": self.gate_id})
            body = told.model_dump_json().encode()
            await self._caller.run(script("gate"), (redis_keys.gate(self.gate_id),), (body, left_ms))
            await self._caller.command("PUBLISH", redis_keys.GATES_CHANNEL, body)
        if self._to_tell is notice:
            self._to_tell = None

    async def _tell_of_opening(self) -> None:
        notice = self._to_open
        if notice is None:
            return
        await self._caller.command("DEL", redis_keys.gate(self.gate_id))
        await self._caller.command("PUBLISH", redis_keys.GATES_CHANNEL, opening(self.gate_id, notice, "its file"))
        if self._to_open is notice:
            self._to_open = None

    async def _read(self) -> None:
        if not self._to_read:
            return
        body = await self._caller.command("GET", redis_keys.gate(self.gate_id))
        self._to_read = False
        if body is not None:
            self.hear(body)
        elif self._heard is not None and self._to_tell is None:
            self._opened()

    def _take(self, notice: GateNotice) -> None:
        if notice.is_over or (self._heard is not None and self._heard.until >= notice.until):
            return
        self._heard = notice
        self._on_change()

    def _opened(self) -> None:
        self._heard = self._to_tell = self._filed = None
        if self._directory is not None:
            with suppress(OSError):
                open_gate(self._directory, self.gate_id)
        self._on_change()
