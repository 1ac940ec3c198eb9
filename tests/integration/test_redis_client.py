"""The client's side and the shared gate, against a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from agent_bus.dead_letters import DeadLetterError
from agent_bus.errors import DeadLetterReason, QueueUnavailable
from agent_bus.gates import GateNotice, closed_gates, open_gate
from agent_bus.messages import Heartbeat, TaskStatus, WorkerStatus, utc_now
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.client import RedisClient
from agent_bus.redis.gate_keys import RedisGates
from agent_bus.redis.keys import GATES_CHANNEL, gate
from agent_bus.redis.shared_gate import SharedGate
from agent_bus.redis.url import parse_redis_url
from tests.integration.redis_harness import KEYS, answer, replica
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[RedisClient]:
    client = RedisClient(parse_redis_url(server.url))
    yield client
    client.close()


async def test_a_task_is_handed_in_and_its_result_waited_for(server: RedisServer, client: RedisClient) -> None:
    async with replica(server) as one:
        assert client.submit("marie", {"task_id": "t", "description": "x"}) == "t"
        made_up = client.submit("marie", {"description": "x"})
        assert client.result("t") is None
        waiting = asyncio.create_task(asyncio.to_thread(client.result, "t", wait_s=10))
        for _ in range(2):
            claim = await one.next()
            await one.queue.complete(claim, answer(claim))
        result = await waiting
        assert result is not None and result.status is TaskStatus.COMPLETED
        assert client.result(made_up) is not None


async def test_cancel_reaches_a_waiting_task_and_the_control_channel(server: RedisServer, client: RedisClient) -> None:
    with server.client() as raw, raw.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(KEYS.control)
        pubsub.get_message(timeout=5)
        client.submit("marie", {"task_id": "t", "description": "x"})
        client.cancel("marie", "t")
        message = wait_until(lambda: pubsub.get_message(timeout=1))
        assert b'"cancel"' in message["data"]
    async with replica(server) as one:
        assert (await one.next()).cancelled


async def test_heartbeats_are_listed_and_vanish(server: RedisServer, client: RedisClient) -> None:
    async with replica(server) as one:
        beat = Heartbeat(
            worker="marie",
            instance=one.queue.instance,
            timestamp=utc_now(),
            status=WorkerStatus.IDLE,
            mode="hybrid",
            pid=1,
            version="1",
            interval_seconds=0.1,
        )
        await one.queue.beat(beat)
        with server.client() as raw:
            assert 0 < raw.pttl(KEYS.heartbeat(one.queue.instance)) <= 300
        await async_wait_until(lambda: not client.heartbeats())
        await one.queue.beat(beat.model_copy(update={"interval_seconds": 10.0}))
        assert [found.instance for found in client.heartbeats()] == [one.queue.instance]


def test_events_are_watched(server: RedisServer, client: RedisClient) -> None:
    stop = threading.Event()

    def tell() -> None:
        with server.client() as raw:
            while not stop.is_set():
                raw.publish("hooks:marie", b'{"event": "x"}')
                stop.wait(0.01)

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        for wanted in (None, "marie"):
            events = client.watch(wanted)
            assert next(events) == ("marie", b'{"event": "x"}')
            events.close()  # type: ignore[attr-defined]
    finally:
        stop.set()
        teller.join()


async def test_dead_letters_are_listed_replayed_and_dropped(server: RedisServer, client: RedisClient) -> None:
    async with replica(server) as one:
        client.submit("marie", {"task_id": "t", "description": "x"})
        claim = await one.next()
        failed = answer(claim, status=TaskStatus.FAILED)
        await one.queue.bury(claim, DeadLetterReason.ATTEMPTS_EXHAUSTED, "it never ended", failed)
        (letter,) = client.dead_letters("marie")
        assert (letter.task_id, letter.reason) == ("t", "attempts_exhausted")
        assert client.find_dead_letter("marie", "t") == letter == client.find_dead_letter("marie", letter.name)
        client.replay("marie", letter)
        assert client.dead_letters("marie") == []
        again = await one.next()
        assert again.task.task_id == "t"
        await one.queue.complete(again, answer(again))
        with pytest.raises(DeadLetterError, match="not a failure"):
            client.replay("marie", letter)
        client.submit("marie", {"task_id": "t", "description": "x"})
        assert await one.none_left()
        await async_wait_until(lambda: len(client.dead_letters("marie")) == 1)
        client.drop("marie", client.find_dead_letter("marie", client.dead_letters("marie")[0].name))
        with pytest.raises(DeadLetterError, match="No dead letter"):
            client.find_dead_letter("marie", "t")


def test_a_redis_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    client = RedisClient(parse_redis_url(RedisServer(tmp_path, password="sesam").url))
    with pytest.raises(QueueUnavailable, match="cannot be used") as caught:
        client.submit("marie", {"description": "x"})
    assert "sesam" not in str(caught.value)
    client.close()


# -- the gate


class Host:
    """A worker's gate on a host of its own."""

    def __init__(self, url: str, directory: Path | None = None) -> None:
        self.caller = RedisCaller(parse_redis_url(url))
        self.rings = 0
        self.gate = SharedGate("abc", directory=directory, caller=self.caller, on_change=self._ring)

    def _ring(self) -> None:
        self.rings += 1


