"""Whatever two replicas do, in whatever order: every task gets one result, and sessions keep their order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_bus.queue import Claim
from agent_bus.redis.keys import GROUP
from tests.integration.redis_harness import KEYS, Replica, answer, replica, results, submit
from tests.redis_server import RedisServer, running_redis

TASK = st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 2))
STEP = st.tuples(
    st.sampled_from(["claim", "claim", "complete", "release", "spend", "expire", "forget", "renew"]), st.integers(0, 1)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


async def take_step(server: RedisServer, step: str, one: Replica, other: Replica, held: list[Claim]) -> None:
    if step == "claim":
        one.queue.notice()
        if (claim := await one.queue.claim()) is not None:
            held.append(claim)
    elif step == "complete" and held:
        claim = held.pop(0)
        await one.queue.complete(claim, answer(claim))
    elif step in ("release", "spend") and held:
        await one.queue.release(held.pop(), spend_attempt=step == "spend")
    elif step == "expire":
        # As if this one had been frozen for an hour: the other one takes all it holds.
        with server.client() as client:
            for claim in held:
                client.xclaim(KEYS.tasks, GROUP, one.queue.instance, 0, [claim.token], idle=3_600_000, justid=True)
        await other.queue.leases.reclaim()
    elif step == "forget":
        with server.client() as client:
            client.delete(f"{{{KEYS.tasks}}}:waiting")
        await one.queue.leases.reconcile()
    elif step == "renew":
        await one.queue.leases.renew()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tasks=st.lists(TASK, min_size=1, max_size=8), steps=st.lists(STEP, max_size=25))
def test_no_order_of_steps_loses_or_doubles(
    server: RedisServer, tasks: list[tuple[str, int]], steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        with server.client() as client:
            client.flushall()
        for number, (session, priority) in enumerate(tasks):
            submit(server, task_id=f"t{number}", priority=priority, **({"session": session} if session else {}))
        async with replica(server, lease_s=600) as one, replica(server, lease_s=600) as other:
            both: tuple[tuple[Replica, list[Claim]], ...] = ((one, []), (other, []))
            for step, who in steps:
                here, held = both[who]
                await take_step(server, step, here, both[1 - who][0], held)
            for here, held in both:
                for claim in held:
                    await here.queue.complete(claim, answer(claim))
            while len(results(server)) < len(tasks):
                claim = await one.next()
                await one.queue.complete(claim, answer(claim))
            assert await one.none_left()
        stored = [result["task_id"] for result in results(server)]
        assert sorted(stored) == sorted(f"t{number}" for number in range(len(tasks)))
        with server.client() as client:
            assert client.xlen(KEYS.tasks) == 0
            for key in ("waiting", "later", "busy", "ids", "line:a", "line:b"):
                assert not client.exists(f"{{{KEYS.tasks}}}:{key}"), key

    asyncio.run(play())
