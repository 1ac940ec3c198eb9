"""Redis as the orchestrator's way to its workers, through losses of the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_bus.commands import Command, CommandName
from agent_bus.messages import Event, Result, TaskStatus, encode_event, encode_result, utc_now
from agent_bus.redis.keys import RESULTS, WorkerKeys, result_by_id
from agent_bus.redis.url import parse_redis_url
from orchestrator_service.transports.base import Place
from orchestrator_service.transports.redis import RedisTransport
from tests.integration.harness import QUICK, ObedientAgent
from tests.integration.redis_harness import KEYS, answer, replica
from tests.integration.transport_harness import KeepingEars, dispatch, made_beat, made_result, take
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until
from worker_service.service import Worker, open_worker
from worker_service.settings import read_settings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", durable=True) as running:
        yield running


def transport(
    server: RedisServer,
    tmp_path: Path,
    *,
    poll_s: float = 600.0,
    position: str | None = None,
    open_runs: list[tuple[str, str]] | None = None,
) -> RedisTransport:
    return RedisTransport(
        parse_redis_url(server.url),
        journals=tmp_path / "journals",
        known=lambda: ["marie"],
        poll_s=poll_s,
        position=position,
        open_runs=lambda: open_runs or [],
    )


@asynccontextmanager
async def listening(
    server: RedisServer, tmp_path: Path, **options: Any
) -> AsyncIterator[tuple[RedisTransport, KeepingEars]]:
    ears = KeepingEars()
    made = transport(server, tmp_path, **options)
    async with made.open(ears):
        yield made, ears


@asynccontextmanager
async def worker(server: RedisServer, tmp_path: Path, agent: ObedientAgent, **environ: str) -> AsyncIterator[Worker]:
    usual = {**QUICK, "WORKER_MODE": "hybrid", "REDIS_URL": server.url, "LOG_DIR": str(tmp_path / "log")}
    async with open_worker(read_settings({**usual, "REDIS_LEASE": "1", **environ}), agent=agent) as running:
        redis = running.redis
        assert redis is not None
        await async_wait_until(lambda: redis.connected, what="the worker hears Redis")
        yield running


def store(server: RedisServer, result: Result, *, in_stream: bool = True) -> None:
    """Store a result as a worker does, or by its id alone, as if the stream had been trimmed since."""
    body = encode_result(result)
    with server.client() as client:
        client.set(result_by_id(result.task_id), body)
        if in_stream:
            client.xadd(RESULTS, {"result": body})


def publish(server: RedisServer, name: str, task_id: str | None = "1", **data: Any) -> None:
    event = Event(event=name, timestamp=utc_now(), worker="marie", task_id=task_id, data=data)
    with server.client() as client:
        client.publish(KEYS.hooks, encode_event(event))


async def test_a_task_goes_to_its_worker_and_its_result_and_events_come_back(
    server: RedisServer, tmp_path: Path
) -> None:
    async with worker(server, tmp_path, ObedientAgent()), listening(server, tmp_path) as (redis, ears):
        assert await redis.send([dispatch("7", transport="redis")]) == []
        result = await ears.result("7")
        assert (result.status, result.output) == (TaskStatus.COMPLETED, "hello")
        await async_wait_until(lambda: ("redis", "marie", "7") in ears.started, what="the start is told")
        assert ears.results[0].position is not None
        assert await redis.locate("marie", "7") is Place.ENDED
        assert await redis.result("marie", "7") == result
        async with aclosing(redis.follow("marie", "7", 0)) as lines:
            (line,) = await take(lines, 1)
        assert json.loads(line.line)["event"] == "prompt"
        await async_wait_until(lambda: any(event.event == "task_ended" for event in ears.events), what="its end")
        await async_wait_until(lambda: ears.beats, what="a heartbeat")
        assert ears.beats[0][1].worker == "marie"
        assert "answers" in redis.findings()[0].text


async def test_a_large_batch_arrives_in_order(server: RedisServer, tmp_path: Path) -> None:
    redis = transport(server, tmp_path)
    assert await redis.send([dispatch(str(number)) for number in range(1200)]) == []
    with server.client() as client:
        rows: Any = client.xrange(KEYS.tasks)
    assert [json.loads(fields[b"task"])["task_id"] for _, fields in rows] == [str(number) for number in range(1200)]
    await redis.caller.aclose()


async def test_an_unread_task_is_withdrawn_once(server: RedisServer, tmp_path: Path) -> None:
    async with listening(server, tmp_path) as (redis, _):
        assert await redis.locate("marie", "1") is Place.GONE
        assert not await redis.withdraw("marie", "1")
        await redis.send([dispatch("1"), dispatch("2")])
        assert await redis.locate("marie", "1") is Place.WAITING
        assert await redis.withdraw("marie", "1")
        assert not await redis.withdraw("marie", "1")
        assert await redis.locate("marie", "1") is Place.GONE
        assert await redis.locate("marie", "2") is Place.WAITING


async def test_what_another_process_handed_in_is_found_and_withdrawn(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        for number in range(1100):
            client.xadd(KEYS.tasks, {"task": json.dumps({"task_id": str(number), "description": "x"})})
        unnamed: Any = client.xadd(KEYS.tasks, {"task": b'{"description": "x"}'})
    async with listening(server, tmp_path) as (redis, _):
        assert await redis.locate("marie", "1050") is Place.WAITING
        assert await redis.withdraw("marie", "1050")
        assert await redis.withdraw("marie", f"marie-{unnamed.decode()}")
        # Handed in again, under another entry.
        with server.client() as client:
            client.xadd(KEYS.tasks, {"task": json.dumps({"task_id": "1050", "description": "x"})})
        assert await redis.locate("marie", "1050") is Place.WAITING


async def test_a_task_that_was_read_ahead_is_withdrawn_and_one_that_is_taken_is_not(
    server: RedisServer, tmp_path: Path
) -> None:
    async with listening(server, tmp_path) as (redis, _), replica(server) as one:
        await redis.send([dispatch(str(number), session="s") for number in range(3)])
        claim = await one.next()
        assert claim.task.task_id == "0"
        assert await redis.locate("marie", "0") is Place.TAKEN
        assert await redis.running() == {"0": [f"marie/{one.queue._instance}"]}
        assert not await redis.withdraw("marie", "0")
        # The others were sorted in and wait for their turn in the session.
        assert await redis.locate("marie", "1") is Place.WAITING
        assert await redis.withdraw("marie", "1")
        await one.queue.complete(claim, answer(claim))
        second = await one.next()
        assert second.task.task_id == "2"
        await one.queue.complete(second, answer(second))
        assert await one.none_left()
        assert await redis.running() == {}


async def test_a_task_is_withdrawn_or_run_and_never_both(server: RedisServer, tmp_path: Path) -> None:
    withdrawn: set[str] = set()
    agent = ObedientAgent()
    async with worker(server, tmp_path, agent, MAX_CONCURRENT="4"), listening(server, tmp_path) as (redis, ears):
        for first in range(0, 200, 10):
            # The worker takes from one end, this from the other, and in the middle they meet.
            task_ids = [str(first + number) for number in range(10)]
            await redis.send([dispatch(task_id) for task_id in task_ids])
            for task_id in reversed(task_ids):
                if await redis.withdraw("marie", task_id):
                    withdrawn.add(task_id)
        await async_wait_until(lambda: len(set(ears.ids)) + len(withdrawn) == 200, 20, "all are run or withdrawn")
    assert withdrawn and agent.started
    assert withdrawn.isdisjoint(agent.started)


async def test_a_running_task_is_cancelled_and_commands_are_told(server: RedisServer, tmp_path: Path) -> None:
    agent = ObedientAgent()
    async with listening(server, tmp_path) as (redis, ears):
        assert not await redis.tell("marie", Command(name=CommandName.PAUSE))
        async with worker(server, tmp_path, agent):
            await redis.send([dispatch("1", "hold")])
            await async_wait_until(lambda: agent.started, what="it runs")
            await redis.cancel("marie", "1")
            assert (await ears.result("1")).status is TaskStatus.CANCELLED
            assert await redis.tell("marie", Command(name=CommandName.PAUSE))


async def test_results_are_told_from_the_position_on(server: RedisServer, tmp_path: Path) -> None:
    for number in range(3):
        store(server, made_result(str(number)))
    async with listening(server, tmp_path) as (_, ears):
        assert ears.ids == ["0", "1", "2"]
        position = ears.results[1].position
    async with listening(server, tmp_path, position=position) as (_, ears):
        assert ears.ids == ["2"]
        store(server, made_result("3"))
        await ears.result("3")


async def test_results_that_the_stream_has_lost_are_asked_for_by_id(server: RedisServer, tmp_path: Path) -> None:
    store(server, made_result("1"), in_stream=False)
    async with listening(server, tmp_path, open_runs=[("marie", "1"), ("marie", "2")]) as (_, ears):
        assert ears.ids == ["1"]
        assert ears.results[0].position is None


async def test_a_position_beyond_a_redis_that_lost_its_data_hides_nothing(server: RedisServer, tmp_path: Path) -> None:
    async with listening(server, tmp_path, position="99999999999999-0") as (_, ears):
        store(server, made_result("1"))
        await ears.result("1")


async def test_what_is_no_result_is_told_or_left_out(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.xadd(RESULTS, {"result": b'{"task_id": "1", "worker": "marie", "status": "transcended"}'})
        for body in (b"{", b"[]", b'{"task_id": ["1"], "worker": "marie"}', encode_result(made_result("../../x"))):
            client.xadd(RESULTS, {"result": body})
        client.xadd(RESULTS, {"other": b"field"})
        client.set(result_by_id("2"), b"{")
    store(server, made_result("3"))
    async with listening(server, tmp_path, open_runs=[("marie", "2")]) as (redis, ears):
        assert ears.ids == ["3"]
        assert [(name, worker, task_id) for name, worker, task_id, _ in ears.broken] == [
            ("redis", "marie", "1"),
            ("redis", "marie", "2"),
        ]
        assert "is no result that this version understands" in ears.broken[0][3]
        assert await redis.result("marie", "2") is None


async def test_journals_hold_what_agents_of_open_runs_do_and_nothing_else(server: RedisServer, tmp_path: Path) -> None:
    async with listening(server, tmp_path, open_runs=[("marie", "1")]) as (redis, ears):
        async with aclosing(redis.follow("marie", "1", 0)) as lines:
            waiting = asyncio.ensure_future(take(lines, 2))
            publish(server, "task_started")
            publish(server, "text", n=1)
            publish(server, "text", "other", n=2)
            publish(server, "worker", None, n=3)
            publish(server, "hook", n=4)
            publish(server, "text", n=5)
            found = await asyncio.wait_for(waiting, 10)
        assert [json.loads(line.line)["data"]["n"] for line in found] == [1, 5]
        assert await redis.journal("marie", "1", 0) == found
        assert await redis.journal("marie", "1", found[0].position) == found[1:]
        publish(server, "task_ended")
        publish(server, "text", n=6)
        await async_wait_until(lambda: len(ears.events) == 8, what="all are told")
        assert ears.started == [("redis", "marie", "1")]
        assert [path.name for path in (tmp_path / "journals").iterdir()] == ["1.jsonl"]
        assert len((tmp_path / "journals" / "1.jsonl").read_bytes().splitlines()) == 2


async def test_a_newcomer_is_looked_for_when_it_is_first_heard_of(server: RedisServer, tmp_path: Path) -> None:
    async with listening(server, tmp_path) as (_, ears):
        assert ears.beats == []
        beat = made_beat("zoe")
        with server.client() as client:
            client.set(WorkerKeys("zoe").heartbeat("zoe-1"), beat.model_dump_json(), ex=60)
            event = Event(event="worker", timestamp=utc_now(), worker="zoe", data={})
            client.publish(WorkerKeys("zoe").hooks, encode_event(event))
        await async_wait_until(lambda: ears.beats, what="its heartbeat is told")
        assert ears.beats[0] == ("redis", beat)


async def test_heartbeats_are_looked_at_from_time_to_time(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.set(KEYS.heartbeat("marie-1"), made_beat().model_dump_json(), ex=60)
        client.set(KEYS.heartbeat("marie-2"), b"{", ex=60)
    async with listening(server, tmp_path, poll_s=0.05) as (_, ears):
        await async_wait_until(lambda: len(ears.beats) >= 3, what="it is told again")
        assert {beat.instance for _, beat in ears.beats} == {"marie-1"}


async def test_while_redis_is_away_everything_says_so_and_it_comes_back_by_itself(
    server: RedisServer, tmp_path: Path
) -> None:
    runs = [("marie", "1")]
    async with listening(server, tmp_path, open_runs=runs) as (redis, ears):
        assert await redis.send([dispatch("1")]) == []
        server.kill()
        await async_wait_until(lambda: not redis.connected, what="the loss is noticed")
        (undelivered,) = await redis.send([dispatch("2")])
        assert undelivered.dispatch.wire_id == "2"
        assert "cannot be used" in undelivered.reason
        assert await redis.locate("marie", "1") is Place.UNKNOWN
        assert not await redis.withdraw("marie", "1")
        assert await redis.result("marie", "1") is None
        assert not await redis.tell("marie", Command(name=CommandName.WAKE))
        assert await redis.running() == {}
        await redis.cancel("marie", "1")
        (finding,) = redis.findings()
        assert finding.well and finding.text.startswith("away, its tasks wait: Redis at ")
        server.start()
        store(server, made_result("1"))
        await ears.result("1")
        await async_wait_until(lambda: redis.connected, what="it is back")
        # What was asked for in the meantime was not forgotten.
        with server.client() as client:
            assert client.get(KEYS.cancel("1")) == b"1"
        assert await redis.send([dispatch("2")]) == []
        assert await redis.locate("marie", "2") is Place.WAITING


async def test_a_redis_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    nowhere = RedisServer(tmp_path / "redis")
    async with listening(nowhere, tmp_path) as (redis, ears):
        assert not redis.connected
        nowhere.start()
        try:
            store(nowhere, made_result("1"))
            await ears.result("1")
        finally:
            nowhere.kill()


async def test_what_arrived_although_the_answer_was_lost_is_taken_back(server: RedisServer, tmp_path: Path) -> None:
    async with listening(server, tmp_path) as (redis, _):
        tasks = redis._tasks
        add = tasks._add

        async def lose_the_answer(batch: Any) -> list[Any]:
            await add(batch)
            raise ConnectionResetError("the connection was lost")

        tasks._add = lose_the_answer  # type: ignore[method-assign]
        (undelivered,) = await redis.send([dispatch("1")])
        assert "whether the task arrived there is not known" in undelivered.reason
        assert len(entries(server)) == 1
        tasks._add = add  # type: ignore[method-assign]
        assert await redis.send([dispatch("2")]) == []
        assert [fields["task_id"] for fields in entries(server)] == ["2"]


async def test_what_a_worker_has_begun_in_the_meantime_is_not_run_by_another_one(
    server: RedisServer, tmp_path: Path
) -> None:
    async with listening(server, tmp_path) as (redis, ears), replica(server) as one:
        tasks = redis._tasks
        add = tasks._add

        async def lose_the_answer(batch: Any) -> list[Any]:
            await add(batch)
            raise ConnectionResetError("the connection was lost")

        tasks._add = lose_the_answer  # type: ignore[method-assign]
        assert len(await redis.send([dispatch("1")])) == 1
        tasks._add = add  # type: ignore[method-assign]
        claim = await one.next()
        assert await redis.send([replace(dispatch("1"), worker="anga")]) == []
        assert await redis.locate("anga", "1") is Place.GONE
        await one.queue.complete(claim, answer(claim))
        await ears.result("1")
        # Its name is free for whatever comes then.
        assert await redis.send([replace(dispatch("1"), worker="anga")]) == []
        with server.client() as client:
            assert client.xlen(WorkerKeys("anga").tasks) == 1


def entries(server: RedisServer) -> list[dict[str, Any]]:
    with server.client() as client:
        rows: Any = client.xrange(KEYS.tasks)
    return [json.loads(fields[b"task"]) for _, fields in rows]


async def test_a_full_redis_gives_a_sentence_for_each_task(server: RedisServer, tmp_path: Path) -> None:
    async with listening(server, tmp_path) as (redis, _):
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
        undelivered = await redis.send([dispatch("1"), dispatch("2")])
        assert [one.dispatch.wire_id for one in undelivered] == ["1", "2"]
        assert "its memory is full (maxmemory)" in undelivered[0].reason


async def test_how_soon_results_and_events_are_heard_of(server: RedisServer, tmp_path: Path) -> None:
    results: list[float] = []
    lines_read: list[float] = []
    async with listening(server, tmp_path, open_runs=[("marie", "1")]) as (redis, ears):
        with server.client() as client:
            for number in range(200):
                heard = asyncio.Event()
                ears.on_result = lambda _, heard=heard: heard.set()  # type: ignore[misc]
                body = encode_result(made_result(str(number)))
                began = time.perf_counter()
                client.xadd(RESULTS, {"result": body})
                await heard.wait()
                results.append(1000 * (time.perf_counter() - began))
            async with aclosing(redis.follow("marie", "1", 0)) as lines:
                for number in range(200):
                    event = Event(event="text", timestamp=utc_now(), worker="marie", task_id="1", data={"n": number})
                    began = time.perf_counter()
                    client.publish(KEYS.hooks, encode_event(event))
                    await take(lines, 1)
                    lines_read.append(1000 * (time.perf_counter() - began))
    for what, taken in (("result stored -> heard", results), ("event published -> follower", lines_read)):
        taken.sort()
        print(f"{what}: p50 {taken[100]:.2f} ms, p95 {taken[190]:.2f} ms")
