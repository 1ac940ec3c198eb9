"""Following what an agent does, live: whole lines only, one reader a journal, and nobody waits for a slow one."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from agent_bus.events import EventJournal
from agent_bus.layout import WorkerLayout
from orchestrator_service.transports import journals, watching
from orchestrator_service.transports.base import JournalLine
from tests.integration.test_file_transport import listening
from tests.integration.transport_harness import take
from tests.waiting import async_wait_until


def journal(layout: WorkerLayout, task_id: str = "1") -> EventJournal:
    return EventJournal(layout.events, worker="marie", task_id=task_id)


def size_of(layout: WorkerLayout) -> int:
    return os.path.getsize(layout.event_journal("1"))


def numbers(lines: list[JournalLine]) -> list[int]:
    return [json.loads(line.line)["data"]["n"] for line in lines]


async def test_lines_are_told_as_they_come_and_one_can_go_on_behind_any(shared: Path, layout: WorkerLayout) -> None:
    writer = journal(layout)
    writer.append("text", {"n": 0})
    async with listening(shared) as (files, _):
        async with aclosing(files.follow("marie", "1", 0)) as lines:
            (first,) = await take(lines, 1)
            writer.append("text", {"n": 1})
            (second,) = await take(lines, 1)
            assert numbers([first, second]) == [0, 1]
            assert second.position == size_of(layout)
        async with aclosing(files.follow("marie", "1", first.position)) as lines:
            assert await take(lines, 1) == [second]
        # In the middle of a line: from the next one on.
        async with aclosing(files.follow("marie", "1", 3)) as lines:
            assert await take(lines, 1) == [second]
    writer.close()


async def test_a_journal_that_is_not_there_yet_is_followed_from_its_beginning(
    shared: Path, layout: WorkerLayout
) -> None:
    async with listening(shared) as (files, _), aclosing(files.follow("marie", "1", 0)) as lines:
        waiting = asyncio.ensure_future(take(lines, 3))
        await asyncio.sleep(0)
        writer = journal(layout)
        for number in range(3):
            writer.append("text", {"n": number})
        assert numbers(await asyncio.wait_for(waiting, 10)) == [0, 1, 2]
        writer.close()


async def test_a_torn_line_is_told_when_it_is_whole(shared: Path, layout: WorkerLayout) -> None:
    layout.events.mkdir(parents=True)
    with layout.event_journal("1").open("ab", buffering=0) as writer:
        writer.write(b'{"a": 1}\n{"b"')
        async with listening(shared) as (files, _), aclosing(files.follow("marie", "1", 0)) as lines:
            assert (await take(lines, 1))[0].line == b'{"a": 1}'
            waiting = asyncio.ensure_future(take(lines, 1))
            writer.write(b": 2}")
            writer.write(b"\n")
            (line,) = await asyncio.wait_for(waiting, 10)
            assert line == JournalLine(position=18, line=b'{"b": 2}')


async def test_a_line_longer_than_a_block_is_told_whole(shared: Path, layout: WorkerLayout) -> None:
    writer = journal(layout)
    writer.append("text", {"n": 0, "text": "x" * 1_000_000})
    async with listening(shared) as (files, _), aclosing(files.follow("marie", "1", 0)) as lines:
        assert numbers(await take(lines, 1)) == [0]
        writer.append("text", {"n": 1, "text": "x" * 1_000_000})
        assert numbers(await take(lines, 1)) == [1]
    writer.close()


async def test_a_follower_that_does_not_read_slows_nobody_and_misses_nothing(
    shared: Path, layout: WorkerLayout
) -> None:
    count = 5000
    writer = journal(layout)
    writer.append("text", {"n": 0})
    async with listening(shared) as (files, _):
        followers = [files.follow("marie", "1", 0) for _ in range(50)]
        slow = followers[0]
        for follower in followers:
            await take(follower, 1)

        async def write() -> None:
            for number in range(1, count):
                writer.append("text", {"n": number})
                if number % 100 == 0:
                    await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        read = await asyncio.gather(*(take(follower, count - 1) for follower in followers[1:]))
        assert all(numbers(lines) == list(range(1, count)) for lines in read)
        await writing
        # What waits for it is bounded; the rest it reads by itself.
        (shared_reader,) = files._news.journals._journals.values()  # type: ignore[union-attr]
        assert max(len(follower.queue) for follower in shared_reader.followers) <= journals._MOST_QUEUED
        assert numbers(await take(slow, count - 1)) == list(range(1, count))
        writer.append("text", {"n": count})
        assert numbers(await take(slow, 1)) == [count]
        for follower in followers:
            await follower.aclose()  # type: ignore[attr-defined]
        # Nothing is kept for nobody.
        assert files._news.journals._journals == {}  # type: ignore[union-attr]
    writer.close()


async def test_many_followers_of_one_journal_share_one_read(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = journal(layout)
    writer.append("text", {"n": 0})
    async with listening(shared) as (files, _):
        followers = [files.follow("marie", "1", 0) for _ in range(50)]
        for follower in followers:
            await take(follower, 1)
        reads = 0
        read = journals._Journal.read

        def counted(self: journals._Journal, position: int) -> list[JournalLine]:
            nonlocal reads
            reads += 1
            return read(self, position)

        waiting = [asyncio.ensure_future(take(follower, 1)) for follower in followers]
        await asyncio.sleep(0)
        monkeypatch.setattr(journals._Journal, "read", counted)
        writer.append("text", {"n": 1})
        assert all(numbers(lines) == [1] for lines in await asyncio.gather(*waiting))
        assert reads <= 3
        for follower in followers:
            await follower.aclose()  # type: ignore[attr-defined]
    writer.close()


async def test_a_journal_that_is_replaced_is_followed_anew(shared: Path, layout: WorkerLayout) -> None:
    writer = journal(layout)
    writer.append("text", {"n": 0})
    async with listening(shared) as (files, _), aclosing(files.follow("marie", "1", 0)) as lines:
        assert numbers(await take(lines, 1)) == [0]
        writer.close()
        waiting = asyncio.ensure_future(take(lines, 2))
        await asyncio.sleep(0)
        layout.event_journal("1").unlink()
        again = journal(layout)
        again.append("text", {"n": 1})
        again.append("text", {"n": 2})
        assert numbers(await asyncio.wait_for(waiting, 10)) == [1, 2]
        again.close()


async def test_without_inotify_journals_are_followed_all_the_same(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoInotify:
        def __init__(self, **_: object) -> None:
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(watching, "Inotify", NoInotify)
    async with listening(shared, rescan_s=0.05) as (files, _), aclosing(files.follow("marie", "1", 0)) as lines:
        waiting = asyncio.ensure_future(take(lines, 2))
        await asyncio.sleep(0)
        writer = journal(layout)
        writer.append("text", {"n": 0})
        await asyncio.sleep(0)
        writer.append("text", {"n": 1})
        assert numbers(await asyncio.wait_for(waiting, 10)) == [0, 1]
        writer.close()


async def test_how_soon_a_line_is_told_to_two_hundred(shared: Path, layout: WorkerLayout) -> None:
    writer = journal(layout)
    writer.append("text", {"n": -1})
    taken: list[float] = []
    told_at = 0.0

    async def keep_reading(lines: AsyncIterator[JournalLine]) -> None:
        async for _ in lines:
            taken.append(1000 * (time.perf_counter() - told_at))

    async with listening(shared) as (files, _):
        readers = [asyncio.create_task(keep_reading(files.follow("marie", "1", 0))) for _ in range(200)]
        await async_wait_until(lambda: len(taken) == 200, what="all are there")
        for number in range(100):
            taken.clear()
            told_at = time.perf_counter()
            writer.append("text", {"n": number})
            await async_wait_until(lambda: len(taken) == 200, what="all have it")
            if number == 0:
                everyone: list[float] = []
            everyone += taken
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
    everyone.sort()
    count = len(everyone)
    print(f"line written -> 200 have it: p50 {everyone[count // 2]:.2f}, p95 {everyone[count * 95 // 100]:.2f} ms")
    writer.close()
