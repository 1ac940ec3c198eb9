"""What a worker says of itself: alive, ready, and how it is. Each answer is computed when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker_service.agents.base import Agent
from worker_service.dispatcher import Dispatcher
from worker_service.probe import Prober
from worker_service.wakeups.watcher import Watcher

STUCK_AFTER_S: Final = 10.0
"""A dispatcher that has not heard its bell for this long will not hear it any more."""


@dataclass(frozen=True)
class Finding:
    """One part's state."""

    part: str
    well: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.well else 'FAIL'} {self.part}: {self.text}"


class Health:
    """Looks at the parts. Liveness is about this process alone; readiness about whether a task would be taken."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        watcher: Watcher,
        prober: Prober,
        agent: Agent,
        isolation: str | None = None,
        stuck_after_s: float = STUCK_AFTER_S,
    ) -> None:
        self._dispatcher = dispatcher
        self._watcher = watcher
        self._prober = prober
        self._agent = agent
        self._isolation = isolation
        self.stuck_after_s = stuck_after_s
        """Seconds without a move after which the dispatcher counts as stuck."""

    def liveness(self) -> list[Finding]:
        """Judge what only a restart could mend. That the loop runs is proven by there being an answer."""
        stuck = self._dispatcher.stuck_seconds()
        overdue = self._prober.overdue_s
        age = self._prober.age_s
        return [
            Finding("loop", True, "answers"),
            Finding(
                "dispatcher",
                stuck < self.stuck_after_s,
                "hears the bell" if stuck < self.stuck_after_s else f"has not moved for {stuck:.0f} s",
            ),
            Finding(
                "watcher",
                self._watcher.is_alive,
                f"bells: {', '.join(self._watcher.bells)}" if self._watcher.is_alive else "has ended",
            ),
            Finding(
                "probe",
                overdue == 0.0,
                f"overdue by {overdue:.0f} s" if overdue else "none yet" if age is None else f"{age:.0f} s ago",
            ),
        ]

    def readiness(self) -> list[Finding]:
        """Judge whether a task would be taken now."""
        trouble = self._dispatcher.trouble()
        agent_trouble = self._agent.statement()
        fallback = self._watcher.fallback_reason
        free = self._dispatcher.free_slots
        findings = self.liveness()
        findings.append(Finding("queue", trouble is None, trouble or f"{free} slot{'' if free == 1 else 's'} free"))
        findings.append(
            Finding("agent", agent_trouble is None, agent_trouble or f"{self._agent.name} {self._processes()}".strip())
        )
        if self._isolation is not None:
            findings.append(Finding("isolation", True, self._isolation))
        if fallback is not None:
            # Slower, but it works: a fall-back is shown and does not make the worker unready.
            findings.append(Finding("wake-ups", True, f"polling, since {fallback}"))
        return findings

    def _processes(self) -> str:
        counts = self._agent.processes()
        return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()) if number)
