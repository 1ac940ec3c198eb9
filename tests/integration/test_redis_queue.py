"""The Redis queue against a real server: order, one result, sessions, releases, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from agent_bus.errors import DeadLetterReason
from agent_bus.messages import TaskStatus, utc_now
from agent_bus.redis.keys import RESULTS, result_by_id
from tests.integration.redis_harness import (
    KEYS,
    answer,
    keys_without_expiry,
    letters,
    replica,
    results,
    submit,
    submit_raw,
)
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    with shared_server.client() as client:
        client.flushall()
    return shared_server


async def test_the_highest_priority_goes_first_and_then_the_oldest(server: RedisServer) -> None:
    for number in range(12):
        submit(server, task_id=f"n{number}")
    submit(server, task_id="low", priority="low")
    submit(server, task_id="urgent", priority="urgent")
    submit(server, task_id="sixty", priority=60)
    async with replica(server) as one, replica(server) as other:
        order = []
        for number in range(15):
            claim = await (one, other)[number % 2].next()
            order.append(claim.task.task_id)
        assert order == ["urgent", "sixty", *(f"n{number}" for number in range(12)), "low"]
        assert one.queue.depth() == 0


async def test_the_streams_length_is_what_waits_and_what_runs(server: RedisServer) -> None:
    """What deploy/k8s/components/keda goes by: neither the group's lag nor its pending entries are it."""
    for number in range(3):
        submit(server, task_id=f"n{number}")
    with server.client() as client:
        async with replica(server) as one:
            claims = [await one.next(), await one.next()]
            submit(server, task_id="unread")
            assert client.xlen(KEYS.tasks) == 4
            assert client.xpending(KEYS.tasks, "workers")["pending"] == 3
            for claim in claims:
                await one.queue.complete(claim, answer(claim))
            assert client.xlen(KEYS.tasks) == 2


async def test_a_late_urgent_task_overtakes_a_backlog(server: RedisServer) -> None:
    for number in range(50):
        submit(server, task_id=f"n{number}")
    async with replica(server) as one:
        first = await one.next()
        submit(server, task_id="urgent", priority="urgent")
        await one.queue.complete(first, answer(first))
        assert (await one.next()).task.task_id == "urgent"


