"""Who may do what: tokens, roles, and this machine only where there are none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from orchestrator_service.api import examples
from orchestrator_service.api.problems import PROBLEM_TYPE
from orchestrator_service.desk import Asker
from orchestrator_service.settings import ApiSettings, Role, Token
from tests.integration.api_harness import MemoryDesk, Served, serving

SECRETS = {role: f"{role}-secret-0123456789" for role in Role}
TOKENS = ApiSettings(tokens=tuple(Token(f"the-{role}", role, secret) for role, secret in SECRETS.items()))

CHANGES = {
    ("POST", "/api/v1/tasks"): Role.SUBMIT,
    ("POST", "/api/v1/tasks/{task_id}/cancel"): Role.SUBMIT,
    ("POST", "/api/v1/tasks/{task_id}/retry"): Role.SUBMIT,
    ("POST", "/api/v1/goals"): Role.SUBMIT,
    ("POST", "/api/v1/goals/{goal_id}/cancel"): Role.SUBMIT,
    ("POST", "/api/v1/questions/{question_id}/approve"): Role.APPROVE,
    ("POST", "/api/v1/questions/{question_id}/deny"): Role.APPROVE,
    ("POST", "/api/v1/workers/{name}/pause"): Role.ADMIN,
    ("POST", "/api/v1/workers/{name}/resume"): Role.ADMIN,
    ("POST", "/api/v1/gates/{gate_id}/open"): Role.ADMIN,
    ("POST", "/api/v1/schedules"): Role.ADMIN,
    ("DELETE", "/api/v1/schedules/{name}"): Role.ADMIN,
    ("POST", "/api/v1/schedules/{name}/pause"): Role.ADMIN,
    ("POST", "/api/v1/schedules/{name}/resume"): Role.ADMIN,
}


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    async with serving(settings=TOKENS) as server:
        yield server


@pytest.fixture
async def local() -> AsyncIterator[Served]:
    async with serving() as server:
        yield server


def is_problem(answer: httpx.Response, status: int, kind: str) -> bool:
    told = answer.json()
    assert answer.headers["Content-Type"] == PROBLEM_TYPE
    return (answer.status_code, told["status"], told["type"]) == (status, status, f"/problems/{kind}")


async def test_nothing_of_the_api_is_served_without_a_token(guarded: Served) -> None:
    paths = {route.path for route in guarded.app.routes if isinstance(route, APIRoute) and "/api/" in route.path}
    async with guarded.client() as client:
        for path in sorted(paths):
            answer = await client.get(path)
            assert is_problem(answer, 401, "unauthorized"), path
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="codehornets"'


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"])
async def test_what_tells_nothing_of_tasks_is_open(guarded: Served, path: str) -> None:
    async with guarded.client() as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "Bearer wrong-secret-0123456789",
        "Bearer",
        f"Basic {SECRETS[Role.ADMIN]}",
        SECRETS[Role.ADMIN],
        f"Bearer {SECRETS[Role.ADMIN]}x",
        "Bearer \xff\xfe",
    ],
)
async def test_what_is_no_token_is_refused_and_not_repeated(
    guarded: Served, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with guarded.client() as client:
        answer = await client.get("/api/v1/tasks", headers={"Authorization": value.encode("latin-1")})
    assert is_problem(answer, 401, "unauthorized")
    secret = value.removeprefix("Bearer").removeprefix("Basic").strip()
    assert not secret or (secret not in answer.text and secret not in caplog.text)


async def test_each_change_needs_its_role(guarded: Served) -> None:
    routes = {
        (method, route.path)
        for route in guarded.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
        if method != "GET"
    }
    assert routes == set(CHANGES)
    for (method, path), needed in CHANGES.items():
        for role, secret in SECRETS.items():
            async with guarded.client(secret) as client:
                answer = await client.request(method, path.replace("{", "").replace("}", ""))
            allowed = role.allows(needed)
            assert (answer.status_code != 403) == allowed, (method, path, role)
            if not allowed:
                assert is_problem(answer, 403, "forbidden")
                assert f"needs the role {needed}" in answer.json()["detail"]


async def test_every_role_may_look(guarded: Served) -> None:
    for secret in SECRETS.values():
        async with guarded.client(secret) as client:
            assert (await client.get("/api/v1/tasks")).status_code == 200


async def test_the_desk_learns_the_name_of_the_token(guarded: Served) -> None:
    async with guarded.client(SECRETS[Role.SUBMIT]) as client:
        assert (await client.post("/api/v1/tasks", json=examples.TASK_ORDER)).status_code == 201
    assert guarded.desk.askers == [Asker(name="the-submit", origin="api")]


async def test_a_token_serves_under_any_host_name(guarded: Served) -> None:
    async with guarded.client(SECRETS[Role.READ]) as client:
        answer = await client.get("/api/v1/tasks", headers={"Host": "team.example", "Origin": "https://board.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["localhost", "localhost:8700", "127.0.0.1:1", "[::1]:8700", "LOCALHOST"])
async def test_without_tokens_this_machine_is_served(local: Served, host: str) -> None:
    async with local.client() as client:
        assert (await client.get("/api/v1/tasks", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["rebound.example", "127.0.0.1.rebound.example", "10.0.0.7:8700", "", "[::1", "localhost@x.example"]
)
async def test_without_tokens_another_host_name_is_refused(local: Served, host: str) -> None:
    async with local.client() as client:
        answer = await client.get("/api/v1/tasks", headers={"Host": host})
    assert is_problem(answer, 403, "host-refused")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
async def test_without_tokens_a_page_of_another_site_is_refused(local: Served, origin: str) -> None:
    async with local.client() as client:
        answer = await client.post("/api/v1/tasks", json=examples.TASK_ORDER, headers={"Origin": origin})
        own = await client.post("/api/v1/tasks", json=examples.TASK_ORDER, headers={"Origin": local.url})
    assert is_problem(answer, 403, "origin-refused")
    assert own.status_code == 201
    assert len(local.desk.orders) == 1


async def test_named_origins_are_let_in() -> None:
    board = "https://board.example"
    async with serving(settings=ApiSettings(cors_origins=(board,))) as server, server.client() as client:
        asked = await client.options(
            "/api/v1/tasks",
            headers={
                "Origin": board,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
            },
        )
        done = await client.post("/api/v1/tasks", json=examples.TASK_ORDER, headers={"Origin": board})
        other = await client.get("/api/v1/tasks", headers={"Origin": "https://evil.example"})
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, board)
    assert (done.status_code, done.headers["Access-Control-Allow-Origin"]) == (201, board)
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(("role", "status"), [(None, 401), (Role.READ, 403), (Role.SUBMIT, 200)])
async def test_mcp_lies_behind_the_same_tokens(role: Role | None, status: int) -> None:
    seen: list[tuple[str, Asker]] = []

    async def mcp(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], scope["state"]["asker"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with serving(MemoryDesk(), TOKENS, mcp=mcp) as server:
        async with server.client(None if role is None else SECRETS[role]) as client:
            assert (await client.post("/mcp", json={})).status_code == status
        assert server.sample("http_requests_total", method="POST", route="/mcp", status=str(status)) == 1
    assert seen == ([("/mcp", Asker(name="the-submit"))] if status == 200 else [])
