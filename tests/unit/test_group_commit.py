from __future__ import annotations

import errno
import threading
from pathlib import Path

import anyio
import pytest

from agent_bus.group_commit import GroupCommit, sync_filesystem


class CountingDisk:
    """Flushes when told to, and counts."""

    def __init__(self) -> None:
        self.flushes = 0
        self.error: OSError | None = None
        self.may_flush = threading.Event()

    def flush(self, directory: Path) -> None:
        self.may_flush.wait(10)
        self.flushes += 1
        if self.error is not None:
            raise self.error


async def test_those_who_come_during_a_flush_share_the_next(tmp_path: Path) -> None:
    disk = CountingDisk()
    commit = GroupCommit(tmp_path, disk.flush)
    done: list[int] = []

    async def writer(number: int) -> None:
        await commit.flushed()
        done.append(number)

    async with anyio.create_task_group() as server:
        server.start_soon(commit.run_forever)
        async with anyio.create_task_group() as writers:
            writers.start_soon(writer, 0)
            await anyio.wait_all_tasks_blocked()
            for number in range(1, 51):
                writers.start_soon(writer, number)
            await anyio.wait_all_tasks_blocked()
            assert done == []
            disk.may_flush.set()
        assert sorted(done) == list(range(51))
        assert disk.flushes == 2
        server.cancel_scope.cancel()


async def test_a_failed_flush_reaches_all_who_waited_and_nobody_else(tmp_path: Path) -> None:
    disk = CountingDisk()
    disk.error = OSError(errno.EIO, "Input/output error")
    disk.may_flush.set()
    commit = GroupCommit(tmp_path, disk.flush)
    failures: list[int | None] = []

    async def writer() -> None:
        try:
            await commit.flushed()
        except OSError as error:
            failures.append(error.errno)

    async with anyio.create_task_group() as server:
        server.start_soon(commit.run_forever)
        async with anyio.create_task_group() as writers:
            for _ in range(5):
                writers.start_soon(writer)
        assert failures == [errno.EIO] * 5
        disk.error = None
        await commit.flushed()
        server.cancel_scope.cancel()


def test_the_real_flush_works_and_tells_of_a_missing_directory(tmp_path: Path) -> None:
    sync_filesystem(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_filesystem(tmp_path / "nothing")
