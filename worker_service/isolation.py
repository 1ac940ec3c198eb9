"""Whether this worker's agents run their shell commands isolated, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

from agent_bus.isolation import isolation_trouble, mode_trouble
from worker_service.settings import Isolation, WorkerSettings


@dataclass(frozen=True)
class IsolationVerdict:
    """What came of the look at the platform."""

    isolated: bool
    text: str
    """One sentence: how shell commands run, and where they are not isolated what is missing."""


class IsolationImpossible(Exception):
    """`AGENT_ISOLATION` is on and it cannot be; the text is one sentence with the mend."""


def judge_isolation(settings: WorkerSettings) -> IsolationVerdict:
    """Try out what isolation needs, unless it is turned off.

    Raises:
        IsolationImpossible: it must be, and cannot.
    """
    wanted = settings.claude.isolation
    if wanted is Isolation.OFF:
        return IsolationVerdict(
            False, "AGENT_ISOLATION is off: shell commands see what the agent sees, its key as well"
        )
    # The mode first: where it rules isolation out there is nothing to try.
    trouble = mode_trouble(settings.claude.permission_mode) or isolation_trouble(settings.agent_environment.get("PATH"))
    if trouble is None:
        return IsolationVerdict(True, "shell commands run isolated, without the agent's key")
    if wanted is Isolation.ON:
        raise IsolationImpossible(f"AGENT_ISOLATION is 'on', and it cannot be: {trouble}")
    return IsolationVerdict(False, f"shell commands are not isolated and see the agent's key: {trouble}")
