"""The routes of tasks, through the real server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from orchestrator_service.api import examples
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import Submission, TaskPage, TaskRecord, TaskResult, TaskState, TaskSummary
from tests.integration.api_harness import MemoryDesk, Served, serving
from tests.waiting import async_wait_until

TASKS = "/api/v1/tasks"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as server:
        yield server


async def test_a_task_is_accepted_and_told_where_it_is(served: Served) -> None:
    async with served.client() as client:
        answer = await client.post(TASKS, json=examples.TASK_ORDER)
        assert answer.status_code == 201
        submission = Submission.model_validate_json(answer.content)
        assert answer.headers["Location"] == f"{TASKS}/{submission.tasks[0].task_id}"
        record = TaskRecord.model_validate_json((await client.get(answer.headers["Location"])).content)
    assert record.title == "Slogans"
    assert served.desk.orders == [TaskOrder.model_validate(examples.TASK_ORDER)]
    assert served.desk.askers == [Asker(name="local", origin="api")]


async def test_a_body_with_tasks_is_a_graph(served: Served) -> None:
    async with served.client() as client:
        answer = await client.post(TASKS, json=examples.GRAPH_ORDER)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{TASKS}?graph=graph-1"
    assert served.desk.orders == [GraphOrder.model_validate(examples.GRAPH_ORDER)]


async def test_the_word_tasks_in_a_single_task_makes_it_no_graph(served: Served) -> None:
    async with served.client() as client:
        answer = await client.post(TASKS, json={"description": "x", "metadata": {"tasks": [1]}})
        wrong = await client.post(TASKS, json={"description": "", "metadata": {"tasks": [1]}})
    assert answer.status_code == 201
    assert [error["field"] for error in wrong.json()["errors"]] == ["description"]


async def test_a_repeated_key_is_answered_as_before(served: Served) -> None:
    body = json.dumps(examples.TASK_ORDER).encode()
    headers = {"Idempotency-Key": "order 4711", "Content-Type": "application/json"}
    async with served.client() as client:
        first = await client.post(TASKS, content=body, headers=headers)
        second = await client.post(TASKS, content=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {**first.json(), "repeated": True}
    assert len(served.desk.orders) == 1
    assert served.desk.keys[0] == Idempotency(key="order 4711", digest=hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\tin it", "ümlaut"])
async def test_a_wrong_key_is_refused_by_name(served: Served, key: str) -> None:
    async with served.client() as client:
        answer = await client.post(TASKS, json=examples.TASK_ORDER, headers={"Idempotency-Key": key.encode()})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert served.desk.orders == []


async def test_filters_arrive_at_the_desk(served: Served) -> None:
    query = (
        "state=running,sent&state=ready&worker=marie&goal=g&graph=h&schedule=s&submitted_by=shop"
        "&since=2026-01-02T03:04:05%2B01:00&until=2026-01-02T03:04:05+01:00&order=asc&cursor=abc&limit=7"
        "&q=Slogan%20A&sort=cost&count=true"
    )
    async with served.client() as client:
        answer = await client.get(f"{TASKS}?{query}")
    assert TaskPage.model_validate_json(answer.content).tasks == []
    moment = datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert served.desk.queries[0].model_dump() == {
        "states": ("running", "sent", "ready"),
        "worker": "marie",
        "goal_id": "g",
        "graph_id": "h",
        "schedule": "s",
        "submitted_by": "shop",
        "since": moment,
        "until": moment,
        "text": "Slogan A",
        "sort": "cost",
        "oldest_first": True,
        "cursor": "abc",
        "limit": 7,
        "count": True,
    }


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=1e9", "limit"),
        ("state=runing", "state[0]"),
        ("stat=running", "stat"),
        ("since=yesterday", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("since=0001-01-01T00:00:00%2B14:00", "since"),
        ("order=up", "order"),
        ("cursor=" + "x" * 2001, "cursor"),
        ("sort=colour", "sort"),
        ("q=" + "x" * 201, "q"),
        ("count=perhaps", "count"),
    ],
)
async def test_a_wrong_parameter_is_named(served: Served, query: str, field: str) -> None:
    async with served.client() as client:
        answer = await client.get(f"{TASKS}?{query}")
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/request-refused"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_a_result_is_a_conflict_until_it_is_there(served: Served) -> None:
    async with served.client() as client:
        await client.post(TASKS, json={"description": "x", "task_id": "one"})
        early = await client.get(f"{TASKS}/one/result")
        assert (early.status_code, early.json()["type"]) == (409, "/problems/conflict")
        waiting = asyncio.ensure_future(client.get(f"{TASKS}/one/result?wait=30"))
        await async_wait_until(lambda: not served.desk.changed.is_set())
        served.desk.end("one")
        result = TaskResult.model_validate_json((await waiting).content)
    assert result.state is TaskState.COMPLETED


async def test_waiting_for_one_of_several(served: Served) -> None:
    async with served.client() as client:
        for name in ("one", "two"):
            await client.post(TASKS, json={"description": "x", "task_id": name})
        waiting = asyncio.ensure_future(client.get(f"{TASKS}/wait?id=one&id=two&any=true&timeout=30"))
        now = await client.get(f"{TASKS}/wait?id=one&timeout=0")
        served.desk.end("two", TaskState.FAILED)
        ended = await waiting
    assert [task["state"] for task in now.json()] == ["ready"]
    assert [TaskSummary.model_validate(task).state for task in ended.json()] == ["ready", "failed"]


async def test_a_wait_ends_with_the_service(served: Served) -> None:
    async with served.client() as client:
        await client.post(TASKS, json={"description": "x", "task_id": "one"})
        waiting = asyncio.ensure_future(client.get(f"{TASKS}/wait?id=one&timeout=500"))
        await async_wait_until(lambda: served.sample("http_requests_total", method="POST", route=TASKS, status="201"))
        served.app.state.closing.set()
        answer = await waiting
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/stopping")
    assert answer.headers["Retry-After"]


async def test_cancel_takes_a_reason_or_nothing(served: Served) -> None:
    desk: MemoryDesk = served.desk
    async with served.client() as client:
        for name in ("one", "two", "three"):
            await client.post(TASKS, json={"description": "x", "task_id": name})
        first = await client.post(f"{TASKS}/one/cancel", json=examples.CANCEL_ORDER)
        second = await client.post(f"{TASKS}/two/cancel")
        again = await client.post(f"{TASKS}/two/cancel")
        wrong = await client.post(f"{TASKS}/three/cancel", json={"why": "x"})
        retried = await client.post(f"{TASKS}/two/retry")
    assert (first.status_code, second.status_code, again.status_code) == (200, 200, 409)
    assert desk.reasons == ["not needed any more", ""]
    assert wrong.json()["errors"][0]["message"] == "There is no such field; allowed are reason."
    assert retried.json()["state"] == "ready"
