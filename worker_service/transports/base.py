"""What a transport is to the worker: a queue, the bells that ring for it, and how both of them are."""

from __future__ import annotations

from typing import Protocol

from service_kit.findings import Finding


class Transport(Protocol):
    """One way by which tasks come."""

    @property
    def bells(self) -> list[str]:
        """The wake-up sources in force."""

    @property
    def probe_age_s(self) -> float | None:
        """Seconds since it was last proven that what comes is heard; None before the first time."""

    def liveness(self) -> list[Finding]:
        """Judge what only a restart of the worker could mend."""

    def readiness(self) -> list[Finding]:
        """Judge whether tasks come in; what is slower than usual and works is told, and well."""

    def start(self) -> int:
        """Take over what dead owners left; returns how many tasks that were."""

    def wake(self) -> None:
        """Look at the queue now, as if a bell had been missed."""

    async def run_forever(self) -> None:
        """Serve the queue and its bells until cancelled."""

    async def aclose(self) -> None:
        """Give back what is still held."""
