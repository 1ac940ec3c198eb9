"""What the tests of the Redis parts share: queues on a server, tasks in it, answers to them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agent_bus.dead_letters import DeadLetter
from agent_bus.messages import Result, TaskStatus, utc_now
from agent_bus.queue import Claim
from agent_bus.redis.keys import RESULTS, WorkerKeys
from agent_bus.redis.queue import RedisQueue
from agent_bus.redis.url import parse_redis_url
from tests.redis_server import RedisServer

KEYS = WorkerKeys("marie")
_instances = itertools.count()


class Observer:
    """Keeps what the queue tells."""

    def __init__(self) -> None:
        self.rings = 0
        self.letters: list[DeadLetter] = []

    def ready(self) -> None:
        self.rings += 1

    def buried(self, letter: DeadLetter) -> None:
        self.letters.append(letter)


class Replica:
    """A queue with its observer."""

    def __init__(self, url: str, *, lease_s: float, max_bytes: int, patience_s: float) -> None:
        self.told = Observer()
        self.queue = RedisQueue(
            parse_redis_url(url),
            worker="marie",
            instance=f"marie-{next(_instances)}",
            observer=self.told,
            lease_s=lease_s,
            max_bytes=max_bytes,
            patience_s=patience_s,
        )
        self.life: asyncio.Task[None] | None = None

    async def next(self, timeout: float = 5.0) -> Claim:
        """Return the next claim, waiting for one."""
        async with asyncio.timeout(timeout):
            while True:
                self.queue.notice()
                if (claim := await self.queue.claim()) is not None:
                    return claim
                await asyncio.sleep(0.005)

    async def none_left(self) -> bool:
        """Tell whether a look at Redis brings nothing; what is slow is waited for."""
        for _ in range(3):
            self.queue.notice()
            if await self.queue.claim() is not None:
                return False
        return True

    async def all(self) -> list[Claim]:
        """Take all that can be taken."""
        claims = []
        for _ in range(2):
            self.queue.notice()
            while (claim := await self.queue.claim()) is not None:
                claims.append(claim)
        return claims

    async def die(self) -> None:
        """Stop renewing and answering, as a killed process does."""
        try:
            await self._end_life()
        finally:
            await self.queue.caller.aclose()

    async def aclose(self) -> None:
        """End it politely unless it is dead; its connections are closed even where the test is being cancelled."""
        try:
            if await self._end_life():
                await self.queue.aclose()
        finally:
            await self.queue.caller.aclose()

    async def _end_life(self) -> bool:
        """Return whether it was still alive."""
        assert self.life is not None
        if self.life.done():
            return False
        self.life.cancel()
        # Not `await self.life`: its cancellation and one of the test could not be told apart, and a test that has run
        # out of time would go on.
        await asyncio.wait([self.life])
        return True


@asynccontextmanager
async def replica(
    server: RedisServer | str, *, lease_s: float = 30.0, max_bytes: int = 1_048_576, patience_s: float = 10.0
) -> AsyncIterator[Replica]:
    """Open a queue that lives with the block; its claims wait for their answers however slow the machine is."""
    url = server if isinstance(server, str) else server.url
    one = Replica(url, lease_s=lease_s, max_bytes=max_bytes, patience_s=patience_s)
    one.life = asyncio.create_task(one.queue.run_forever())
    try:
        yield one
    finally:
        await one.aclose()


def submit(server: RedisServer, **fields: Any) -> str:
    """Add a task to marie's stream; returns the entry."""
    return submit_raw(server, json.dumps({"description": "do it", **fields}))


def submit_raw(server: RedisServer, body: str | bytes, field: str = "task") -> str:
    with server.client() as client:
        entry = client.xadd(KEYS.tasks, {field: body})
        assert isinstance(entry, bytes)
        return entry.decode()


def ring(server: RedisServer) -> None:
    """Tell marie that there is something, as whoever adds a task does: without it she finds it at her next rescan."""
    with server.client() as client:
        client.publish(KEYS.bell, b"")


def answer(claim: Claim, output: str = "done", status: TaskStatus = TaskStatus.COMPLETED) -> Result:
    now = utc_now()
    return Result(
        task_id=claim.task.task_id,
        worker="marie",
        instance="i",
        status=status,
        output=output,
        attempts=claim.attempt,
        completed_at=now,
        timestamp=now,
    )


def results(server: RedisServer) -> list[dict[str, Any]]:
    """Return all that the stream of results holds."""
    with server.client() as client:
        return [json.loads(fields[b"result"]) for _, fields in client.xrange(RESULTS)]


def letters(server: RedisServer) -> list[dict[str, str]]:
    """Return the dead letters."""
    with server.client() as client:
        found = client.xrange(KEYS.dead_letters)
        return [{name.decode(): value.decode("utf-8", "replace") for name, value in row.items()} for _, row in found]


def keys_without_expiry(server: RedisServer) -> set[str]:
    with server.client() as client:
        return {key.decode() for key in client.keys("*") if client.ttl(key) == -1}
