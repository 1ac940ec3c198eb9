"""What a worker says of itself: alive, ready, and how it is. Each answer is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from service_kit.findings import Finding
from worker_service.agents.base import Agent
from worker_service.dispatcher import Dispatcher
from worker_service.transports.base import Transport

STUCK_AFTER_S: Final = 10.0
"""A dispatcher that has not heard its bell for this long will not hear it any more."""


class Health:
    """Looks at the parts. Liveness is about this process alone; readiness about whether a task would be taken."""

    def __init__(
        self,
        *,
        mode: str,
        dispatcher: Dispatcher,
        agent: Agent,
        transports: Sequence[Transport],
        bells: Callable[[], list[str]],
        stuck_after_s: float = STUCK_AFTER_S,
    ) -> None:
        self._mode = mode
        self._dispatcher = dispatcher
        self._agent = agent
        self._transports = transports
        self._bells = bells
        self.others: list[Callable[[], Finding]] = []
        """Further parts that readiness asks."""
        self.stuck_after_s = stuck_after_s
        """Seconds without a move after which the dispatcher counts as stuck."""

    def liveness(self) -> list[Finding]:
        """Judge what only a restart could mend. That the loop runs is proven by there being an answer."""
        stuck = self._dispatcher.stuck_seconds()
        findings = [
            Finding("loop", True, "answers"),
            Finding(
                "dispatcher",
                stuck < self.stuck_after_s,
                "hears the bell" if stuck < self.stuck_after_s else f"has not moved for {stuck:.0f} s",
            ),
        ]
        for transport in self._transports:
            findings += transport.liveness()
        return findings

    def readiness(self) -> list[Finding]:
        """Judge whether a task would be taken now."""
        trouble = self._dispatcher.trouble()
        agent_trouble = self._agent.statement()
        free = self._dispatcher.free_slots
        findings = self.liveness()
        findings.append(Finding("mode", True, f"{self._mode}, woken by {', '.join(self._bells())}"))
        findings.append(Finding("queue", trouble is None, trouble or f"{free} slot{'' if free == 1 else 's'} free"))
        findings.append(
            Finding("agent", agent_trouble is None, agent_trouble or f"{self._agent.name} {self._processes()}".strip())
        )
        for transport in self._transports:
            findings += transport.readiness()
        return findings + [ask() for ask in self.others]

    def _processes(self) -> str:
        counts = self._agent.processes()
        return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()) if number)
