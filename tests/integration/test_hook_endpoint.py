"""`POST /hooks/{event}`: who may, what is taken, and what is said to the rest."""

from __future__ import annotations

import http.client
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.integration.harness import ObedientAgent, fetch, quick_settings
from tests.waiting import async_wait_until
from worker_service.service import Worker, open_worker

TOKEN = "correct horse battery"
EVENT = {"session_id": "5f0c", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"}}


async def post(
    port: int, event: str, body: bytes, token: str | None = TOKEN, host: str = "127.0.0.1"
) -> tuple[int, str]:
    def send() -> tuple[int, str]:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request("POST", f"/hooks/{event}", body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return await anyio.to_thread.run_sync(send)


def hooked(shared: Path) -> AbstractAsyncContextManager[Worker]:
    return open_worker(quick_settings(shared, WORKER_MODE="hooks", HOOK_TOKEN=TOKEN), ObedientAgent())


async def test_an_event_is_taken(shared: Path) -> None:
    async with hooked(shared) as worker:
        assert await post(worker.http_port, "PreToolUse", json.dumps(EVENT).encode()) == (204, "")
        line = json.loads((shared / "events" / "marie" / "session-5f0c.jsonl").read_text())
        assert (line["event"], line["data"]["hook"], line["data"]["tool_name"]) == ("hook", "PreToolUse", "Bash")
        log = shared / "watcher-logs" / "marie-tool-use.log"
        await async_wait_until(lambda: log.exists() and log.read_text())
        _, metrics = await fetch(worker.http_port, "/metrics")
    assert 'hook_events_total{event="PreToolUse",worker="marie"} 1.0' in metrics


@pytest.mark.parametrize(
    ("event", "body", "token", "status", "reason"),
    [
        ("PreToolUse", b"{}", None, 401, "no_token"),
        ("PreToolUse", b"{}", "wrong", 401, "wrong_token"),
        ("PreToolUse", b"{}", "", 401, "wrong_token"),
        ("Boom", b"{}", TOKEN, 404, "unknown_event"),
        ("Boom", b"{}", "wrong", 401, "wrong_token"),
        ("PreToolUse", b"x" * (1 << 20) + b"x", TOKEN, 413, "too_large"),
        ("PreToolUse", b"", TOKEN, 422, "bad_body"),
        ("PreToolUse", b"[]", TOKEN, 422, "bad_body"),
        ("PreToolUse", b"\xff", TOKEN, 422, "bad_body"),
        ("PreToolUse", b"[" * 100_000, TOKEN, 422, "bad_body"),
    ],
)
async def test_what_is_refused_gets_one_sentence_and_is_counted(
    shared: Path, event: str, body: bytes, token: str | None, status: int, reason: str
) -> None:
    async with hooked(shared) as worker:
        given, said = await post(worker.http_port, event, body, token)
        _, metrics = await fetch(worker.http_port, "/metrics")
    assert given == status
    assert len(said.splitlines()) == 1 and TOKEN not in said
    assert f'hook_requests_refused_total{{reason="{reason}",worker="marie"}} 1.0' in metrics


async def test_other_machines_are_refused(shared: Path) -> None:
    from starlette.requests import Request

    from worker_service.hooks import endpoint

    def request(host: str) -> Request:
        scope: dict[str, Any] = {"type": "http", "client": (host, 1), "headers": [(b"authorization", b"Bearer x")]}
        return Request(scope)

    for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        endpoint._check_sender(request(host), b"Bearer x")
    for host in ("10.0.0.7", "::ffff:10.0.0.7", "fe80::1", "testclient"):
        with pytest.raises(endpoint._Refused) as refusal:
            endpoint._check_sender(request(host), b"Bearer x")
        assert refusal.value.status == 403


async def test_without_a_token_of_ones_own_nothing_gets_in(shared: Path) -> None:
    settings = quick_settings(shared, WORKER_MODE="hooks")
    async with open_worker(settings, ObedientAgent()) as worker:
        for token in (None, "", "None"):
            assert (await post(worker.http_port, "PreToolUse", b"{}", token))[0] == 401


async def test_other_modes_have_no_such_path(shared: Path) -> None:
    async with open_worker(quick_settings(shared, HOOK_TOKEN=TOKEN), ObedientAgent()) as worker:
        assert (await post(worker.http_port, "PreToolUse", b"{}"))[0] == 404
