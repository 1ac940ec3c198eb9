"""The dashboard's side of the API: pages and files, a login, what a session may, the live channel."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from orchestrator_service.api import examples
from orchestrator_service.api.live import GOING_AWAY, SESSION_OVER
from orchestrator_service.records import StreamEvent
from orchestrator_service.settings import ApiSettings, Role, Token
from tests.integration.api_harness import Served, serving
from tests.waiting import async_wait_until as until

SECRET = "a-secret-of-the-dashboard"
READER = "a-secret-of-a-reader"
SETTINGS = ApiSettings(tokens=(Token("ann", Role.ADMIN, SECRET), Token("bob", Role.READ, READER)))


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    async with serving(settings=SETTINGS) as served:
        yield served


@pytest.fixture
async def local() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


def own(served: Served) -> dict[str, str]:
    return {"Origin": served.url, "Sec-Fetch-Site": "same-origin"}


async def log_in(client: httpx.AsyncClient, served: Served, secret: str = SECRET) -> httpx.Response:
    return await client.post("/login", json={"token": secret}, headers=own(served))


# -- pages and files


@pytest.mark.parametrize("path", ["/", "/tasks", "/tasks/x", "/goals", "/goals/x", "/inbox", "/usage", "/login"])
async def test_each_page_is_the_same_shell_with_strict_headers(guarded: Served, path: str) -> None:
    async with guarded.client() as client:
        page = await client.get(path)
        assert page.status_code == 200 and page.text == (await client.get("/")).text
        policy = page.headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
            assert rule in policy
        assert "require-trusted-types-for 'script'" in policy and "unsafe" not in policy
        assert (page.headers["X-Content-Type-Options"], page.headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        again = await client.get(path, headers={"If-None-Match": page.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_files_are_compressed_once_and_kept_for_ever(guarded: Served) -> None:
    async with guarded.client() as client:
        (address,) = set(re.findall(r"/static/[0-9a-f]+/main\.js", (await client.get("/")).text))
        plain = await client.get(address, headers={"Accept-Encoding": "identity"})
        async with client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as packed:
            raw = b"".join([part async for part in packed.aiter_raw()])
        assert packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(raw) == plain.content
        assert "immutable" in plain.headers["Cache-Control"] and plain.headers["Vary"] == "Accept-Encoding"
        for wrong in ("/static/0/main.js", address + "x", address.replace("main.js", "%2e%2e/shell.py")):
            assert (await client.get(wrong)).status_code == 404


async def test_a_browser_gets_a_page_where_there_is_none_and_a_program_a_problem(guarded: Served) -> None:
    async with guarded.client() as client:
        page = await client.get("/nowhere", headers={"Accept": "text/html"})
        assert (page.status_code, "<!doctype html>" in page.text) == (404, True)
        assert (await client.get("/nowhere")).status_code == 401
        assert (await client.get("/api/v1/nowhere", headers={"Accept": "text/html"})).status_code == 401


# -- login


async def test_a_session_may_what_its_token_may(guarded: Served) -> None:
    async with guarded.client() as client:
        answer = await log_in(client, guarded, READER)
        assert answer.json() == {"name": "bob", "role": "read", "login": True}
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Secure" not in cookie and READER not in cookie
        assert (await client.get("/session")).json()["name"] == "bob"
        assert (await client.get("/api/v1/tasks")).status_code == 200
        refused = await client.post("/api/v1/tasks", json=examples.TASK_ORDER, headers=own(guarded))
        assert (refused.status_code, "needs the role submit" in refused.json()["detail"]) == (403, True)


async def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(guarded: Served) -> None:
    async with guarded.client() as client:
        origin = guarded.url.replace("http:", "https:")
        answer = await client.post("/login", json={"token": SECRET}, headers={"Origin": origin})
        assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "own", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
    ids=lambda headers: "-".join(headers.values()) or "nothing",
)
async def test_the_page_of_another_site_changes_nothing_with_a_cookie(guarded: Served, headers: dict[str, str]) -> None:
    headers = {name: guarded.url if value == "own" else value for name, value in headers.items()}
    async with guarded.client() as client:
        refused = await client.post("/login", json={"token": SECRET}, headers=headers)
        assert refused.status_code == 403 and "Set-Cookie" not in refused.headers
        await log_in(client, guarded)
        answer = await client.post("/api/v1/tasks", json=examples.TASK_ORDER, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/origin-refused")
        assert (await client.post("/logout", headers=headers)).status_code == 403
        assert guarded.desk.orders == []
        good = await client.post("/api/v1/tasks", json=examples.TASK_ORDER, headers=own(guarded))
        assert good.status_code == 201


async def test_a_bearer_token_needs_no_origin(guarded: Served) -> None:
    async with guarded.client(SECRET) as client:
        assert (await client.post("/api/v1/tasks", json=examples.TASK_ORDER)).status_code == 201


async def test_after_logging_out_the_cookie_is_worth_nothing(guarded: Served) -> None:
    async with guarded.client() as client:
        await log_in(client, guarded)
        kept = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        assert (await client.post("/logout", headers=own(guarded))).status_code == 204
        assert not client.cookies
        answer = await client.get("/api/v1/tasks", headers={"Cookie": kept})
        assert (answer.status_code, answer.json()["detail"]) == (401, "The session is over; log in again.")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"token": 7}', b'{"token": " "}', b"x" * 5000])
async def test_what_is_no_login_is_a_sentence(guarded: Served, body: bytes) -> None:
    async with guarded.client() as client:
        answer = await client.post("/login", content=body, headers=own(guarded))
        assert (answer.status_code, "token" in answer.json()["detail"]) == (400, True)


async def test_wrong_tokens_must_wait_and_the_right_one_with_them(guarded: Served) -> None:
    async with guarded.client() as client:
        for _ in range(6):
            answer = await log_in(client, guarded, "not-a-token-of-anybody")
        assert answer.status_code in (401, 429)
        for _ in range(3):
            await log_in(client, guarded, "not-a-token-of-anybody")
        told = await log_in(client, guarded)
        assert (told.status_code, int(told.headers["Retry-After"]) >= 1) == (429, True)
        assert (await client.get("/api/v1/tasks", headers={"Authorization": f"Bearer {SECRET}"})).status_code == 200


async def test_output_comes_as_a_tree_and_only_to_whoever_may_read(guarded: Served) -> None:
    async with guarded.client(SECRET) as client:
        task_id = (await client.post("/api/v1/tasks", json=examples.TASK_ORDER)).json()["tasks"][0]["task_id"]
        assert (await client.get(f"/rendered/tasks/{task_id}")).status_code == 409
        guarded.desk.end(task_id)
        told = (await client.get(f"/rendered/tasks/{task_id}")).json()
        assert {"nodes", "structured", "cut", "characters"} <= set(told)
        assert (await client.get("/rendered/tasks/none")).status_code == 404
        assert (await client.get(f"/rendered/goals/{guarded.desk.goal_record.goal_id}")).status_code == 200
    async with guarded.client() as nobody:
        assert (await nobody.get(f"/rendered/tasks/{task_id}")).status_code == 401


# -- the live channel


def live(served: Served, after: str | None = None, **headers: str) -> connect:
    address = served.url.replace("http:", "ws:") + "/api/v1/live" + ("" if after is None else f"?after={after}")
    given = {"Origin": served.url, **headers}
    return connect(address, additional_headers=given, proxy=None)


async def heard(page: ClientConnection) -> Any:
    async with asyncio.timeout(20):
        return json.loads(await page.recv())


def event(number: int) -> StreamEvent:
    told = {"event": "task_ended", "task_id": f"t{number}", "data": {"state": "completed"}}
    return StreamEvent(id=str(number), event="task_ended", data=json.dumps(told).encode())


async def test_events_come_in_order_from_the_position_on(local: Served) -> None:
    async with live(local, after="41") as page:
        assert (await heard(page))["at"] == "41"
        for number in range(42, 48):
            await local.desk.stream.put(event(number))
        seen: list[Any] = []
        while len(seen) < 6:
            message = await heard(page)
            assert message["type"] == "events"
            seen += message["events"]
        assert [one["id"] for one in seen] == [str(number) for number in range(42, 48)]
        assert seen[0]["data"]["task_id"] == "t42"
    assert local.desk.positions == [("41", False)]
    await until(lambda: local.desk.open_streams == 0)
    await until(lambda: local.sample("sse_clients") == 0)


async def test_a_task_is_followed_while_it_is_looked_at(local: Served) -> None:
    async with local.client() as client:
        task_id = (await client.post("/api/v1/tasks", json=examples.TASK_ORDER)).json()["tasks"][0]["task_id"]
    async with live(local) as page:
        assert (await heard(page))["type"] == "hello"
        await page.send(json.dumps({"watch": task_id, "after": "3"}))
        await until(lambda: local.desk.open_streams == 2)
        assert local.desk.positions[-1] == ("3", True)
        await page.send(json.dumps({"watch": None}))
        await until(lambda: local.desk.open_streams == 1)
        for wish in ("", "[]", "{", '{"watch": 7}', '{"after": "1"}', "x" * 5000):
            await page.send(wish)
        await page.send(json.dumps({"watch": "none"}))
        told = await heard(page)
        assert (told["type"], told["task_id"], told["problem"]) == ("problem", "none", "not-known")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null"])
async def test_a_channel_of_another_site_is_refused(guarded: Served, local: Served, origin: str) -> None:
    async with guarded.client() as client:
        await log_in(client, guarded)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    for served, headers in ((guarded, {"Cookie": cookie}), (local, {})):
        with pytest.raises(InvalidStatus) as refused:
            async with live(served, **{**headers, "Origin": origin}):
                pass
        assert refused.value.response.status_code == 403


async def test_a_channel_needs_a_session_and_ends_with_it(guarded: Served) -> None:
    with pytest.raises(InvalidStatus):
        async with live(guarded):
            pass
    async with guarded.client() as client:
        await log_in(client, guarded, READER)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        async with live(guarded, Cookie=cookie) as page:
            await heard(page)
            await client.post("/logout", headers=own(guarded))
            with pytest.raises(ConnectionClosed) as closed:
                await heard(page)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == SESSION_OVER


async def test_a_channel_ends_when_the_session_is_over() -> None:
    settings = ApiSettings(tokens=SETTINGS.tokens, session_ttl_s=1.0)
    async with serving(settings=settings) as served, served.client() as client:
        await log_in(client, served)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        async with live(served, Cookie=cookie) as page:
            await heard(page)
            with pytest.raises(ConnectionClosed) as closed:
                await heard(page)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == SESSION_OVER


async def test_a_channel_ends_when_the_service_stops() -> None:
    async with serving() as served, live(served) as page:
        await heard(page)
        served.server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await heard(page)
    # Whichever is first: the channel's own word, or the server's, that it is starting again.
    assert closed.value.rcvd is not None and closed.value.rcvd.code in (GOING_AWAY, 1012)


async def test_who_reads_slowly_makes_the_desk_wait_and_nobody_else(local: Served) -> None:
    """The desk's queue holds eight: only what a batch holds is taken from it before it is read."""
    big = "x" * 200_000
    async with live(local) as slow:
        await heard(slow)
        slow.transport.pause_reading()
        put = 0
        for number in range(400):
            told = {"event": "task_ended", "task_id": f"t{number}", "data": {"state": big}}
            try:
                async with asyncio.timeout(2):
                    await local.desk.stream.put(
                        StreamEvent(id=str(number), event="task_ended", data=json.dumps(told).encode())
                    )
            except TimeoutError:
                break
            put += 1
        assert 0 < put < 400, "the channel took all of it although nobody reads"
        async with local.client() as client:
            assert (await client.get("/session")).status_code == 200
        slow.transport.resume_reading()
        assert (await heard(slow))["events"][0]["id"] == "0"
