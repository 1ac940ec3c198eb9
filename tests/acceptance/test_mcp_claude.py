"""The real Claude Code CLI as a client of the team's tools, over HTTP and on standard input and output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.goals.claude_code import find_claude
from orchestrator_service.settings import ApiSettings, Role, Token
from orchestrator_service.team_tools.mcp_mount import make_mcp_app
from tests.integration.api_harness import serving
from tests.standin.messages_api import MessagesApi, Seen, reply, tool_use
from tests.team_desk import TeamDesk

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "a-token-of-sixteen-and-more"


@asynccontextmanager
async def team(tmp_path: Path) -> AsyncIterator[tuple[TeamDesk, dict[str, dict[str, Any]]]]:
    """Serve a team; yields its desk, and the server entries that a user of Claude Code would have."""
    desk = TeamDesk()
    app, running = make_mcp_app(desk)
    tokens = (Token("eve", Role.SUBMIT, SECRET),)
    token_file = tmp_path / "token"
    token_file.write_text(f"{SECRET}\n")
    async with running, serving(desk, ApiSettings(tokens=tokens), mcp=app) as served:
        program = ["-m", "orchestrator_service.cli", "mcp", "--api", served.url, "--token-file", str(token_file)]
        yield (
            desk,
            {
                "http": {
                    "type": "http",
                    "url": f"{served.url}/mcp",
                    "headers": {"Authorization": f"Bearer {SECRET}"},
                },
                "stdio": {"command": sys.executable, "args": program, "env": {"PYTHONPATH": str(REPOSITORY)}},
            },
        )


async def claude(environ: dict[str, str], server: dict[str, Any], prompt: str) -> str:
    """Run one prompt as a user would; returns what Claude Code prints."""
    code = find_claude(None, environ)
    process = await asyncio.create_subprocess_exec(
        str(code.program),
        *("-p", prompt, "--mcp-config", json.dumps({"mcpServers": {"codehornets": server}})),
        *("--strict-mcp-config", "--allowedTools", "mcp__codehornets"),
        cwd=environ["WORKSPACE"],
        env=code.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return out.decode().strip()


def use(name: str, tool_input: dict[str, Any]) -> Any:
    return tool_use(f"mcp__codehornets__{name}", tool_input)


def answer(seen: Seen) -> str:
    (block,) = seen.tool_results
    content = block["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("way", ["http", "stdio"])
async def test_claude_code_delegates_to_the_team(
    api: MessagesApi, claude_environ: dict[str, str], tmp_path: Path, way: str
) -> None:
    api.when(
        "ask the team",
        use("list_workers", {}),
        use("submit_task", {"description": "count the beans", "role": "coder"}),
        use("wait_for_tasks", {"task_ids": ["t1"]}),
        use("send_message", {"to": "paul", "message": "hello"}),
        reply("There are many beans."),
    )
    async with team(tmp_path) as (desk, servers):
        printed = await claude(claude_environ, servers[way], "ask the team about the beans")
    assert printed == "There are many beans."
    workers, submitted, waited, refused = [answer(seen) for seen in api.requests[1:]]
    assert [worker["name"] for worker in json.loads(workers)["workers"]] == ["marie", "anga"]
    assert json.loads(submitted) == {"task_id": "t1", "state": "completed"}
    assert json.loads(waited)["tasks"][0]["output"] == "echo: count the beans"
    assert "there is no worker 'paul'; there are marie, anga." in refused
    assert api.requests[4].tool_results[0]["is_error"] is True
    assert desk.records["t1"].submitted_by == "eve" and desk.orders["t1"].role == "coder"


async def test_without_an_orchestrator_the_command_says_what_is_missing(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator_service.cli", "mcp", "--shared-dir", str(tmp_path)),
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err.decode().startswith("codehornets: `codehornets mcp` needs the orchestrator, and there is none;")
