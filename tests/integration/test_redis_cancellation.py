"""A command to Redis ends when it is cancelled, in whatever moment that comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import pytest
import redis.asyncio

from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.cancellation import cancellation_kept
from agent_bus.redis.connection import close_client, make_client
from agent_bus.redis.url import parse_redis_url
from agent_bus.redis.wire import open_wire
from tests.redis_server import RedisServer, running_redis

MOMENTS = 60
ENDS_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def caller(server: RedisServer) -> AsyncIterator[RedisCaller]:
    caller = RedisCaller(parse_redis_url(server.url))
    await caller.command("PING")
    yield caller
    await caller.aclose()


async def ends_when_cancelled(ask: Callable[[], Awaitable[object]], moment: int) -> bool:
    """Cancel a task that asks for ever, once the loop has turned so often; return whether it ended by that."""

    async def ask_for_ever() -> None:
        while True:
            await ask()

    asking = asyncio.create_task(ask_for_ever())
    for _ in range(moment):
        await asyncio.sleep(0)
    asking.cancel()
    done, _ = await asyncio.wait([asking], timeout=ENDS_WITHIN_S)
    while not asking.done():
        asking.cancel()
        await asyncio.wait([asking], timeout=0.01)
    return bool(done)


async def test_a_command_can_be_cancelled_at_any_moment(caller: RedisCaller) -> None:
    for moment in range(MOMENTS):
        assert await ends_when_cancelled(lambda: caller.command("PING"), moment), f"after {moment} turns"


async def test_commands_in_a_row_can_be_cancelled_at_any_moment(caller: RedisCaller) -> None:
    async def ask() -> None:
        with caller.noted():
            async with caller.client.pipeline(transaction=False) as pipe:
                pipe.ping()
                await pipe.execute()

    for moment in range(MOMENTS):
        assert await ends_when_cancelled(ask, moment), f"after {moment} turns"


async def test_a_connection_can_be_cancelled_at_any_moment(server: RedisServer) -> None:
    client = make_client(parse_redis_url(server.url))

    async def ask() -> None:
        wire = await open_wire(client)  # type: ignore[arg-type]
        await wire.aclose()

    for moment in range(MOMENTS):
        assert await ends_when_cancelled(ask, moment), f"after {moment} turns"
    await close_client(client)


async def test_time_that_is_over_ends_a_command_and_not_what_is_around_it(caller: RedisCaller) -> None:
    for _ in range(MOMENTS):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                while True:
                    await caller.command("PING")
        with anyio.move_on_after(0.001) as scope:
            while True:
                await caller.command("PING")
        assert scope.cancelled_caught
        assert await caller.command("PING")


async def test_answers_stay_with_their_questions_when_commands_are_cancelled(caller: RedisCaller) -> None:
    for moment in range(MOMENTS):
        await ends_when_cancelled(lambda: caller.command("ECHO", "cancelled"), moment)
        assert await caller.command("ECHO", str(moment)) == str(moment).encode()


async def test_without_the_guard_a_cancellation_is_lost(server: RedisServer) -> None:
    """What the guard is for: where this fails the library or Python has mended it, and the guard can go."""
    lost = 0
    async with redis.asyncio.Redis.from_url(server.url, socket_timeout=5) as client:
        await client.ping()
        for moment in range(MOMENTS):

            async def ask(ends: bool = False) -> None:
                nonlocal lost
                with cancellation_kept():
                    await client.execute_command("PING")  # type: ignore[no-untyped-call]
                    task = asyncio.current_task()
                    lost += task is not None and task.cancelling() > 0

            assert await ends_when_cancelled(ask, moment)
    assert lost > 0
