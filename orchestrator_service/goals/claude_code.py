"""Claude Code as the orchestrator agent uses it: which program, with which flags, in which environment."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_bus.claude_credentials import find_credential
from orchestrator_service.errors import Unavailable
from service_kit.agent_environment import agent_environment

TEAM_SERVER: Final = "team"
"""What the agent calls the server of its tools."""
_LONGEST_TOOL_MS: Final = 900_000
"""Longer than anybody can wait for tasks in one go."""


@dataclass(frozen=True, kw_only=True)
class ClaudeCode:
    """A program that can be started, and what it is given of this process's environment."""

    program: Path
    environment: dict[str, str]
    cost_is_notional: bool = False
    """Whether a subscription covers what it costs."""


def find_claude(cli: Path | None, environ: Mapping[str, str]) -> ClaudeCode:
    """Return Claude Code, ready to be started.

    Args:
        cli: The program; None means the one that the SDK brings, else `claude` on the PATH.
        environ: What of it an agent may see is chosen here.

    Raises:
        Unavailable: there is no program, or it could not log in.
    """
    environment = agent_environment(environ)
    program = cli or _bundled() or _on_path(environment)
    if program is None:
        raise Unavailable("A goal needs Claude Code, and there is none here: install it, or name it in CLAUDE_CLI.")
    if not os.access(program, os.X_OK):
        raise Unavailable(f"A goal needs Claude Code, and {program} cannot be run: name it in CLAUDE_CLI.")
    credential = find_credential(environment)
    if credential is None:
        raise Unavailable(
            "A goal needs Claude Code to be logged in, and it is not: give the orchestrator ANTHROPIC_API_KEY or "
            "CLAUDE_CODE_OAUTH_TOKEN, or log in with `claude`."
        )
    # Of a user's own settings none is meant for this agent; a tool that waits must not be taken for one that hangs.
    own = {"CLAUDE_CODE_ENTRYPOINT": "sdk-py", "MCP_TOOL_TIMEOUT": str(_LONGEST_TOOL_MS)}
    return ClaudeCode(program=program, environment={**environment, **own}, cost_is_notional=credential.is_subscription)


def _bundled() -> Path | None:
    # The SDK is not imported for this: that takes most of a second.
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "_bundled" / "claude"
    return bundled if bundled.is_file() else None


def _on_path(environment: Mapping[str, str]) -> Path | None:
    found = shutil.which("claude", path=environment.get("PATH", os.defpath))
    return None if found is None else Path(found).absolute()


def command_line(
    program: Path,
    *,
    session_id: str,
    resume: bool,
    system_prompt: str,
    model: str | None,
    max_budget_usd: float | None,
) -> list[str]:
    """Return the command of an agent that has the team's tools, and no others."""
    servers = {"mcpServers": {TEAM_SERVER: {"type": "sdk", "name": TEAM_SERVER}}}
    command = [str(program), "--output-format=stream-json", "--verbose", "--input-format=stream-json"]
    # One word for flag and value: no value can then be taken for a flag.
    command.append(f"--resume={session_id}" if resume else f"--session-id={session_id}")
    command.append(f"--system-prompt={system_prompt}")
    command += ["--tools=", f"--allowedTools=mcp__{TEAM_SERVER}", "--permission-mode=dontAsk"]
    command += [f"--mcp-config={json.dumps(servers)}", "--strict-mcp-config", "--setting-sources="]
    if model is not None:
        command.append(f"--model={model}")
    if max_budget_usd is not None:
        command.append(f"--max-budget-usd={max_budget_usd:.6f}")
    return command
