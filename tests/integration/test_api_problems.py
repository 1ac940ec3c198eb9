"""What is no success: one problem document each time, whatever came in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator_service.api.problems import PROBLEM_TYPE, Problem
from orchestrator_service.errors import Conflict, LedgerUnavailable, Unavailable
from orchestrator_service.settings import ApiSettings, Role, Token
from tests.integration.api_harness import Served, serving

TASKS = "/api/v1/tasks"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(settings=ApiSettings(max_request_bytes=200_000)) as server:
        yield server


async def refused(served: Served, body: bytes | str, path: str = TASKS) -> Problem:
    """Send a body that must be refused, and return the problem."""
    async with served.client() as client:
        answer = await client.post(path, content=body, headers=JSON)
    assert answer.headers["Content-Type"] == PROBLEM_TYPE
    found = Problem.model_validate_json(answer.content)
    assert (found.status, found.instance) == (answer.status_code, path)
    assert served.desk.orders == []
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"description": "x"} {}',
        b'{"description": "\\ud800"}',
        b'{"description": "\xed\xa0\x80"}',
        b'{"description": "x", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        b'{"description": "x", "metadata": {"a": ' + b"9" * 5000 + b"}}",
    ],
)
async def test_what_is_no_json(served: Served, body: bytes) -> None:
    found = await refused(served, body)
    assert (found.status, found.type) == (400, "/problems/not-json")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("[]", [""]),
        ("null", [""]),
        ('"tasks"', [""]),
        ("{}", ["description"]),
        ('{"description": ""}', ["description"]),
        ('{"description": 5}', ["description"]),
        ('{"description": "x", "timeout": "5"}', ["timeout"]),
        ('{"description": "x", "timeout": 1e999}', ["timeout"]),
        ('{"description": "x", "priority": 99999999999999999999}', ["priority"]),
        ('{"description": "x", "task_id": "../x"}', ["task_id"]),
        ('{"description": "x", "task_id": "x\\u0000"}', ["task_id"]),
        ('{"description": "x", "worker": "a/b", "nonsense": 1}', ["worker", "nonsense"]),
        ('{"description": "x", "metadata": {"a": [1, NaN]}}', ["metadata.a[1]"]),
        ('{"description": "x", "output_schema": {"a": -1e999}}', ["output_schema.a"]),
        ('{"description": "x", "metadata": ' + '{"a":' * 150 + "1" + "}" * 150 + "}", ["metadata"]),
        ('{"description": "x", "deadline": "0001-01-01T00:00:00+14:00"}', ["deadline"]),
        ('{"description": "x", "deadline": "tomorrow"}', ["deadline"]),
        ('{"tasks": []}', ["tasks"]),
        ('{"tasks": [{"description": "x"}, {"description": "x", "retry": {"factor": 99}}]}', ["tasks[1].retry.factor"]),
        ('{"description": "x", "worker": "nobody"}', ["worker"]),
    ],
)
async def test_fields_are_named(served: Served, body: str, fields: list[str]) -> None:
    found = await refused(served, body)
    assert (found.status, found.type) == (422, "/problems/order-refused")
    assert [error.field for error in found.errors] == fields
    assert all(error.message.endswith(".") for error in found.errors)
    assert "Error" not in found.detail


async def test_what_is_shown_of_a_value_is_short_and_never_all_fields(served: Served) -> None:
    long = {"description": "x", "title": "y" * 5000, "task_id": {"deep": ["z" * 5000]}}
    found = await refused(served, json.dumps(long))
    assert [len(str(error.value)) for error in found.errors] == [200, 200]
    many = await refused(served, json.dumps({"tasks": [{"description": ""}] * 500}))
    assert len(many.errors) == 50
    assert "499 more" in many.detail


async def test_unknown_fields_come_with_those_that_there_are(served: Served) -> None:
    found = await refused(served, '{"description": "x", "retry": {"often": 3}}')
    assert found.errors[0].message.startswith("There is no such field; allowed are max_retries, ")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_another_type_than_json(served: Served, content_type: str | None) -> None:
    async with served.client() as client:
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await client.post(TASKS, content=b'{"description": "x"}', headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
async def test_json_by_any_of_its_names(served: Served, content_type: str) -> None:
    async with served.client() as client:
        answer = await client.post(TASKS, content=b'{"description": "x"}', headers={"Content-Type": content_type})
    assert answer.status_code == 201


@pytest.mark.parametrize("told", [True, False], ids=["Content-Length", "in chunks"])
async def test_a_body_that_is_too_large(served: Served, told: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    body: Any = b"x" * 300_000 if told else chunks()
    async with served.client() as client:
        answer = await client.post(TASKS, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    assert "200000 bytes" in answer.json()["detail"]


async def test_a_length_beyond_all_numbers_is_too_large(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999999999\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "no-such-path"),
        ("GET", "/api/v1/tasks/", 404, "no-such-path"),
        ("GET", "/api/v1/tasks/a%2Fb", 404, "no-such-path"),
        ("GET", "/api/v1/tasks/%00%ff", 404, "not-known"),
        ("GET", "/api/v1/workers/none", 404, "not-known"),
        ("GET", "/mcp", 404, "no-such-path"),
        ("PATCH", "/api/v1/tasks", 405, "method-not-allowed"),
        ("PROPFIND", "/api/v1/tasks", 405, "method-not-allowed"),
    ],
)
async def test_where_nothing_is(served: Served, method: str, path: str, status: int, kind: str) -> None:
    async with served.client() as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    if status == 405:
        assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Conflict("The id is used."), 409, "conflict"),
        (LedgerUnavailable("The ledger cannot be written: the disk is full."), 503, "ledger-unavailable"),
        (Unavailable("There is no Claude Code here."), 503, "unavailable"),
        (RuntimeError("sqlite3: /secret/place"), 500, "internal"),
    ],
)
async def test_what_the_desk_raises(
    served: Served, error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    served.desk.failure = error
    found = await refused(served, '{"description": "x"}')
    assert (found.status, found.type) == (status, f"/problems/{kind}")
    logged = [record for record in caplog.records if getattr(record, "action", "") == "request_failed"]
    if status == 500:
        assert "secret" not in found.detail
        assert logged and logged[0].exc_info
    else:
        assert found.detail == str(error)
        assert not logged
    async with served.client() as client:
        assert ("Retry-After" in (await client.get("/api/v1/counts")).headers) == (status == 503)


async def test_a_token_that_asks_too_often_is_told_when_to_come_again() -> None:
    tokens = (Token("ann", Role.READ, "a" * 20), Token("ben", Role.READ, "b" * 20))
    settings = ApiSettings(tokens=tokens, rate_limit=0.01, rate_burst=2)
    async with serving(settings=settings) as server:
        async with server.client("a" * 20) as ann:
            statuses = [(await ann.get(TASKS)).status_code for _ in range(3)]
            refusal = await ann.get(TASKS)
            assert (await ann.get("/healthz")).status_code == 200
        async with server.client("b" * 20) as ben:
            assert (await ben.get(TASKS)).status_code == 200
    assert statuses == [200, 200, 429]
    assert refusal.json()["type"] == "/problems/too-many-requests"
    assert 1 <= int(refusal.headers["Retry-After"]) <= 100


async def test_requests_are_counted_by_template_never_by_path(served: Served) -> None:
    async with served.client() as client:
        for name in ("one", "two"):
            await client.get(f"{TASKS}/{name}")
        await client.get("/of/no/use")
        await client.request("PROPFIND", "/of/no/use")
        metrics = (await client.get("/metrics")).text
    label = {"method": "GET", "route": f"{TASKS}/{{task_id}}", "status": "404"}
    assert served.sample("http_requests_total", **label) == 2
    assert served.sample("http_request_seconds_count", route=label["route"]) == 2
    assert "of/no/use" not in metrics and "PROPFIND" not in metrics
