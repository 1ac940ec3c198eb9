"""Which agent a worker's settings name."""

from __future__ import annotations

from worker_service.agents.base import Agent
from worker_service.agents.echo import EchoAgent
from worker_service.settings import WorkerSettings


class AgentUnavailable(Exception):
    """The agent cannot be used; the text is one sentence with the mend."""


def make_agent(settings: WorkerSettings) -> Agent:
    """Return the agent; an agent's own modules are imported only where it is used.

    Raises:
        AgentUnavailable: something it needs is missing.
    """
    return EchoAgent()
