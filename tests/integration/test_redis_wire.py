"""The short way to Redis: answers in order, errors to whoever asked, and no waiting for a server that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.exceptions

from agent_bus.redis.connection import close_client, make_client
from agent_bus.redis.url import parse_redis_url
from agent_bus.redis.wire import Wire, open_wire
from tests.redis_server import RedisServer, running_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", password="sesam") as server:
        yield server


@pytest.fixture
async def wire(server: RedisServer) -> AsyncIterator[Wire]:
    client = make_client(parse_redis_url(f"{server.url}?socket_timeout=0.5"))
    wire = await open_wire(client)  # type: ignore[arg-type]
    yield wire
    await wire.aclose()
    await close_client(client)


async def test_answers_come_in_order_and_errors_to_whoever_asked(wire: Wire) -> None:
    big = b"x" * 300_000
    asked = [wire.send(("ECHO", str(number))) for number in range(500)]
    wrong, late = wire.send(("NONSENSE",)), wire.send(("ECHO", big))
    given_up = wire.send(("ECHO", "nobody"))
    given_up.cancel()
    assert await asyncio.gather(*asked) == [str(number).encode() for number in range(500)]
    with pytest.raises(redis.exceptions.ResponseError, match="unknown command"):
        await wrong
    assert await late == big
    assert await wire.send(("ECHO", "after")) == b"after"


async def test_a_stopped_server_fails_what_waits_and_a_broken_wire_stays_broken(
    server: RedisServer, wire: Wire
) -> None:
    server.pause()
    try:
        first, second = wire.send(("PING",)), wire.send(("PING",))
        for answer in (first, second):
            with pytest.raises(redis.exceptions.TimeoutError):
                await answer
    finally:
        server.resume()
    assert wire.broken
    with pytest.raises(redis.exceptions.ConnectionError):
        await wire.send(("PING",))


async def test_a_killed_server_fails_what_waits_at_once(server: RedisServer, wire: Wire) -> None:
    blocked = wire.send(("BLPOP", "nothing", "0"))
    server.kill()
    with pytest.raises(redis.exceptions.ConnectionError):
        await blocked
