"""The orchestrator agent of one goal: a Claude session with the team's tools, in a process of its own.

Importing this imports the SDK and the MCP library, which takes most of a second: `goal_run` waits for the first goal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    CLIConnectionError,
    Message,
    ResultMessage,
    SystemMessage,
    TextBlock,
    ToolUseBlock,
)

from orchestrator_service.goals.claude_code import TEAM_SERVER
from orchestrator_service.goals.process import GoalProcess
from orchestrator_service.goals.turn import AgentGone, Audience, Turn
from orchestrator_service.team_tools.mcp_server import make_server
from orchestrator_service.team_tools.tools import TeamTools

_CONNECT_S: Final = 60.0
_INTERRUPT_S: Final = 3.0
_ERROR_KINDS: Final = {"error_max_budget_usd": "max_budget", "error_max_turns": "max_turns"}
_LOGIN_RETRIES: Final = 2
_BUSY: Final = frozenset((429, 500, 502, 503, 504, 529))


class _LoginRefused(Exception):
    """Going on makes no sense: Claude Code would ask for minutes and get the same answer."""


class GoalAgent:
    """A living agent. Made by `open_agent`."""

    def __init__(
        self,
        client: ClaudeSDKClient,
        process: GoalProcess,
        audience: Audience,
    ) -> None:
        self._client = client
        self._process = process
        self._audience = audience

    async def take_turn(self, prompt: str, turn: Turn) -> None:
        """Say something to the agent, and take its answer into `turn`, up to its end.

        Cancelled, it interrupts the agent in good order, so that its transcript is whole and its cost is known.

        Raises:
            AgentGone: the process ended before its answer did.
        """
        try:
            await self._client.query(prompt)
            if not await self._hear(turn):
                raise CLIConnectionError("it ended before it answered")
        except _LoginRefused as error:
            await self._interrupt(turn)
            turn.error_kind, turn.error, turn.busy = "authentication_failed", str(error), False
        except Exception as error:  # the SDK raises more kinds than its own
            raise self.gone(error) from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._interrupt(turn)
            raise

    async def _interrupt(self, turn: Turn) -> None:
        with anyio.move_on_after(_INTERRUPT_S), suppress(Exception):
            await self._client.interrupt()
            await self._hear(turn)

    async def _hear(self, turn: Turn) -> bool:
        async for message in self._client.receive_messages():
            self._take(message, turn)
            if isinstance(message, ResultMessage):
                return True
        return False

    def _take(self, message: Message, turn: Turn) -> None:
        if isinstance(message, AssistantMessage):
            if message.usage and message.message_id:
                turn.usages[message.message_id] = message.usage
            for block in message.content:
                if isinstance(block, TextBlock) and block.text.strip():
                    turn.said.append(block.text)
                    turn.text = "\n\n".join(turn.said)
                    self._audience.on_text(block.text)
                elif isinstance(block, ToolUseBlock):
                    self._audience.on_tool(block.name.removeprefix(f"mcp__{TEAM_SERVER}__"), block.input)
        elif isinstance(message, SystemMessage) and message.subtype == "api_retry":
            self._take_retry(message.data)
        elif isinstance(message, ResultMessage):
            turn.cost_usd = message.total_cost_usd
            turn.usage = message.usage
            if message.is_error:
                turn.error = message.result or "; ".join(message.errors or []) or message.subtype
                turn.busy = message.api_error_status in _BUSY
                kind = "authentication_failed" if message.api_error_status in (401, 403) else "api_error"
                turn.error_kind = _ERROR_KINDS.get(
                    message.subtype, kind if message.api_error_status is not None else "execution_error"
                )
            else:
                turn.text = message.result or ""

    def _take_retry(self, data: dict[str, Any]) -> None:
        status, attempt = data.get("error_status"), int(data.get("attempt") or 1)
        if status in (401, 403) and attempt >= _LOGIN_RETRIES:
            raise _LoginRefused(f"The API refuses the credential (HTTP {status}); mend the login or key.")
        wait_s = float(data.get("retry_delay_ms") or 0) / 1000
        self._audience.on_wait(f"The API answered with HTTP {status}; Claude Code asks again in {wait_s:.0f} s.")

    def gone(self, error: Exception) -> AgentGone:
        """Say why the agent cannot be talked to any more."""
        reason = (self._process.last_words or str(error) or type(error).__name__).rstrip(".")
        return AgentGone(f"The Claude process of the goal is gone: {reason}.")


@asynccontextmanager
async def open_agent(
    command: list[str],
    *,
    environment: dict[str, str],
    directory: Path,
    session_id: str,
    tools: TeamTools,
    audience: Audience,
) -> AsyncIterator[GoalAgent]:
    """Start an agent for the length of the block.

    Raises:
        AgentGone: it could not be started.
    """
    process = GoalProcess(command, environment=environment, directory=directory, session_id=session_id)
    server = make_server(lambda _: tools, TEAM_SERVER)
    # Prompts are text: `verbatim_prompts` keeps `/words` and `@paths` in them from being acted on.
    options = ClaudeAgentOptions(
        verbatim_prompts=True, mcp_servers={TEAM_SERVER: {"type": "sdk", "name": TEAM_SERVER, "instance": server}}
    )
    client = ClaudeSDKClient(options, transport=process)
    agent = GoalAgent(client, process, audience)
    try:
        try:
            await _connect(client, process)
        except Exception as error:  # the SDK raises more kinds than its own
            raise agent.gone(error) from error
        yield agent
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(Exception):
                await client.disconnect()
            await process.close()


async def _connect(client: ClaudeSDKClient, process: GoalProcess) -> None:
    """Connect, or fail as soon as the process ends: the SDK would wait for the answer of one that is gone."""
    await process.connect()
    failure: Exception | None = CLIConnectionError("it ended before it answered")

    async def stop_when_gone(scope: anyio.CancelScope) -> None:
        await process.wait()
        scope.cancel()

    with anyio.fail_after(_CONNECT_S):
        async with anyio.create_task_group() as race:
            race.start_soon(stop_when_gone, race.cancel_scope)
            try:
                await client.connect()
                failure = None
            except Exception as error:
                failure = error
            race.cancel_scope.cancel()
    if failure is not None:
        raise failure
