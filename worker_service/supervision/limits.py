"""From when on each signal counts, for one task."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from worker_service.settings import SupervisionSettings

_LOOKS_PER_LIMIT: Final = 10
_MOST_BETWEEN_LOOKS_S: Final = 1.0
"""What a signal may be noticed too late by: CPU time does not tell when it was used, only looks do."""
_LEAST_BETWEEN_LOOKS_S: Final = 0.02


class Signal(StrEnum):
    """What can be seen of a task that is stuck."""

    STREAM_SILENCE = "stream_silence"
    """Nothing has come from its process."""
    HOOK_SILENCE = "hook_silence"
    """No hook has been heard of; only where hooks are bridged."""
    IDLE_CPU = "idle_cpu"
    """The processes that work for it use no CPU."""
    LINGERING = "lingering"
    """Its answer is there, and it does not end."""
    REPEATED_TOOL = "repeated_tool"
    """The same tool calls with the same input get the same answers, over and over."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one task."""

    silence_s: float
    """For how long stream, hooks and CPU must all have been silent."""
    linger_s: float
    """How long it may live on after its answer; 0 means any time."""
    repeats: int
    """So often it may repeat itself; 0 means without end."""

    @property
    def look_every_s(self) -> float:
        """Seconds between two looks at the task, so that nothing is noticed much later than its limit says."""
        shortest = min(limit for limit in (self.silence_s, self.linger_s) if limit > 0)
        return min(max(shortest / _LOOKS_PER_LIMIT, _LEAST_BETWEEN_LOOKS_S), _MOST_BETWEEN_LOOKS_S)


def limits_of(settings: SupervisionSettings, stuck_after: float | None) -> Limits | None:
    """Return the limits of a task whose own `stuck_after` is this; None where it is not watched."""
    silence_s = settings.after_s if stuck_after is None else stuck_after
    # A worker without supervision has its agents not say what is needed for it: a task cannot turn it on.
    if silence_s <= 0 or settings.after_s <= 0:
        return None
    return Limits(silence_s=silence_s, linger_s=settings.linger_s, repeats=settings.repeats)