async def test_a_result_is_stored_with_its_acknowledgement(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one:
        claim = await one.next()
        assert claim.attempt == 1 and claim.transport == "redis"
        assert abs((utc_now() - claim.queued_at).total_seconds()) < 60
        assert await one.queue.complete(claim, answer(claim))
    with server.client() as client:
        assert client.xlen(KEYS.tasks) == 0
        assert json.loads(client.get(result_by_id("t")))["status"] == "completed"
    assert [result["task_id"] for result in results(server)] == ["t"]


async def test_every_other_key_expires(server: RedisServer) -> None:
    async with replica(server) as one:
        for number in range(20):
            submit(server, task_id=f"t{number}", session=f"s{number % 3}")
        claim = await one.next()
        await one.queue.remember(claim, session_id="c")
        later = utc_now() + timedelta(hours=1)
        await one.queue.release(claim, spend_attempt=False, not_before=later, reason="limit")
        await one.queue.request_cancel("t9")
        claim = await one.next()
        await one.queue.complete(claim, answer(claim))
        assert keys_without_expiry(server) == {KEYS.tasks, RESULTS}


async def test_the_same_id_again_is_set_aside(server: RedisServer) -> None:
    submit(server, task_id="t")
    submit(server, task_id="t")
    async with replica(server) as one:
        claim = await one.next()
        assert await one.none_left()
        await async_wait_until(lambda: one.told.letters)
        assert await one.queue.complete(claim, answer(claim, "first"))
        submit(server, task_id="t")
        assert await one.none_left()
        await async_wait_until(lambda: len(one.told.letters) == 2)
        assert await one.none_left()
    assert [letter["reason"] for letter in letters(server)] == ["duplicate", "duplicate"]
    assert [result["output"] for result in results(server)] == ["first"]


async def test_a_second_result_is_refused(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one:
        claim = await one.next()
        with server.client() as client:
            client.set(result_by_id("t"), b'{"output": "earlier"}')
        assert not await one.queue.complete(claim, answer(claim))
        assert results(server) == []
        assert await one.none_left()


async def test_the_same_result_stored_twice_counts_once(server: RedisServer) -> None:
    """The answer to the first storing may be lost, and the worker then tries again."""
    submit(server, task_id="t")
    async with replica(server) as one:
        claim = await one.next()
        result = answer(claim)
        assert await one.queue.complete(claim, result)
        assert await one.queue.complete(claim, result)
    assert len(results(server)) == 1


async def test_released_tasks_come_back_with_their_notes(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one, replica(server) as other:
        claim = await one.next()
        await one.queue.remember(claim, session_id="conversation")
        kept = answer(claim)
        await one.queue.release(claim, spend_attempt=False, reason="stopped", result=kept)
        again = await other.next()
        assert (again.attempt, again.session_id) == (1, "conversation")
        assert again.notes["result"]["output"] == "done"
        await other.queue.release(again, spend_attempt=True, reason="trouble")
        third = await one.next()
        assert third.attempt == 2
        assert third.notes["released_because"] == "trouble"


async def test_a_parked_task_waits_and_then_rings(server: RedisServer) -> None:
    submit(server, task_id="parked")
    submit(server, task_id="other")
    async with replica(server) as one:
        claim = await one.next()
        await one.queue.release(
            claim, spend_attempt=False, not_before=utc_now() + timedelta(seconds=0.5), reason="limit"
        )
        other = await one.next()
        assert other.task.task_id == "other"
        await one.queue.complete(other, answer(other))
        assert await one.none_left()
        rings = one.told.rings
        await async_wait_until(lambda: one.told.rings > rings)
        again = await one.queue.claim()
        assert again is not None and (again.task.task_id, again.attempt) == ("parked", 1)


async def test_a_session_runs_one_at_a_time_in_order_across_replicas(server: RedisServer) -> None:
    for number in range(4):
        submit(server, task_id=f"s{number}", session="talk", priority=30 + 10 * number)
    submit(server, task_id="free", priority="low")
    async with replica(server) as one, replica(server) as other:
        order = []
        for number in range(4):
            here, there = (one, other) if number % 2 else (other, one)
            claim = await here.next()
            assert claim.session_id == (None if number == 0 else "conversation")
            order.append(claim.task.task_id)
            if number == 0:
                free = await there.next()
                assert free.task.task_id == "free"
                await there.queue.complete(free, answer(free))
            assert await there.none_left()
            await here.queue.remember(claim, session_id="conversation")
            await here.queue.complete(claim, answer(claim))
        assert order == ["s0", "s1", "s2", "s3"]


async def test_a_parked_task_holds_its_session_back(server: RedisServer) -> None:
    submit(server, task_id="s0", session="talk")
    submit(server, task_id="s1", session="talk")
    async with replica(server) as one:
        claim = await one.next()
        await one.queue.release(
            claim, spend_attempt=False, not_before=utc_now() + timedelta(seconds=0.3), reason="limit"
        )
        assert await one.none_left()
        claim = await one.next()
        assert claim.task.task_id == "s0"


async def test_busy_sessions_do_not_starve_others(server: RedisServer) -> None:
    for number in range(400):
        submit(server, task_id=f"s{number}", session="talk", priority="urgent")
    submit(server, task_id="free", priority="low")
    async with replica(server) as one:
        assert (await one.next()).task.task_id == "s0"
        assert (await one.next()).task.task_id == "free"
        with server.client() as client:
            assert client.zcard(f"{{{KEYS.tasks}}}:waiting") == 0


async def test_a_waiting_task_is_cancelled_at_its_claim(server: RedisServer) -> None:
    submit(server, task_id="t")
    async with replica(server) as one:
        await one.queue.request_cancel("t")
        claim = await one.next()
        assert claim.cancelled
        await one.queue.complete(claim, answer(claim, status=TaskStatus.CANCELLED))
        with server.client() as client:
            assert not client.exists(KEYS.cancel("t"))


@pytest.mark.parametrize(
    ("body", "reason", "says"),
    [
        (b"", "malformed", "empty"),
        (b"\xff\xfe", "malformed", "not valid JSON"),
        (b"{", "malformed", "not valid JSON"),
        (b"[1]", "malformed", "an array"),
        (b'{"task_id": "t"}', "invalid_task", "description is missing"),
        (b'{"task_id": "../t", "description": "x"}', "invalid_task", "task_id"),
        (b'{"task_id": "t", "description": "x", "priority": "never"}', "invalid_task", "priority"),
        (b'{"task_id": "t", "description": "x", "worker": "anga"}', "wrong_worker", "anga"),
        (b'{"task_id": "t", "description": "' + b"x" * 3000 + b'"}', "too_large", "2000"),
        (b'{"description": "x", "a": ' + b"[" * 900 + b"]" * 900 + b"}", "malformed", "JSON"),
    ],
)
async def test_what_is_no_task_is_set_aside_and_the_next_good_one_works(
    server: RedisServer, body: bytes, reason: str, says: str
) -> None:
    submit_raw(server, body)
    submit(server, task_id="good")
    async with replica(server, max_bytes=2000) as one:
        claim = await one.next()
        assert claim.task.task_id == "good"
        await one.queue.complete(claim, answer(claim))
        await async_wait_until(lambda: one.told.letters)
        assert await one.none_left()
    (letter,) = letters(server)
    assert letter["reason"] == reason and says in letter["message"]
    with server.client() as client:
        assert client.xlen(KEYS.tasks) == 0
    failed = [result for result in results(server) if result["task_id"] != "good"]
    if b'"task_id": "t"' in body:
        assert [(result["task_id"], result["error"]["kind"]) for result in failed] == [("t", reason)]


async def test_an_entry_without_the_field_is_set_aside(server: RedisServer) -> None:
    submit_raw(server, b"x\xff", field="nothing")
    async with replica(server) as one:
        assert await one.none_left()
        await async_wait_until(lambda: one.told.letters)
    assert letters(server)[0]["reason"] == "malformed"
    assert "no field 'task'" in letters(server)[0]["message"]


async def test_a_flood_of_bad_entries_does_not_hide_the_good_one(server: RedisServer) -> None:
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for _ in range(300):
            pipe.xadd(KEYS.tasks, {"task": "nonsense"})
        pipe.execute()
    submit(server, task_id="good")
    async with replica(server) as one:
        assert (await one.next()).task.task_id == "good"
        await async_wait_until(lambda: len(one.told.letters) == 300)


async def test_a_bad_task_does_not_block_its_session(server: RedisServer) -> None:
    submit(server, task_id="bad", session="talk", max_turns=-1)
    submit(server, task_id="good", session="talk")
    async with replica(server) as one:
        assert (await one.next()).task.task_id == "good"


async def test_a_task_without_an_id_gets_one_that_tells_where_it_lay(server: RedisServer) -> None:
    entry = submit(server)
    async with replica(server) as one:
        assert (await one.next()).task.task_id == f"marie-{entry}"


async def test_a_buried_task_has_its_letter_and_its_result(server: RedisServer) -> None:
    submit(server, task_id="t", session="talk", note="kept")
    submit(server, task_id="next", session="talk")
    async with replica(server) as one:
        claim = await one.next()
        failed = answer(claim, status=TaskStatus.FAILED)
        await one.queue.bury(claim, DeadLetterReason.ATTEMPTS_EXHAUSTED, "it was begun 3 times", failed)
        assert (await one.next()).task.task_id == "next"
    (letter,) = letters(server)
    assert letter["reason"] == "attempts_exhausted"
    assert json.loads(letter["task"])["note"] == "kept"
    assert results(server)[0]["status"] == "failed"


async def test_a_message_heard_by_all_is_enqueued_once(server: RedisServer) -> None:
    async with replica(server) as one, replica(server) as other:
        message = b'{"description": "x"}'
        added = [await each.queue.enqueue_activated(message) for each in (one, other)]
        assert sorted(added) == [False, True]
        assert sorted([await each.queue.enqueue_activated(message, "t") for each in (one, other)]) == [False, True]
        with server.client() as client:
            assert client.xlen(KEYS.tasks) == 2


async def test_nothing_is_asked_while_nothing_was_hinted(server: RedisServer) -> None:
    async with replica(server) as one:
        assert await one.none_left()
        submit(server, task_id="t")
        assert await one.queue.claim() is None
        one.queue.notice()
        assert await one.queue.claim() is not None


async def test_no_more_is_taken_than_there_are_callers(server: RedisServer) -> None:
    for number in range(40):
        submit(server, task_id=f"n{number}")
    async with replica(server) as one, replica(server) as other:
        await one.next()
        assert len(await other.all()) == 39
