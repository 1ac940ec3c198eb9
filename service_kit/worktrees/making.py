"""Making the worktree of a task, or finding the one that it had."""

from __future__ import annotations

import logging
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_bus.messages import utc_now
from service_kit.git.command import Git, GitError
from service_kit.git.repository import Repository, branch_of_head
from service_kit.worktrees.admin import find_admin, is_whole
from service_kit.worktrees.names import branch_of, short
from service_kit.worktrees.records import RecordBook, WorktreeRecord
from service_kit.worktrees.removing import remove_remains

log = logging.getLogger(__name__)

_MOST_OF_A_NAME: Final = 100
_BRANCH_IN_USE: Final = re.compile("already (checked out|used by worktree) at")
_IGNORE_ALL: Final = "# Made by codehornets: these are worktrees, not files of a repository around them.\n*\n"


class NotMade(Exception):
    """A worktree cannot be made; the text is a clause that says why."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Whose worktree is asked for."""

    name: str
    """From `names.name_of`."""
    key: str
    worker: str
    task_id: str


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A worktree that is there now."""

    record: WorktreeRecord
    how: str
    """`made`, `found` (it was there), or `made_again` from its branch (its directory was gone)."""


def candidates(name: str) -> list[str]:
    """Return the names to try: the name, then with numbers, where another repository or person has it."""
    return [name, *(f"{name}-{number}" for number in range(2, _MOST_OF_A_NAME))]


def open_worktree(
    book: RecordBook, root: Path, wish: Wish, name: str, repository: Repository, git: Git
) -> Opened | None:
    """Return the worktree, made where it is not there; None where the name is somebody else's.

    The caller holds the record of that name.

    Args:
        book: Where records are.
        root: The directory of the worktrees.
        wish: Whose it is.
        name: What it shall be called: one of `candidates`.
        repository: What it is made from.
        git: How to run git.

    Raises:
        NotMade: git refuses.
        OSError: the disk is full, or a directory cannot be written.
    """
    path = root / name
    record = book.read(name)
    if record is not None and (record.key, record.common) != (wish.key, repository.common):
        return None
    bare = git.at(repository.common)
    try:
        if record is None:
            if (record := _adopt(path, wish, name, repository, bare)) is None:
                if os.path.lexists(path) or _exists(bare, branch_of(name)):
                    return None
                record = _new_record(path, wish, name, repository)
                return Opened(record=_make(book, record, record.base, bare, fresh=True), how="made")
            record = book.write(record)
        if record.made and is_whole(record.git_dir, record.path):
            record = record.model_copy(update={"task_id": wish.task_id, "ended": False})
            return Opened(record=book.write(_on_a_branch(record, git)), how="found")
        return _make_again(book, record, wish, repository, bare)
    except GitError as error:
        if "already exists" in error.said or _BRANCH_IN_USE.search(error.said):
            # Another worker has taken the name between the look and the deed; or the branch is checked out in another
            # worktree, where a team works that was restored elsewhere.
            return None
        raise NotMade(_reason(error)) from error


def _new_record(path: Path, wish: Wish, name: str, repository: Repository) -> WorktreeRecord:
    now = utc_now()
    return WorktreeRecord(
        name=name,
        key=wish.key,
        worker=wish.worker,
        task_id=wish.task_id,
        path=path,
        top=repository.top,
        common=repository.common,
        branch=branch_of(name),
        base=repository.head,
        base_branch=repository.branch,
        host=socket.gethostname(),
        made_at=now,
        used_at=now,
    )


def _adopt(path: Path, wish: Wish, name: str, repository: Repository, bare: Git) -> WorktreeRecord | None:
    """Return a record for a worktree that lost its own: its directory and its branch say whose it is."""
    git_dir = find_admin(repository.common, path)
    if not is_whole(git_dir, path) or git_dir is None or branch_of_head(bare.at(git_dir)) != branch_of(name):
        return None
    base = bare.run("merge-base", branch_of(name), repository.head).strip()
    found = {"base": base, "git_dir": git_dir, "made": True}
    return _new_record(path, wish, name, repository).model_copy(update=found)


def _make_again(
    book: RecordBook, record: WorktreeRecord, wish: Wish, repository: Repository, bare: Git
) -> Opened | None:
    """Make a worktree whose directory is gone, or that was never finished."""
    if record.made and os.path.lexists(record.path):
        # What is there is not known to this repository: another host's, or put there by somebody.
        return None
    remove_remains(record, bare)
    _free_branch(record, bare)
    has_branch = _exists(bare, record.branch)
    if not has_branch and not bare.succeeds("cat-file", "-e", f"{record.base}^{{commit}}"):
        record = _new_record(record.path, wish, record.name, repository)
    start = record.branch if has_branch else record.base
    record = record.model_copy(update={"task_id": wish.task_id, "ended": False})
    how = "made_again" if record.made else "made"
    return Opened(record=_make(book, record, start, bare, fresh=not has_branch), how=how)


def _free_branch(record: WorktreeRecord, bare: Git) -> None:
    """Let go of the worktree's earlier place where that is gone: its branch counts as checked out there."""
    if record.git_dir is None or record.host != socket.gethostname():
        # Elsewhere the place may be there; a mount may be missing here.
        return
    with suppress(OSError, GitError):
        earlier = Path((record.git_dir / "gitdir").read_text().strip()).parent
        if earlier != record.path and not os.path.lexists(earlier):
            bare.run("worktree", "remove", "--force", "--force", str(earlier))


