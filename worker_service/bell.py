"""The bell: every wake-up source rings it, and a rung bell makes the dispatcher look at the queue.

It carries no data. A ring that is lost, doubled or late therefore costs nothing but time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable


class Bell:
    """Rung by any source on the event loop; heard by one listener."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.rung_since: float | None = None
        """When, by the monotonic clock, the ring came that has not been heard yet."""
        self.rings: Counter[str] = Counter()
        """How often each source rang."""
        self.answer: Callable[[], None] | None = None
        """Called by each ring at once, for whoever cannot wait until the listener has its turn."""

    def ring(self, source: str) -> None:
        """Wake the listener, now or as soon as it listens again."""
        self.rings[source] += 1
        if self.rung_since is None:
            self.rung_since = time.monotonic()
        if self.answer is not None:
            self.answer()
        self._rung.set()

    def ring_later(self, seconds: float, source: str = "retry") -> None:
        """Ring after so many seconds."""
        asyncio.get_running_loop().call_later(seconds, self.ring, source)

    @property
    def is_rung(self) -> bool:
        """Whether a ring has not been heard yet."""
        return self._rung.is_set()

    async def heard(self) -> None:
        """Wait for a ring and silence the bell."""
        await self._rung.wait()
        self._rung.clear()
        self.rung_since = None
