"""The Redis link: the bell, commands, what goes out, and Redis coming and going."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agent_bus.redis.url import parse_redis_url
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until
from worker_service.wakeups.pubsub import LinkListener, RedisLink


class Ears:
    """Keeps what the link told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.connections = 0
        self.losses: list[str] = []

    def _connected(self) -> None:
        self.connections += 1

    def listener(self) -> LinkListener:
        return LinkListener(
            on_activate=lambda message: self.heard.append(("activate", message)),
            on_control=lambda message: self.heard.append(("control", message)),
            on_gate=lambda message: self.heard.append(("gate", message)),
            on_connected=self._connected,
            on_lost=self.losses.append,
        )


@asynccontextmanager
async def linked(url: str, ping_s: float = 15.0) -> AsyncIterator[tuple[RedisLink, Ears]]:
    ears = Ears()
    link = RedisLink(parse_redis_url(url), worker="marie", listener=ears.listener(), ping_s=ping_s)
    # As in the worker: a cancellation that the library swallows while it reconnects is delivered again.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run_forever)
        try:
            yield link, ears
        finally:
            tasks.cancel_scope.cancel()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as server:
        yield server


async def test_messages_reach_their_callbacks(server: RedisServer) -> None:
    async with linked(server.url) as (link, ears):
        await async_wait_until(lambda: ears.connections == 1)
        assert link.connected and link.trouble is None and link.age_s is not None
        with server.client() as client:
            client.publish("activate:marie", b"\xff")
            client.publish("activate:anga", b"for another")
            client.publish("control:marie", b"pause")
            client.publish("control:all", b"status")
            client.publish("codehornets:gates", b"{}")
        await async_wait_until(lambda: len(ears.heard) == 4)
        assert ears.heard == [("activate", b"\xff"), ("control", b"pause"), ("control", b"status"), ("gate", b"{}")]


async def test_what_is_published_arrives_in_order(server: RedisServer) -> None:
    with server.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("hooks:marie")
        pubsub.get_message(timeout=5)
        async with linked(server.url) as (link, _):
            await async_wait_until(lambda: link.connected)
            for number in range(300):
                link.publish("hooks:marie", str(number).encode())
            got: list[bytes] = []
            async with asyncio.timeout(10):
                while len(got) < 300:
                    if message := await asyncio.to_thread(pubsub.get_message, timeout=1):
                        got.append(message["data"])
            assert got == [str(number).encode() for number in range(300)]
            assert link.dropped == 0


async def test_what_cannot_be_sent_is_dropped_and_counted(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    async with linked(server.url) as (link, ears):
        await async_wait_until(lambda: ears.losses)
        link.publish("hooks:marie", b"x")
        assert link.dropped == 1


async def test_it_comes_back_by_itself_and_tells_each_change_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with linked(server.url) as (link, ears):
        await async_wait_until(lambda: ears.connections == 1)
        server.kill()
        await async_wait_until(lambda: not link.connected)
        assert "cannot be used" in (link.trouble or "")
        server.start()
        await async_wait_until(lambda: ears.connections == 2)
        with server.client() as client:
            client.publish("activate:marie", b"again")
        await async_wait_until(lambda: ears.heard == [("activate", b"again")])
        assert len(ears.losses) == 1
    actions = [record.__dict__.get("action") for record in caplog.records]
    assert actions.count("redis_lost") == 1
    assert actions.count("redis_connected") == 2


async def test_a_stopped_redis_is_noticed_by_its_silence(server: RedisServer) -> None:
    async with linked(server.url, ping_s=0.2) as (link, ears):
        await async_wait_until(lambda: ears.connections == 1)
        quiet = time.monotonic()
        await async_wait_until(lambda: link.age_s is not None and time.monotonic() - quiet > 1.0)
        assert link.connected, "a Redis that answers must not be taken for dead"
        server.pause()
        try:
            await async_wait_until(lambda: ears.losses, timeout=20)
            assert "does not answer in time" in ears.losses[0]
        finally:
            server.resume()
        await async_wait_until(lambda: ears.connections >= 2)


async def test_a_wrong_password_is_said_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_redis(tmp_path / "redis", password="sesam") as server:
        async with linked(server.url.replace("sesam", "guessed")) as (link, ears):
            await async_wait_until(lambda: ears.losses)
            assert "refuses the user name or the password" in (link.trouble or "")
        assert "guessed" not in caplog.text + ears.losses[0]