def _make(book: RecordBook, record: WorktreeRecord, start: str, bare: Git, *, fresh: bool) -> WorktreeRecord:
    root = record.path.parent
    root.mkdir(parents=True, exist_ok=True)
    ignore = root / ".gitignore"
    if not ignore.exists():
        # The place may lie in somebody's working tree, where `git add .` must not take it for a submodule.
        ignore.write_text(_IGNORE_ALL)
    record = book.write(record.model_copy(update={"made": False, "git_dir": None}))
    branch = (
        ["-b", short(record.branch), str(record.path), start] if fresh else [str(record.path), short(record.branch)]
    )
    try:
        # Not checked out yet: a filter may be configured for this branch alone. Locked: `git worktree prune` on a
        # host where the directory is not mounted would take it for a lost one.
        bare.run("worktree", "add", "--quiet", "--no-checkout", "--lock", *branch)
        git_dir = find_admin(record.common, record.path)
        if git_dir is None:
            raise NotMade(f"{record.path} is not where git made it; a part of it may be a link")
        git = bare.at(git_dir, record.path).without_filters()
        git.run("reset", "--quiet", "--hard")
    except BaseException:
        _undo(record, bare, fresh=fresh)
        if fresh:
            book.forget(record.name)
        raise
    return book.write(record.model_copy(update={"made": True, "git_dir": git_dir}))


def _undo(record: WorktreeRecord, bare: Git, *, fresh: bool) -> None:
    """Take away what of a worktree was made; what cannot be taken away now is found by the next attempt."""
    with suppress(GitError, OSError):
        remove_remains(record, bare)
        if fresh:
            bare.run("update-ref", "-d", record.branch, record.base)


def _on_a_branch(record: WorktreeRecord, git: Git) -> WorktreeRecord:
    """Give the worktree a branch again where the last task had changed nothing and its branch was removed."""
    assert record.git_dir is not None
    here = git.at(record.git_dir, record.path)
    if branch_of_head(here) is None and not _exists(here, record.branch):
        head = here.run("rev-parse", "--verify", "HEAD^{commit}").strip()
        here.run("update-ref", record.branch, head, "")
        here.run("symbolic-ref", "HEAD", record.branch)
    return record


def _exists(git: Git, ref: str) -> bool:
    return git.succeeds("show-ref", "--verify", "--quiet", ref)


def _reason(error: GitError) -> str:
    if "exists; cannot create" in error.said:
        return f"a branch is in the way of branches named codehornets/…: {error.reason}; rename that branch"
    return f"git refuses it ({error.reason})"
