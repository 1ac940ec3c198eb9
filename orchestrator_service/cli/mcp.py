"""`codehornets mcp`: the team's tools for a Claude Code of one's own, on standard input and output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

from orchestrator_service.cli.api_place import need_api
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace


def run_mcp(where: Where) -> int:
    """Serve the tools until the client leaves.

    Raises:
        UserError: there is no orchestrator, or the token cannot be read.
    """
    anyio.run(_serve, need_api(where, "`codehornets mcp`"))
    return 0


async def _serve(place: ApiPlace) -> None:
    from orchestrator_service.desk import Asker
    from orchestrator_service.team_tools.mcp_server import serve_stdio
    from orchestrator_service.team_tools.remote import RemoteDesk
    from orchestrator_service.team_tools.tools import TeamTools

    async with RemoteDesk(place) as desk:
        # In the ledger it is whom the token stands for; this names the standing conversations.
        asker = Asker(name=os.environ.get("USER") or "local", origin="mcp")
        await serve_stdio(TeamTools(desk, asker, desk if await desk.may_answer() else None))
