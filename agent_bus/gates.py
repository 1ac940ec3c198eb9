"""Gates: a usage or rate limit holds back every worker that shares the credential.

A gate is a small file named by the credential's fingerprint. It is closed until a moment; when that has come it is
open, and the file means nothing. Whoever removes the file opens the gate before its time.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from agent_bus.files import write_atomic

GATE_SUFFIX: Final = ".json"
_GATE_ID: Final = re.compile(r"[A-Za-z0-9]{1,64}")


def is_gate_id(text: str) -> bool:
    """Tell whether `text` may name a gate, and so a file."""
    return _GATE_ID.fullmatch(text) is not None


class GateNotice(BaseModel):
    """Why tasks are held back, and until when."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    """Which limit: `rate_limit`, `five_hour`, `seven_day`, `overloaded` …"""
    until: datetime
    message: str
    worker: str
    """Who met it first."""
    closed_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether its moment has come."""
        return self.until.timestamp() <= time.time()


class Gate:
    """The gate of one credential, seen by all workers of a shared directory."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.gate_id = fingerprint
        """What the gate is called; the credential cannot be told from it."""
        self._path = directory / f"{fingerprint}{GATE_SUFFIX}"
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
        self._write(notice)

    def _write(self, notice: GateNotice) -> None:
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
        return None if self._notice is None or self._notice.is_over else self._notice


def after_seconds(seconds: float) -> datetime:
    """Return the moment so many seconds from now."""
    return datetime.fromtimestamp(time.time() + seconds, UTC)


def closed_gates(directory: Path) -> dict[str, GateNotice]:
    """Return the notices of all gates of a directory that are closed now, by id; none where there is no directory."""
    found: dict[str, GateNotice] = {}
    with suppress(OSError):
        for path in sorted(directory.glob(f"*{GATE_SUFFIX}")):
            gate_id = path.name.removesuffix(GATE_SUFFIX)
            if is_gate_id(gate_id) and (notice := Gate(directory, gate_id).closed()) is not None:
                found[gate_id] = notice
    return found


def open_gate(directory: Path, gate_id: str) -> bool:
    """Open a gate of a directory before its time; False where there is none. Its workers see it within a second.

    Raises:
        OSError: the file cannot be removed.
    """
    if not is_gate_id(gate_id):
        return False
    try:
        (directory / f"{gate_id}{GATE_SUFFIX}").unlink()
    except FileNotFoundError:
        return False
    return True
