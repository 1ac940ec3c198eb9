"""Server-sent events: order, resumption, heartbeats, and that every stream ends when it should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from orchestrator_service.api import examples
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.records import GoalState, StreamEvent
from tests.integration.api_harness import MemoryDesk, Served, serving
from tests.waiting import async_wait_until

EVENTS = "/api/v1/events"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as server:
        yield server


def event(number: int, name: str = "task_sent", **fields: Any) -> StreamEvent:
    data = {"event": name, "task_id": None, "worker": None, "goal_id": None, "data": {"n": number}, **fields}
    return StreamEvent(id=str(number), event=name, data=json.dumps(data).encode())


async def feed(served: Served, events: Iterable[StreamEvent | None]) -> None:
    for one in events:
        await served.desk.stream.put(one)


async def lines(answer: httpx.Response, wanted: int) -> list[str]:
    """Return the first lines of a stream that hold something."""
    found: list[str] = []
    async for line in answer.aiter_lines():
        if line:
            found.append(line)
        if len(found) == wanted:
            break
    return found


async def test_events_come_as_they_happen(served: Served) -> None:
    async with served.client() as client, client.stream("GET", EVENTS) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert served.desk.open_streams == 1, "whoever has the headers misses nothing any more"
        assert served.sample("sse_clients") == 1
        await feed(served, [event(1), replace(event(2, "task_ended"), id="")])
        found = await lines(answer, 6)
    assert found == [
        "retry: 1000",
        "id: 1",
        "event: task_sent",
        f"data: {event(1).data.decode()}",
        "event: task_ended",
        f"data: {event(2, 'task_ended').data.decode()}",
    ]


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_client_goes_on_behind_what_it_saw(served: Served, by_header: bool) -> None:
    await feed(served, [event(8), None])
    query = "?agent=true" if by_header else "?agent=true&after=7"
    headers = {"Last-Event-ID": "7"} if by_header else {}
    async with served.client() as client:
        answer = await client.get(EVENTS + query, headers=headers)
    assert "id: 8\n" in answer.text
    assert served.desk.positions == [("7", True)]


async def test_a_client_that_has_seen_all_is_told_not_to_come_again(served: Served) -> None:
    await feed(served, [None, None])
    async with served.client() as client:
        again = await client.get(EVENTS, headers={"Last-Event-ID": "7"})
        first = await client.get(EVENTS)
    assert (again.status_code, first.status_code, first.text) == (204, 200, "retry: 1000\n\n")
    assert served.desk.open_streams == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/tasks/none/events", 404),
        ("/api/v1/goals/none/events", 404),
        (f"{EVENTS}?after=x", 422),
        ("/api/v1/goals/goal-51c2/events?after=x", 422),
        (f"{EVENTS}?taks=x", 422),
    ],
)
async def test_what_cannot_be_followed_is_a_problem(served: Served, path: str, status: int) -> None:
    async with served.client() as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert served.desk.open_streams == 0
    assert served.sample("sse_clients") == 0


async def test_a_desk_that_fails_later_says_so_in_the_stream() -> None:
    class Failing(MemoryDesk):
        async def events(self, after: str | None, *, agent: bool = False) -> AsyncIterator[StreamEvent]:
            yield event(1)
            raise LedgerUnavailable("The ledger cannot be read.")

    async with serving(Failing()) as served, served.client() as client:
        answer = await client.get(EVENTS)
    assert answer.status_code == 200
    last = answer.text.rstrip().rpartition("\n\n")[2]
    assert last.startswith("event: problem\ndata: ")
    assert json.loads(last.partition("data: ")[2])["type"] == "/problems/ledger-unavailable"


async def test_a_task_is_followed_until_its_stream_ends(served: Served) -> None:
    async with served.client() as client:
        await client.post("/api/v1/tasks", json={**examples.TASK_ORDER, "task_id": "one"})
        await feed(served, [event(1), event(2), None])
        answer = await client.get("/api/v1/tasks/one/events?follow=false")
    assert answer.text.count("data: ") == 2
    assert served.desk.positions == [(None, False)]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [("?task=a", [1, 4]), ("?worker=marie", [2, 4]), ("?task=a&worker=marie", [4]), ("?goal=g", [3]), ("?task=n", [])],
)
async def test_only_what_is_wanted_comes(served: Served, query: str, numbers: list[int]) -> None:
    await feed(
        served,
        [
            event(1, task_id="a"),
            event(2, worker="marie"),
            event(3, goal_id="g"),
            event(4, task_id="a", worker="marie"),
            event(5, data={"task_id": "a", "goal_id": "g"}),
            None,
        ],
    )
    async with served.client() as client:
        answer = await client.get(EVENTS + query)
    assert [int(line[4:]) for line in answer.text.splitlines() if line.startswith("id: ")] == numbers


async def test_a_goal_is_followed_until_it_has_ended(served: Served) -> None:
    ours = {"goal_id": "goal-51c2"}
    await feed(served, [event(1, **ours), event(2, goal_id="other"), event(3, "goal_ended", **ours), event(4, **ours)])
    async with served.client() as client:
        answer = await client.get("/api/v1/goals/goal-51c2/events")
        assert [line for line in answer.text.splitlines() if line.startswith("id: ")] == ["id: 1", "id: 3"]
        served.desk.goal_record = served.desk.goal_record.model_copy(update={"state": GoalState.COMPLETED})
        ended = await client.get("/api/v1/goals/goal-51c2/events")
        # Whoever comes back after the end, as browsers do, is not kept waiting for what never comes.
        back = await client.get("/api/v1/goals/goal-51c2/events", headers={"Last-Event-ID": "4"})
    assert (ended.status_code, ended.text) == (200, "retry: 1000\n\n")
    assert "id: " not in back.text
    assert served.desk.open_streams == 0


async def test_silence_is_filled_with_comments() -> None:
    async with serving(heartbeat_s=0.02) as served, served.client() as client, client.stream("GET", EVENTS) as answer:
        assert await lines(answer, 3) == ["retry: 1000", ":", ":"]


async def test_nothing_is_left_of_a_client_that_went(served: Served) -> None:
    async with served.client() as client:
        async with client.stream("GET", EVENTS):
            assert served.desk.open_streams == 1
        await async_wait_until(lambda: served.desk.open_streams == 0)
    await async_wait_until(lambda: served.sample("sse_clients") == 0)


async def test_streams_end_with_the_service(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served, served.client() as client, client.stream("GET", EVENTS) as answer:
        served.server.stop()
        assert await lines(answer, 5) == ["retry: 1000"], "it ends, and not by a broken connection"
    assert served.desk.open_streams == 0
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_a_client_that_does_not_read_holds_up_its_own_stream_only() -> None:
    class Endless(MemoryDesk):
        """Gives events as fast as they are taken, and counts them."""

        def __init__(self) -> None:
            super().__init__()
            self.taken: list[int] = []

        async def events(self, after: str | None, *, agent: bool = False) -> AsyncIterator[StreamEvent]:
            mine = len(self.taken)
            self.taken.append(0)
            big = event(1, data={"text": "x" * 10_000})
            while True:
                self.taken[mine] += 1
                await asyncio.sleep(0)
                yield big

    desk = Endless()
    async with serving(desk) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1000)
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await async_wait_until(lambda: len(desk.taken) == 1)
        async with served.client() as client, client.stream("GET", EVENTS) as answer:
            await lines(answer, 3000)
        stuck = desk.taken[0]
        async with served.client() as client, client.stream("GET", EVENTS) as answer:
            await lines(answer, 3000)
        assert desk.taken[0] == stuck, "it went on taking events that nobody reads"
        assert desk.taken[1] >= 1000 and desk.taken[2] >= 1000
        writer.close()
        await writer.wait_closed()
    assert served.sample("sse_clients") == 0
