"""Live events for any number of listeners, none of which can slow another.

The last events are kept once, for all; a listener has a position and no queue. One that falls so far behind that its
position is gone reads on from the ledger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from orchestrator_service.scheduling.step import Happening

KEPT: Final = 4096


class EventHub:
    """The newest events, and a way to wait for more."""

    def __init__(self, read_after: Callable[[int, int], Awaitable[list[Happening]]], last: int = 0) -> None:
        """Begin behind event `last`.

        Args:
            read_after: Reads so many events behind a number from the ledger.
            last: The number of the newest event that there is.
        """
        self._read_after = read_after
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self.last = last
        """The number of the newest event."""
        self._before_kept = last
        self._news = asyncio.Event()
        self._closed = False

    def publish(self, happenings: Iterable[Happening]) -> None:
        """Tell of events, in the order of their numbers."""
        for happening in happenings:
            if happening.seq <= self.last:
                continue
            if len(self._kept) == KEPT:
                self._before_kept = self._kept[0].seq
            self._kept.append(happening)
            self.last = happening.seq
        self._wake()

    def close(self) -> None:
        """Let every listener come to its end."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, position: int) -> list[Happening]:
        """Return events behind `position`, waiting until there are some; nothing when the hub is closed."""
        while not self._closed:
            if position < self.last:
                if position < self._before_kept:
                    return await self._read_after(position, KEPT)
                # Listeners that keep up look at the few newest.
                found: list[Happening] = []
                for happening in reversed(self._kept):
                    if happening.seq <= position:
                        break
                    found.append(happening)
                return found[::-1]
            await self._news.wait()
        return []
