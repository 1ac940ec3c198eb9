"""The Redis queue when things die: instances, indexes, scripts, Redis itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_bus.errors import QueueUnavailable, ResultNotStored
from agent_bus.redis.keys import GROUP, RESULTS
from tests.integration.redis_harness import KEYS, answer, replica, results, submit, submit_raw
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until

_ONE_CLAIM = """
import asyncio, sys
from agent_bus.redis.queue import RedisQueue
from agent_bus.redis.url import parse_redis_url
from tests.integration.redis_harness import Observer

async def main():
    address = parse_redis_url(sys.argv[1])
    queue = RedisQueue(address, worker="marie", instance="doomed", observer=Observer(), lease_s=1.0)
    asyncio.get_running_loop().create_task(queue.run_forever())
    while (claim := await queue.claim()) is None:
        queue.notice()
    await queue.remember(claim, session_id="conversation")
    print(claim.task.task_id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as server:
        yield server


async def test_the_tasks_of_a_killed_process_go_on_in_their_conversation(server: RedisServer) -> None:
    submit(server, task_id="t", session="talk")
    submit(server, task_id="after", session="talk")
    command = [sys.executable, "-c", _ONE_CLAIM, server.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"t\n"
    process.kill()
    await process.wait()
    async with replica(server, lease_s=1.0) as other:
        claim = await other.next(timeout=15)
        assert (claim.task.task_id, claim.attempt, claim.session_id) == ("t", 2, "conversation")
        await other.queue.complete(claim, answer(claim))
        assert (await other.next()).task.task_id == "after"


async def test_a_slow_task_is_not_taken_from_a_living_worker(server: RedisServer) -> None:
    submit(server, task_id="slow")
    async with replica(server, lease_s=0.5) as one, replica(server, lease_s=0.5) as other:
        claim = await one.next()
        since = time.monotonic()
        # Several leases long: a look that found the task dead would ring.
        await async_wait_until(lambda: time.monotonic() - since > 2.0)
        assert await other.none_left()
        assert await one.queue.complete(claim, answer(claim))


async def test_nobody_is_judged_before_one_lease_of_connection(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server, lease_s=600) as one, replica(server, lease_s=600) as other:
        await one.next()
        await other.none_left()
        with server.client() as client:
            entry = client.xrange(KEYS.tasks)[0][0]
            # As after an hour without Redis.
            client.xclaim(KEYS.tasks, GROUP, one.queue.instance, 0, [entry], idle=3_600_000, justid=True)
        await other.queue.leases.tend()
        assert await other.none_left()
        await one.queue.leases.tend()
        assert await other.queue.leases.reclaim() == 0


async def test_a_lost_lease_is_noticed_and_the_first_result_stays(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    submit(server, task_id="t")
    async with replica(server, lease_s=600) as one, replica(server, lease_s=600) as other:
        claim = await one.next()
        await other.none_left()
        with server.client() as client:
            entry = client.xrange(KEYS.tasks)[0][0]
            client.xclaim(KEYS.tasks, GROUP, one.queue.instance, 0, [entry], idle=3_600_000, justid=True)
        assert await other.queue.leases.reclaim() == 1
        again = await other.next()
        assert again.attempt == 2
        await one.queue.leases.renew()
        assert [record.__dict__.get("action") for record in caplog.records].count("lease_lost") == 1
        assert await one.queue.complete(claim, answer(claim, "first"))
        assert not await other.queue.complete(again, answer(again, "second"))
    assert [result["output"] for result in results(server)] == ["first"]


async def test_a_reclaimed_task_that_nobody_began_stays_with_its_living_owner(server: RedisServer) -> None:
    submit(server, task_id="t", session="talk")
    async with replica(server, lease_s=600) as one, replica(server, lease_s=600) as other:
        claim = await one.next()
        await other.none_left()
        with server.client() as client:
            entry = client.xrange(KEYS.tasks)[0][0]
            client.xclaim(KEYS.tasks, GROUP, one.queue.instance, 0, [entry], idle=3_600_000, justid=True)
        assert await other.queue.leases.reclaim() == 1
        await one.queue.leases.renew()
        assert await other.none_left()
        assert await one.queue.complete(claim, answer(claim))


async def test_what_is_held_at_the_end_goes_back_and_the_consumer_goes(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one:
        await one.next()
    with server.client() as client:
        names = {row["name"] for row in client.xinfo_consumers(KEYS.tasks, GROUP)}
        assert names == {b"waiting"}
    async with replica(server) as other:
        assert (await other.next()).attempt == 2


async def test_a_queue_that_has_stopped_says_so_at_once(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one:
        claim = await one.next()
        assert one.life is not None
        server.pause()
        try:
            storing = asyncio.create_task(one.queue.complete(claim, answer(claim)))
            await asyncio.sleep(0)
            one.life.cancel()
            with pytest.raises(ResultNotStored, match="stopping"):
                await storing
        finally:
            server.resume()
        with pytest.raises(ResultNotStored, match="stopping"):
            await one.queue.complete(claim, answer(claim))
        assert await one.queue.claim() is None
        # `aclose` follows, and gives back what is held, unless Redis has ended it after all.


async def test_claims_whose_answer_was_lost_go_back_unspent(server: RedisServer) -> None:
    async with replica(server, lease_s=0.3) as one:
        assert await one.none_left()
        with server.client() as client:
            # Redis did what it was asked for, and the answer never came.
            submit(server, task_id="t", session="talk")
            submit(server, task_id="u")
            assert client.xreadgroup(GROUP, one.queue.instance, {KEYS.tasks: ">"})
        claims = [await one.next(), await one.next()]
        assert [(claim.task.task_id, claim.attempt) for claim in claims] == [("t", 1), ("u", 1)]


@pytest.mark.parametrize("lost", ["waiting", "later", "busy", "ids", "all"])
async def test_a_lost_index_loses_no_task(server: RedisServer, lost: str) -> None:
    for number in range(40):
        submit(server, task_id=f"t{number}", **({"session": "talk"} if number % 2 else {}))
    async with replica(server) as one:
        first = await one.next()
        with server.client() as client:
            names = client.keys(f"{{{KEYS.tasks}}}:*") if lost == "all" else [f"{{{KEYS.tasks}}}:{lost}"]
            client.delete(*names)
        while await one.queue.leases.reconcile():
            pass
        seen = {first.task.task_id}
        await one.queue.complete(first, answer(first))
        while len(seen) < 40:
            claim = await one.next()
            assert claim.task.task_id not in seen
            seen.add(claim.task.task_id)
            await one.queue.complete(claim, answer(claim))
    assert len(results(server)) == 40


async def test_a_session_whose_running_entry_was_deleted_goes_on(server: RedisServer) -> None:
    submit(server, task_id="gone", session="talk")
    submit(server, task_id="next", session="talk")
    async with replica(server) as one:
        claim = await one.next()
        with server.client() as client:
            client.xack(KEYS.tasks, GROUP, claim.token)
            client.xdel(KEYS.tasks, claim.token)
        await one.queue.leases.reconcile()
        assert (await one.next()).task.task_id == "next"


async def test_flushed_data_and_scripts_are_made_again(server: RedisServer) -> None:
    submit(server, task_id="before")
    async with replica(server) as one:
        claim = await one.next()
        with server.client() as client:
            client.flushall()
            client.script_flush()
        submit(server, task_id="after")
        assert (await one.next()).task.task_id == "after"
        assert await one.queue.complete(claim, answer(claim))
        assert one.queue.trouble is None


async def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", durable=True) as server:
        for number in range(30):
            submit(server, task_id=f"t{number}")
        async with replica(server, lease_s=1.0) as one:
            claim = await one.next()
            server.kill()
            with pytest.raises(ResultNotStored, match="task t0"):
                await one.queue.complete(claim, answer(claim))
            assert not one.queue.connected
            one.queue.notice()
            assert await one.queue.claim() is None
            server.start()
            done = {claim.task.task_id}
            assert await one.queue.complete(claim, answer(claim))
            while len(done) < 30:
                claim = await one.next()
                done.add(claim.task.task_id)
                await one.queue.complete(claim, answer(claim))
        assert sorted(result["task_id"] for result in results(server)) == sorted(done)


async def test_it_rings_by_itself_when_redis_is_back(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", durable=True) as server:
        async with replica(server) as one:
            assert await one.none_left()
            server.kill()
            assert await one.none_left()
            seen, claim, looks = one.told.rings, None, 0
            while claim is None:
                # As the dispatcher does: one look for each ring, and none without.
                await async_wait_until(lambda before=seen: one.told.rings > before)  # type: ignore[misc]
                seen = one.told.rings
                claim = await one.queue.claim()
                looks += 1
                if looks == 2:
                    server.start()
                    submit(server, task_id="t")
            assert claim.task.task_id == "t"


async def test_a_paused_redis_delays_no_claim_and_loses_none(server: RedisServer) -> None:
    submit(server, task_id="first")
    async with replica(server, lease_s=2.0) as one:
        claim = await one.next()
        result = answer(claim)
        server.pause()
        try:
            submitted = asyncio.create_task(one.queue.complete(claim, result))
            with pytest.raises(ResultNotStored, match="does not answer in time"):
                await asyncio.wait_for(submitted, 9.9)
        finally:
            server.resume()
        submit(server, task_id="second")
        # Redis may have done it after all, when it went on: the same result is no second one.
        assert await one.queue.complete(claim, result)
        assert (await one.next(timeout=15)).task.task_id == "second"
    assert len(results(server)) == 1


async def test_a_slow_redis_hands_over_late_what_it_took(tmp_path: Path) -> None:
    """Without patience of the claim: it comes back empty-handed, and what was taken is there for the next one."""
    with running_redis(tmp_path / "redis") as server:
        async with replica(server, patience_s=0.05) as one:
            await one.none_left()
            submit(server, task_id="t")
            server.pause()
            one.queue.notice()
            assert await asyncio.wait_for(one.queue.claim(), 2.0) is None
            rings = one.told.rings
            server.resume()
            await async_wait_until(lambda: one.told.rings > rings)
            claim = await one.next()
            assert (claim.task.task_id, claim.attempt) == ("t", 1)


async def test_a_slow_redis_that_took_what_is_no_task_is_asked_again(tmp_path: Path) -> None:
    """Nobody waits for that answer any more, and there is more to take: the queue must say so, or it lies there."""
    with running_redis(tmp_path / "redis") as server:
        async with replica(server, patience_s=0.05) as one:
            await one.none_left()
            submit_raw(server, "nonsense")
            submit(server, task_id="t")
            server.pause()
            one.queue.notice()
            assert await asyncio.wait_for(one.queue.claim(), 2.0) is None
            rings = one.told.rings
            server.resume()
            await async_wait_until(lambda: len(one.told.letters) == 1, 10)
            await async_wait_until(lambda: one.told.rings > rings, 5)


async def test_wrong_password_is_said_without_it(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", password="sesam") as server:
        for url, says in (
            (server.url.replace("sesam", "guessed"), "refuses the user name or the password"),
            (server.url.replace(":sesam@", ""), "asks for a password"),
        ):
            async with replica(url) as one:
                assert await one.none_left()
                assert says in (one.queue.trouble or "")
                assert "guessed" not in (one.queue.trouble or "") and "guessed" not in repr(one.queue.caller.client)
        async with replica(server) as one:
            assert await one.none_left()
            assert one.queue.connected


async def test_a_read_only_replica_says_so(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "master") as master,
        running_redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port)) as slave,
    ):
        submit(master, task_id="t")
        async with replica(slave) as one:
            one.queue.notice()
            assert await one.queue.claim() is None
            await async_wait_until(lambda: "read-only replica" in (one.queue.trouble or ""))


async def test_a_key_of_another_type_is_named_and_costs_no_result(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one:
        claim = await one.next()
        with server.client() as client:
            client.set(RESULTS, "text")
        with pytest.raises(ResultNotStored, match="WRONGTYPE"):
            await one.queue.complete(claim, answer(claim))
        with server.client() as client:
            client.delete(RESULTS)
        assert await one.queue.complete(claim, answer(claim))
        assert len(results(server)) == 1
        with server.client() as client:
            client.set(KEYS.tasks, "text")
        assert await one.none_left()
        assert "of another type" in (one.queue.trouble or "")


async def test_nothing_is_lost_where_memory_is_full(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", "--maxmemory-policy", "noeviction") as server:
        submit(server, task_id="t")
        async with replica(server) as one:
            claim = await one.next()
            with server.client() as client:
                client.config_set("maxmemory", "1mb")
                with pytest.raises((ResultNotStored, QueueUnavailable), match="memory"):
                    await one.queue.complete(claim, answer(claim))
                client.config_set("maxmemory", "0")
            assert await one.queue.complete(claim, answer(claim))
        assert len(results(server)) == 1


async def test_replicas_that_die_and_come_neither_lose_nor_double(tmp_path: Path) -> None:
    total = 300
    with running_redis(tmp_path / "redis", durable=True) as server:
        for number in range(total):
            fields = {"session": f"s{number % 7}"} if number % 3 == 0 else {}
            submit(server, task_id=f"t{number}", priority=number % 5, **fields)

        def is_done() -> bool:
            return len(results(server)) == total

        async def serve(seed: int) -> None:
            """Work; now and then die with what is held, or give something back."""
            step = seed
            while not is_done():
                async with replica(server, lease_s=0.5) as one:
                    # A life ends after so many tasks and never for want of them: only who has been there for a whole
                    # lease gives back what the dead held.
                    last = step + 40
                    while step < last:
                        one.queue.notice()
                        claim = await one.queue.claim()
                        if claim is None:
                            if is_done():
                                break
                            await asyncio.sleep(0.01)
                            continue
                        step += 1
                        if step % 29 == 0:
                            await one.die()
                            break
                        try:
                            if step % 5 == 0:
                                await one.queue.release(claim, spend_attempt=bool(step % 2))
                            else:
                                await one.queue.complete(claim, answer(claim))
                        except (QueueUnavailable, ResultNotStored):
                            continue

        async with asyncio.timeout(50), asyncio.TaskGroup() as serving:
            for seed in range(3):
                serving.create_task(serve(seed))
            await async_wait_until(lambda: len(results(server)) > 50, timeout=30)
            server.restart()
        stored = [json.dumps(result["task_id"]) for result in results(server)]
        assert len(stored) == len(set(stored)) == total
        with server.client() as client:
            assert client.xlen(KEYS.tasks) == 0


async def test_a_test_that_runs_out_of_time_leaves_no_connection(server: RedisServer) -> None:
    lives: list[asyncio.Task[None]] = []

    async def serve() -> None:
        async with replica(server) as one:
            assert await one.none_left()
            assert one.life is not None
            lives.append(one.life)
        await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await async_wait_until(lambda: lives and lives[0].cancelling())
    serving.cancel()
    await asyncio.wait([serving], timeout=10)
    assert serving.cancelled()
    with server.client() as client:
        await async_wait_until(lambda: len(client.client_list()) == 1, what="only this connection")
