"""MCP behind the API, and the tools over the API, with the library's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from orchestrator_service.client.calls import ApiPlace
from orchestrator_service.desk import Asker
from orchestrator_service.settings import ApiSettings, Role, Token
from orchestrator_service.team_tools.mcp_mount import make_mcp_app
from orchestrator_service.team_tools.remote import RemoteDesk
from orchestrator_service.team_tools.tools import TeamTools, ToolRefused
from tests.integration.api_harness import Served, serving
from tests.team_desk import TeamDesk

SECRET = "a-token-of-sixteen-and-more"
TOKENS = (Token("eve", Role.SUBMIT, SECRET), Token("rob", Role.READ, "r" * 20))


@dataclass
class Place:
    served: Served
    desk: TeamDesk

    @asynccontextmanager
    async def client(self, token: str = SECRET, mode: Literal["auto", "legacy"] = "auto") -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            transport = streamable_http_client(f"{self.served.url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                yield client


@asynccontextmanager
async def serving_mcp() -> AsyncIterator[Place]:
    desk = TeamDesk()
    app, running = make_mcp_app(desk)
    async with running, serving(desk, ApiSettings(tokens=TOKENS), mcp=app) as served:
        yield Place(served, desk)


def text_of(result: Any) -> str:
    (block,) = result.content
    assert isinstance(block.text, str)
    return block.text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tools_over_http(mode: Literal["auto", "legacy"]) -> None:
    async with serving_mcp() as place:
        async with place.client(mode=mode) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools][:2] == ["list_workers", "submit_task"]
            result = await client.call_tool("submit_task", {"description": "hello", "worker": "marie"})
            assert not result.is_error and json.loads(text_of(result))["task_id"] == "t1"
            refused = await client.call_tool("submit_task", {"description": "hello", "worker": "paul"})
            assert refused.is_error and text_of(refused) == "worker: There is none; there are marie, anga."
        record = place.desk.records["t1"]
        assert (record.submitted_by, record.origin) == ("eve", "mcp")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_while_waiting(mode: Literal["auto", "legacy"]) -> None:
    async with serving_mcp() as place:
        told: list[tuple[float, float | None, str | None]] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total, message))

        async with place.client(mode=mode) as client:
            await client.call_tool("submit_task", {"description": "hello"})
            await client.call_tool("wait_for_tasks", {"task_ids": ["t1"]}, progress_callback=hear)
        assert told == [(1.0, 1.0, "1 of 1 tasks have ended")]


async def test_something_unforeseen_is_no_traceback() -> None:
    async with serving_mcp() as place:

        async def broken() -> Any:
            raise RuntimeError("a secret detail")

        place.desk.workers = broken  # type: ignore[method-assign]
        async with place.client() as client:
            result = await client.call_tool("list_workers", {})
        assert result.is_error and text_of(result) == "The orchestrator could not do this; its log says why."


async def test_tokens_hold_for_mcp() -> None:
    async with serving_mcp() as place:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        async with place.served.client() as http:
            assert (await http.post("/mcp", json=body)).status_code == 401
        async with place.served.client("r" * 20) as http:
            assert (await http.post("/mcp", json=body)).status_code == 403
        async with place.served.client(SECRET) as http:
            headers = {"Host": "team.example:8700", "Accept": "application/json, text/event-stream"}
            assert (await http.post("/mcp", json=body, headers=headers)).status_code == 200
            assert (await http.post("/mcp", content=b"{", headers=headers)).status_code in (400, 415)


def test_the_library_is_not_loaded_before_the_first_request() -> None:
    there = "[name for name in sys.modules if name.split('.')[0] == 'mcp']"
    code = f"import sys, orchestrator_service.team_tools.mcp_mount; print({there})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@asynccontextmanager
async def remote_tools(url: str, token: str | None = SECRET) -> AsyncIterator[TeamTools]:
    async with RemoteDesk(ApiPlace(url=url, token=token)) as desk:
        yield TeamTools(desk, Asker(name="eve", origin="mcp"))


async def test_the_tools_over_the_api() -> None:
    async with serving_mcp() as place:
        async with remote_tools(place.served.url) as tools:

            async def use(name: str, **arguments: Any) -> Any:
                return json.loads(await tools.call(name, arguments))

            assert len((await use("list_workers"))["workers"]) == 2
            task = await use("submit_task", description="hello", role="coder", priority="high")
            answer = await use("wait_for_tasks", task_ids=[task["task_id"]], timeout_seconds=30)
            assert answer["tasks"][0]["output"] == "echo: hello"
            assert (await use("get_result", task_id="t1", offset=6))["output"] == "hello"
            assert (await use("send_message", to="anga", message="hi"))["output"] == "echo: hi"
            place.desk.answer = lambda _: None
            await use("submit_task", description="endless")
            assert (await use("wait_for_tasks", task_ids=["t3"], timeout_seconds=0))["all_ended"] is False
            assert (await use("cancel_task", task_id="t3", reason="why not"))["state"] == "cancelled"
        assert place.desk.cancelled == {"t3": "why not"}
        assert place.desk.records["t1"].submitted_by == "eve"


async def test_what_the_api_refuses_comes_back_in_one_sentence() -> None:
    async with serving_mcp() as place:
        async with remote_tools(place.served.url) as tools:
            for name, arguments, said in (
                ("get_result", {"task_id": "nobody"}, "There is no task 'nobody'"),
                ("cancel_task", {"task_id": "no/body?"}, "There is no task 'no/body?'"),
                ("submit_task", {"description": "x", "worker": "paul"}, "There is none; there are marie, anga"),
            ):
                with pytest.raises(ToolRefused, match=said.replace("?", r"\?")):
                    await tools.call(name, arguments)
        async with remote_tools(place.served.url, "a-token-that-nobody-knows") as tools:
            with pytest.raises(ToolRefused, match="token"):
                await tools.call("list_workers", {})
        async with remote_tools("http://127.0.0.1:9") as tools:
            with pytest.raises(ToolRefused, match=r"http://127.0.0.1:9 does not answer: .* may be tried again"):
                await tools.call("list_workers", {})
