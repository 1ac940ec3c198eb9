"""How often one may try to log in: after some failures, each further one makes the next wait longer."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

FREE: Final = 5
"""Failures that cost nothing: whoever pastes the wrong token is a person."""
LONGEST_S: Final = 60.0
_FORGOTTEN_S: Final = 900.0
_MOST: Final = 1024


class Attempts:
    """Counts failures by where they come from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, source: str) -> float:
        """Return for how many seconds a source must still wait; 0 means that it may try."""
        failures, at = self._failed.get(source, (0, 0.0))
        since = self._clock() - at
        if failures < FREE or since > _FORGOTTEN_S:
            return 0.0
        return float(max(0.0, min(LONGEST_S, 2.0 ** min(failures - FREE, 10)) - since))

    def failed(self, source: str) -> None:
        """Count a failure."""
        failures, at = self._failed.pop(source, (0, 0.0))
        now = self._clock()
        self._failed[source] = (1 if now - at > _FORGOTTEN_S else failures + 1, now)
        while len(self._failed) > _MOST:
            self._failed.popitem(last=False)

    def succeeded(self, source: str) -> None:
        """Forget a source's failures."""
        self._failed.pop(source, None)
