"""The timer: the only wake-up in polling mode, and the slow net under all others."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

_LARGEST_SHARE: float = 0.1
"""Scans of a huge backlog take time; they are spaced so that they use no more than this share of it."""


class Interval:
    """Ticks at a pace that may change at any time."""

    def __init__(self, *, pace_s: Callable[[], float], cost_s: Callable[[], float], tick: Callable[[], None]) -> None:
        """Call `tick` every `pace_s()` seconds, more rarely when one tick's work takes `cost_s()` long."""
        self._pace_s = pace_s
        self._cost_s = cost_s
        self._tick = tick
        self._changed = anyio.Event()

    @property
    def spacing_s(self) -> float:
        """Seconds from one tick to the next, as things are."""
        return max(self._pace_s(), self._cost_s() / _LARGEST_SHARE)

    def pace_changed(self) -> None:
        """Go by the new pace at once."""
        self._changed.set()

    async def run_forever(self) -> None:
        """Tick until cancelled."""
        last = time.monotonic()
        while True:
            due = last + self.spacing_s
            with anyio.move_on_after(max(0.0, due - time.monotonic())):
                await self._changed.wait()
                self._changed = anyio.Event()
                continue
            last = time.monotonic()
            self._tick()
