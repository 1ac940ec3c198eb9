"""Tells for how long processes have used no CPU worth the name, from looks at what they have used so far."""

from __future__ import annotations

from typing import Final

_SPILL_S: Final = 0.1
"""So much CPU time beyond what idling takes is work: a timer or a garbage collection is less."""


class IdleClock:
    """A leaky bucket: what is used goes in, what idling may take runs out, and what spills over is work."""

    def __init__(self, now: float, used_s: float, *, idle_share: float) -> None:
        """Begin at `now` with what was used by then; `idle_share` is the share of one CPU that idling may take."""
        self._idle_share = idle_share
        self._seen_at = now
        self._used_s = used_s
        self._level_s = 0.0
        self.worked_at = now
        """When it was last seen that they had worked."""

    def look(self, now: float, used_s: float) -> None:
        """Take in what has been used by now."""
        gained = max(0.0, used_s - self._used_s) - self._idle_share * (now - self._seen_at)
        self._level_s = max(0.0, self._level_s + gained)
        self._seen_at, self._used_s = now, max(used_s, self._used_s)
        if self._level_s > _SPILL_S:
            self._level_s = 0.0
            self.worked_at = now
