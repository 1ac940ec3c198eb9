"""The live events on `hooks:NAME`, heard without asyncio, and with a question now and then whether Redis lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from agent_bus.redis.keys import HOOKS_PREFIX, WorkerKeys
from agent_bus.redis.url import COMMAND_TIMEOUT_S

_PING_S: Final = 5.0
"""After so long a silence Redis is asked for a sign of life."""


class Subscription:
    """The events of one worker or of all, from the moment on in which this is made. Made by `RedisClient.listen`."""

    def __init__(self, redis: Any, worker: str | None, explained: Callable[[], AbstractContextManager[None]]) -> None:
        """Subscribe, and wait until Redis says that it is done: what is published after this is heard."""
        self._explained = explained
        self._pinged_at: float | None = None
        with explained():
            self._pubsub: Any = redis.pubsub()
            try:
                if worker is None:
                    self._pubsub.psubscribe(f"{HOOKS_PREFIX}*")
                else:
                    self._pubsub.subscribe(WorkerKeys(worker).hooks)
                if self._pubsub.get_message(timeout=COMMAND_TIMEOUT_S) is None:
                    raise TimeoutError
            except BaseException:
                self._pubsub.close()
                raise
        self._heard_at = time.monotonic()

    def next(self, within_s: float) -> tuple[str, bytes] | None:
        """Return (worker, event as JSON), or None when none came within so many seconds.

        Raises:
            QueueUnavailable: Redis is gone, or gives no sign of life.
        """
        deadline = time.monotonic() + within_s
        with self._explained():
            while True:
                now = time.monotonic()
                due = self._heard_at + _PING_S if self._pinged_at is None else self._pinged_at + COMMAND_TIMEOUT_S
                message = self._pubsub.get_message(timeout=max(0.0, min(deadline, due) - now))
                now = time.monotonic()
                if message is not None:
                    self._heard_at, self._pinged_at = now, None
                    if message["type"] in ("message", "pmessage"):
                        return message["channel"].decode().removeprefix(HOOKS_PREFIX), message["data"]
                elif now >= due:
                    if self._pinged_at is not None:
                        raise TimeoutError
                    self._pinged_at = now
                    self._pubsub.ping()
                if now >= deadline:
                    return None

    def close(self) -> None:
        """Close the connection."""
        self._pubsub.close()
