"""Gates: a usage or rate limit holds back every worker that shares the credential.

A gate is a small file named by the credential's fingerprint. It is closed until a moment; when that has come it is
open, and the file means nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agent_bus.files import write_atomic


class GateNotice(BaseModel):
    """Why tasks are held back, and until when."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    """Which limit: `rate_limit`, `five_hour`, `seven_day`, `overloaded` …"""
    until: datetime
    message: str
    worker: str
    """Who met it first."""


class Gate:
    """The gate of one credential, seen by all workers of a shared directory."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self._path = directory / f"{fingerprint}.json"
        self._stamp = (0, 0)
        self._notice: GateNotice | None = None

    def close_until(self, notice: GateNotice) -> None:
        """Hold everything back; a later moment that is announced already stays.

        Raises:
            OSError: the gate cannot be written.
        """
        standing = self.closed()
        if standing is not None and standing.until >= notice.until:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, notice.model_dump_json().encode())

    def closed(self) -> GateNotice | None:
        """Return why nothing may start now, or None."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp != self._stamp:
            self._stamp = stamp
            self._notice = None
            with suppress(OSError, ValidationError):
                self._notice = GateNotice.model_validate_json(self._path.read_bytes())
        if self._notice is None or self._notice.until.timestamp() <= time.time():
            return None
        return self._notice


def after_seconds(seconds: float) -> datetime:
    """Return the moment so many seconds from now."""
    return datetime.fromtimestamp(time.time() + seconds, UTC)