@asynccontextmanager
async def host(url: str, directory: Path | None = None) -> AsyncIterator[Host]:
    one = Host(url, directory)
    # As in the worker: a cancellation that the library swallows while it reconnects is delivered again.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.gate.run_forever)
        try:
            yield one
        finally:
            tasks.cancel_scope.cancel()
    await one.caller.aclose()


def notice(seconds: float) -> GateNotice:
    until = utc_now() + timedelta(seconds=seconds)
    return GateNotice(kind="five_hour", until=until, message="limit", worker="marie")


async def test_a_gate_closed_on_one_host_is_closed_on_the_others(server: RedisServer, tmp_path: Path) -> None:
    async with host(server.url, tmp_path) as one, host(server.url) as other:
        # It has read that there is no gate; from now on it knows only what it hears.
        await async_wait_until(lambda: other.caller.connected)
        one.gate.close_until(notice(60))
        assert one.gate.closed() is not None
        with server.client() as client:
            body = await asyncio.to_thread(wait_until, lambda: client.get(gate("abc")))
            assert 0 < client.pttl(gate("abc")) <= 60_000
        other.gate.hear(b"nonsense")
        other.gate.hear(body.replace(b'"abc"', b'"def"'))
        assert other.gate.closed() is None
        other.gate.hear(body)
        assert other.gate.closed() is not None and other.rings == 1
    async with host(server.url) as newcomer:
        await async_wait_until(lambda: newcomer.gate.closed() is not None)


async def test_the_later_moment_stays_and_an_open_gate_is_open(server: RedisServer) -> None:
    async with host(server.url) as one, host(server.url) as other:
        # It has read that there is no gate, and hears no messages here.
        await async_wait_until(lambda: other.caller.connected)
        with server.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(GATES_CHANNEL)
            one.gate.close_until(notice(60))
            await asyncio.to_thread(wait_until, lambda: client.pttl(gate("abc")) > 50_000)
            other.gate.close_until(notice(0.3))
            told: list[object] = []
            while len(told) < 2:
                told.append(await asyncio.to_thread(wait_until, lambda: pubsub.get_message(timeout=1)))
            assert client.pttl(gate("abc")) > 50_000
            await async_wait_until(lambda: other.gate.closed() is None)


async def test_a_gate_closed_while_redis_is_away_is_told_later(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    async with host(server.url) as one:
        one.gate.close_until(notice(60))
        assert one.gate.closed() is not None
        server.start()
        try:
            with server.client() as client:
                await asyncio.to_thread(wait_until, lambda: client.get(gate("abc")))
        finally:
            server.kill()


async def test_a_gate_that_is_opened_in_redis_is_open_everywhere(
    server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    async with host(server.url, tmp_path) as one, host(server.url) as other:
        await async_wait_until(lambda: other.caller.connected)
        one.gate.close_until(notice(600))
        found = await asyncio.to_thread(wait_until, client.closed_gates)
        assert list(found) == ["abc"] and list(closed_gates(tmp_path)) == ["abc"]
        other.gate.read_again()
        await async_wait_until(lambda: other.gate.closed() is not None)
        with server.client() as redis, redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(GATES_CHANNEL)
            client.open_gate("abc", found["abc"], "me")
            message = await asyncio.to_thread(wait_until, lambda: pubsub.get_message(timeout=1))
        assert client.closed_gates() == {}
        for each in (one, other):
            rings = each.rings
            each.gate.hear(message["data"].replace(b'"abc"', b'"def"'))
            assert each.gate.closed() is not None and each.rings == rings
            each.gate.hear(message["data"])
            assert each.gate.closed() is None and each.rings == rings + 1
        # Whoever heard it has opened its directory as well, and the gate can be closed anew.
        assert closed_gates(tmp_path) == {}
        one.gate.close_until(notice(300))
        await asyncio.to_thread(wait_until, client.closed_gates)
        assert one.gate.closed() is not None


async def test_a_gate_whose_file_is_removed_is_opened_in_redis_too(
    server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    async with host(server.url, tmp_path) as one, host(server.url) as other:
        await async_wait_until(lambda: other.caller.connected)
        one.gate.close_until(notice(600))
        await asyncio.to_thread(wait_until, client.closed_gates)
        other.gate.read_again()
        await async_wait_until(lambda: other.gate.closed() is not None)
        assert one.gate.closed() is not None
        assert open_gate(tmp_path, "abc")
        assert one.gate.closed() is None
        await asyncio.to_thread(wait_until, lambda: not client.closed_gates())
        # A host that missed the message sees it when it looks.
        other.gate.read_again()
        await async_wait_until(lambda: other.gate.closed() is None)


async def test_a_gate_that_redis_has_not_taken_yet_stays_closed(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    async with host(server.url) as one:
        one.gate.close_until(notice(60))
        one.gate.read_again()
        server.start()
        try:
            with server.client() as redis:
                await asyncio.to_thread(wait_until, lambda: redis.get(gate("abc")))
            assert one.gate.closed() is not None
        finally:
            server.kill()


async def test_the_gatekeeper_reads_and_opens_gates_in_redis(server: RedisServer, client: RedisClient) -> None:
    async with host(server.url) as one:
        gates = RedisGates(one.caller)
        assert await gates.closed(["abc"]) == {}
        one.gate.close_until(notice(600))
        found = await asyncio.to_thread(wait_until, client.closed_gates)
        assert await gates.closed(["abc", "def"]) == found
        await gates.open("abc", found["abc"], "me")
        assert client.closed_gates() == {}
