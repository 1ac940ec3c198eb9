"""Sessions: tasks that name the same session share a conversation, one at a time, across all replicas."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent_bus.files import write_atomic
from agent_bus.ownership import try_lock

_LONGEST_HOLDER_BYTES: Final = 255


class SessionStore:
    """Which conversation each session has, and the lock of whoever works in it now.

    The lock is a `flock`: when its holder dies, the session is free.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, session: str, suffix: str) -> Path:
        # A session's name is any text, so its file is named by digest.
        return self._directory / f"{hashlib.sha256(session.encode()).hexdigest()[:32]}{suffix}"

    def lock(self, session: str) -> int | None:
        """Take the session; None while another worker has it. Give it back with `unlock`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        return try_lock(self._path(session, ".lock"))

    @staticmethod
    def unlock(descriptor: int) -> None:
        """Give the session back, in good order."""
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)

    @staticmethod
    def holder(descriptor: int) -> str:
        """Return who had the session before and did not give it back, or an empty text."""
        return os.pread(descriptor, _LONGEST_HOLDER_BYTES, 0).decode("utf-8", "replace")

    @staticmethod
    def set_holder(descriptor: int, instance: str) -> None:
        """Note who has the session, for whoever takes it after a kill; a full disk costs the note alone."""
        with suppress(OSError):
            os.pwrite(descriptor, instance.encode(), 0)
            os.ftruncate(descriptor, len(instance.encode()))

    def conversation(self, session: str) -> str | None:
        """Return the id of the session's conversation, or None when it has none yet."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._path(session, ".json").read_bytes())["session_id"])
        return None

    def remember(self, session: str, session_id: str) -> None:
        """Store the id of the session's conversation."""
        body = {"session": session, "session_id": session_id}
        write_atomic(self._path(session, ".json"), json.dumps(body).encode())
