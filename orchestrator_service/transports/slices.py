"""Much work in small pieces, so that the loop is never away for long."""

from __future__ import annotations

import asyncio
import time
from typing import Final

SLICE_S: Final = 0.003
"""After so long the loop has its turn."""


class Slices:
    """Knows when it is time to give the loop back."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_S

    async def breathe(self) -> None:
        """Give the loop back if the slice is over."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE_S
