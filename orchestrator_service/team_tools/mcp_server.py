"""The team's tools over MCP: on standard input and output, over streamable HTTP, and inside a goal's agent.

Importing this takes most of a second and some memory; whoever may not need it imports it where it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from agent_bus import VERSION
from orchestrator_service.desk import Asker
from orchestrator_service.team_tools.tools import AnsweringDesk, TeamTools, ToolRefused

log = logging.getLogger(__name__)

SERVER_NAME: Final = "codehornets"
_INSTRUCTIONS: Final = (
    "A team of AI workers, each with a role and skills. Delegate to them: look who is there (list_workers), hand in "
    "tasks (submit_task), wait for them (wait_for_tasks) and use what they bring back. Workers see nothing of this "
    "conversation, so each task must say everything it needs."
)

Context = ServerRequestContext[Any, Any]


def make_server(tools_for: Callable[[Context], TeamTools], name: str = SERVER_NAME) -> Server[Any]:
    """Return a server of the team's tools; `tools_for` says with whose tools a request is answered."""

    async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.schema(),
                    annotations=types.ToolAnnotations(read_only_hint=tool.reads_only, open_world_hint=False),
                )
                for tool in tools_for(context).tools
            ]
        )

    async def call_tool(context: Context, asked: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            answer = await tools_for(context).call(
                asked.name, dict(asked.arguments or {}), context.session.report_progress
            )
        except ToolRefused as refused:
            return _answer(str(refused), is_error=True)
        except Exception:
            log.exception("the tool %s failed", asked.name, extra={"action": "tool_failed"})
            return _answer("The orchestrator could not do this; its log says why.", is_error=True)
        return _answer(answer)

    return Server(name, version=VERSION, instructions=_INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool)


def _answer(text: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=is_error)


def http_manager(desk: AnsweringDesk) -> StreamableHTTPSessionManager:
    """Return what serves MCP over HTTP, in its stateless form: any request can be the first after a restart.

    Who asks is found in the request's scope, `scope["state"]["asker"]`, and whether they may answer the questions of
    agents in `scope["state"]["may_answer"]`.
    """

    def tools_for(context: Context) -> TeamTools:
        request: Any = context.request
        asker: Asker = request.scope["state"]["asker"]
        answering = desk if request.scope["state"].get("may_answer") else None
        return TeamTools(desk, replace(asker, origin="mcp"), answering)

    # Hosts, origins and tokens were looked at before the request came here.
    trusting = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return StreamableHTTPSessionManager(make_server(tools_for), stateless=True, security_settings=trusting)


async def serve_stdio(tools: TeamTools) -> None:
    """Serve one client on standard input and output until it leaves."""
    server = make_server(lambda _: tools)
    async with stdio_server() as (requests, answers):
        await server.run(requests, answers, server.create_initialization_options())
