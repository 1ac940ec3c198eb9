"""Sessions of the dashboard: who has logged in, known by what a cookie holds, never by the token itself.

Only digests are kept. The file lets a page that is open survive a restart of the orchestrator; a session in it is good
only while the token it was opened with is the same one, which can be checked with the cookie's secret alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

COOKIE: Final = "codehornets_session"
MOST_SESSIONS: Final = 1000
"""The one that ends first makes room for one more."""


@dataclass
class Session:
    """Somebody who has logged in."""

    digest: str
    name: str
    """The token's."""
    proof: str
    """Made of the cookie's secret and the token."""
    expires_at: float
    """Seconds since 1970."""
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)
    """Set when it is closed, so that live channels end with it."""


class Sessions:
    """The open sessions."""

    def __init__(
        self,
        tokens: Mapping[str, bytes],
        *,
        lasts_s: float,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take up what is in the file.

        Args:
            tokens: The digest of each token, by its name.
            lasts_s: So long a session lasts.
            file: Where sessions outlive this process; None keeps them in memory alone.
            clock: Gives seconds since 1970.
        """
        self._tokens, self._lasts_s, self._file, self._clock = tokens, lasts_s, file, clock
        self._open = {one.digest: one for one in _read(file) if one.expires_at > clock()}

    def open(self, name: str) -> tuple[str, float]:
        """Open a session for a token's name; returns the cookie's secret, and for how many seconds it is good."""
        secret = secrets.token_urlsafe(32)
        self._tidy()
        made = Session(_digest(secret), name, self._proof(secret, name), self._clock() + self._lasts_s)
        self._open[made.digest] = made
        self._write()
        return secret, self._lasts_s

    def find(self, secret: str) -> Session | None:
        """Return the session that a cookie stands for; None if it is none, is over, or its token has changed."""
        found = self._open.get(_digest(secret))
        if found is None or found.expires_at <= self._clock():
            return None
        return found if hmac.compare_digest(found.proof, self._proof(secret, found.name)) else None

    def close(self, secret: str) -> None:
        """End a session; one that is not there is ended already."""
        found = self._open.pop(_digest(secret), None)
        if found is not None:
            found.ended.set()
            self._write()

    def left_s(self, session: Session) -> float:
        """Return for how many seconds a session is still good."""
        return max(0.0, session.expires_at - self._clock())

    def _proof(self, secret: str, name: str) -> str:
        return hmac.new(secret.encode("utf-8", "replace"), self._tokens.get(name, b""), hashlib.sha256).hexdigest()

    def _tidy(self) -> None:
        now = self._clock()
        for digest in [digest for digest, one in self._open.items() if one.expires_at <= now]:
            del self._open[digest]
        while len(self._open) >= MOST_SESSIONS:
            first = min(self._open.values(), key=lambda one: one.expires_at)
            first.ended.set()
            del self._open[first.digest]

    def _write(self) -> None:
        if self._file is None:
            return
        kept = [[one.digest, one.name, one.proof, one.expires_at] for one in self._open.values()]
        staged = self._file.with_suffix(".tmp")
        try:
            with open(staged, "w", encoding="utf-8", opener=_for_the_owner) as file:
                json.dump(kept, file)
            staged.replace(self._file)
        except OSError as error:
            log.warning("sessions cannot be kept: %s", error, extra={"action": "sessions_unwritable"})


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _read(file: Path | None) -> list[Session]:
    if file is None:
        return []
    try:
        rows = json.loads(file.read_bytes())
        return [Session(str(digest), str(name), str(proof), float(at)) for digest, name, proof, at in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        # Whoever was logged in logs in again.
        log.warning("sessions cannot be read: %s", error, extra={"action": "sessions_unreadable"})
        return []
