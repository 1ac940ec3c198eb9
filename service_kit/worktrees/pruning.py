"""Removing worktrees that are old and of which nothing would be lost."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from agent_bus.messages import utc_now
from service_kit.git.command import Git, GitError
from service_kit.worktrees.admin import repository_lock
from service_kit.worktrees.names import BRANCHES
from service_kit.worktrees.records import Busy, RecordBook, WorktreeRecord
from service_kit.worktrees.removing import remove_directory, remove_remains
from service_kit.worktrees.survey import Standing, State, look_into


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found of one worktree, and what was done."""

    record: WorktreeRecord
    standing: Standing
    is_removed: bool = False
    """Whether its directory was removed."""
    is_branch_removed: bool = False
    is_forgotten: bool = False
    """Whether it is not listed any more: nothing of it is left."""

    @property
    def words(self) -> str:
        """One clause for a log or a terminal."""
        why = self.standing.why
        if self.is_branch_removed:
            return f"removed with its branch: {why}"
        if self.is_removed and not self.is_forgotten:
            return f"removed, its branch stays: {why}"
        if self.is_removed or self.is_forgotten:
            return f"removed: {why}"
        return f"stays: {why}"


def survey(book: RecordBook, git: Git) -> Iterator[Verdict]:
    """Tell how each worktree stands; nothing is removed."""
    for name in book.names():
        record = book.read(name)
        if record is None:
            continue
        try:
            with book.hold(name):
                yield Verdict(record=record, standing=look_into(record, git))
        except Busy:
            yield Verdict(record=record, standing=Standing(state=State.IN_USE, why="a task works in it"))


def prune(book: RecordBook, git: Git, *, keep_s: float, now: datetime | None = None) -> Iterator[Verdict]:
    """Remove what has not been used for `keep_s` seconds and may go; yields a verdict on each that is so old."""
    now = now or utc_now()
    for name in book.names():
        record = book.read(name)
        if record is None or (now - record.used_at).total_seconds() < keep_s:
            continue
        try:
            with book.hold(name):
                # Somebody may have used it between the two looks.
                if (record := book.read(name)) is None or (now - record.used_at).total_seconds() < keep_s:
                    continue
                yield _prune_one(book, record, git)
        except Busy:
            continue


def _prune_one(book: RecordBook, record: WorktreeRecord, git: Git) -> Verdict:
    try:
        with repository_lock(record.common):
            return _decide(book, record, git)
    except (GitError, OSError) as error:
        return Verdict(record=record, standing=Standing(state=State.UNKNOWN, why=str(error)))


def _decide(book: RecordBook, record: WorktreeRecord, git: Git) -> Verdict:
    standing = look_into(record, git)
    if standing.state in (State.UNCOMMITTED, State.UNKNOWN):
        return Verdict(record=record, standing=standing)
    bare = git.at(record.common)
    if standing.has_directory:
        remove_directory(record, bare)
    elif record.host == socket.gethostname():
        # Elsewhere it may be there; a mount may be missing here.
        remove_remains(record, bare)
    removed = standing.state is State.MERGED and standing.tip is not None and _remove_branch(record, standing.tip, bare)
    # The record of a branch that stays is kept: its task may come back, and one day it is merged.
    is_forgotten = removed or standing.tip is None or not _is_ours(record)
    if is_forgotten:
        book.forget(record.name)
    return Verdict(
        record=record,
        standing=standing,
        is_removed=standing.has_directory,
        is_branch_removed=removed,
        is_forgotten=is_forgotten,
    )


def _is_ours(record: WorktreeRecord) -> bool:
    return record.branch.startswith(f"refs/heads/{BRANCHES}/")


def _remove_branch(record: WorktreeRecord, tip: str, bare: Git) -> bool:
    # One that the agent has named itself is not ours to remove.
    if not _is_ours(record):
        return False
    with suppress(GitError):
        if record.branch in bare.run("worktree", "list", "--porcelain").split():
            return False
        # The commit is named: nothing that came to the branch in the meantime is lost.
        bare.run("update-ref", "-d", record.branch, tip)
        return True
    return False
