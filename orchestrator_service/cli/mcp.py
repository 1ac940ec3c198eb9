"""`codehornets mcp`: the team's tools for a Claude Code of one's own, on standard input and output."""

from __future__ import annotations

import os
from pathlib import Path

import anyio

from agent_bus.heartbeats import is_alive, read_heartbeat
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import place_of_shared_dir
from orchestrator_service.settings import orchestrator_heartbeat

_MEND = "start it with `codehornets up`, or name its API with --api or CODEHORNETS_URL"


def run_mcp(api: str | None, *, token_file: Path | None, shared_dir: Path | None) -> int:
    """Serve the tools until the client leaves.

    Raises:
        UserError: there is no orchestrator, or the token cannot be read.
    """
    url = api or os.environ.get("CODEHORNETS_URL") or _discovered(shared_dir)
    if url is None:
        raise UserError(f"`codehornets mcp` needs the orchestrator, and there is none; {_MEND}.")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--api is {url[:80]!r}; allowed is a URL such as http://127.0.0.1:8700.")
    anyio.run(_serve, url, _token(token_file))
    return 0


async def _serve(url: str, token: str | None) -> None:
    from orchestrator_service.desk import Asker
    from orchestrator_service.mcp_server import serve_stdio
    from orchestrator_service.remote_tools import RemoteDesk
    from orchestrator_service.team_tools import TeamTools

    async with RemoteDesk(url, token) as desk:
        # In the ledger it is whom the token stands for; this names the standing conversations.
        await serve_stdio(TeamTools(desk, Asker(name=os.environ.get("USER") or "local", origin="mcp")))


def _discovered(shared_dir: Path | None) -> str | None:
    path = orchestrator_heartbeat(place_of_shared_dir(shared_dir))
    beat = read_heartbeat(path) if path.exists() else None
    if beat is None or not beat.http_port or not is_alive(beat):
        return None
    return f"http://127.0.0.1:{beat.http_port}"


def _token(path: Path | None) -> str | None:
    if path is None and (token := os.environ.get("API_TOKEN")):
        return _checked(token, "API_TOKEN")
    named = path or (Path(text) if (text := os.environ.get("API_TOKEN_FILE")) else None)
    if named is None:
        return None
    try:
        return _checked(named.read_text(encoding="utf-8"), str(named))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The token file {str(named)!r} cannot be read: {error}; name a readable file.") from None


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{source} holds no token; allowed are printable ASCII characters without spaces.")
    return token
