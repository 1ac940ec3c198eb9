"""What a command that goes on for long does while Redis or the API is away: say so once, and try again."""

from __future__ import annotations

import random
import sys
from typing import Final

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0


class Patience:
    """Tells once that it is away, and for how long to leave it alone."""

    def __init__(self, who: str = "Redis") -> None:
        self._who = who
        self._pause_s = 0.0

    def say(self, error: Exception) -> None:
        """Tell that it is away, where somebody else takes care of the next try."""
        self.lost(error)

    def lost(self, error: Exception) -> float:
        """Return the seconds until the next try."""
        if not self._pause_s:
            print(f"codehornets: {error}; trying again …", file=sys.stderr, flush=True)
        self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        return random.uniform(self._pause_s / 2, self._pause_s)

    def answered(self) -> None:
        """Tell that it is back, if it was away."""
        if self._pause_s:
            print(f"codehornets: {self._who} is back.", file=sys.stderr, flush=True)
        self._pause_s = 0.0
