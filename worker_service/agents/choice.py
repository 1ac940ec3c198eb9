"""Which agent a worker's settings name."""

from __future__ import annotations

import logging

from worker_service.agents.base import Agent
from worker_service.agents.claude import ClaudeAgent
from worker_service.agents.claude_command import find_cli, style_flags
from worker_service.agents.command import CommandAgent
from worker_service.agents.echo import EchoAgent
from worker_service.isolation import IsolationImpossible, judge_isolation
from worker_service.settings import AgentKind, WorkerSettings

log = logging.getLogger(__name__)


class AgentUnavailable(Exception):
    """The agent cannot be used; the text is one sentence with the mend."""


def make_agent(settings: WorkerSettings) -> Agent:
    """Return the agent that the settings name.

    Raises:
        AgentUnavailable: something it needs is missing.
    """
    match settings.agent:
        case AgentKind.ECHO:
            return EchoAgent()
        case AgentKind.COMMAND:
            return CommandAgent(settings.command, environment=settings.agent_environment, workspace=settings.workspace)
        case AgentKind.CLAUDE:
            cli = find_cli(settings.claude, settings.agent_environment)
            if cli is None:
                raise AgentUnavailable(
                    "No Claude Code was found; install claude-agent-sdk, which brings it, or set CLAUDE_CLI."
                )
            try:
                style_flags(settings.claude.output_style)
            except OSError as error:
                raise AgentUnavailable(
                    f"OUTPUT_STYLE is {settings.claude.output_style!r}, which cannot be read: {error.strerror}."
                ) from error
            try:
                isolation = judge_isolation(settings)
            except IsolationImpossible as error:
                raise AgentUnavailable(str(error)) from error
            log.info("%s", isolation.text, extra={"action": "isolation", "isolated": isolation.isolated})
            return ClaudeAgent(settings, cli, isolation)
