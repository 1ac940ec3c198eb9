"""What becomes of a worktree when its task has ended: what is not committed is, and what is unchanged goes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from service_kit.git.command import Git, GitError
from service_kit.git.repository import branch_of_head
from service_kit.worktrees.admin import has_submodules, is_whole, nested_repository, repository_lock, under_way
from service_kit.worktrees.names import short
from service_kit.worktrees.records import RecordBook, WorktreeRecord
from service_kit.worktrees.removing import remove_directory

_IDENTITY: Final = ("codehornets", "codehornets@localhost")
_LONGEST_TITLE: Final = 72
_NO_FILTER: Final = frozenset(("unspecified", "unset"))


class Changes(StrEnum):
    """What a task left in its worktree."""

    NONE = "none"
    """Nothing: its branch is removed."""
    COMMITTED = "committed"
    """All of it is in the commit that the result names."""
    UNCOMMITTED = "uncommitted"
    """Not all of it is in that commit; the note says why. The worktree keeps it."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What the result of a task says of its worktree."""

    changes: Changes
    branch: str | None = None
    commit: str | None = None
    note: str | None = None
    is_removed: bool = False
    """Whether the directory is gone."""
    was_committed_here: bool = False
    """Whether the last commit was made now, with what the agent had left uncommitted."""


class _Left(Exception):
    """What is uncommitted stays so; the text is a clause that says why."""


def end_worktree(book: RecordBook, record: WorktreeRecord, git: Git, *, title: str, body: str, keep: bool) -> Ending:
    """Commit what is uncommitted; where nothing has changed, remove the branch, and the worktree if nobody needs it.

    The caller holds the record.

    Args:
        book: Where the record is.
        record: The worktree.
        git: How to run git.
        title: The first line of the commit.
        body: The rest of its message.
        keep: Whether the directory stays in any case: the next task of the session needs it.

    Raises:
        OSError: the record cannot be written.
    """
    if not is_whole(record.git_dir, record.path) or record.git_dir is None:
        book.write(record.model_copy(update={"ended": True}))
        return Ending(changes=Changes.UNCOMMITTED, branch=short(record.branch), note="the worktree is damaged or gone")
    here = git.at(record.git_dir, record.path)
    note, committed = None, False
    try:
        here = here.without_filters()
        committed = _commit_rest(record, here, title, body)
    except _Left as left:
        note = str(left)
    except (GitError, OSError) as error:
        note = str(error)
    try:
        return _judge(book, record, here, note=note, committed=committed, keep=keep)
    except GitError as error:
        book.write(record.model_copy(update={"ended": True}))
        return Ending(changes=Changes.UNCOMMITTED, branch=short(record.branch), note=note or str(error))


def _judge(
    book: RecordBook, record: WorktreeRecord, here: Git, *, note: str | None, committed: bool, keep: bool
) -> Ending:
    if note is None:
        _attach(record, here)
    ref = branch_of_head(here)
    head = here.run("rev-parse", "--verify", "HEAD^{commit}").strip()
    if note is None and head == record.base and ref == record.branch:
        is_removed = _remove_unchanged(book, record, here, keep=keep)
        return Ending(changes=Changes.NONE, is_removed=is_removed)
    if note is None and ref is None:
        note = "the head is detached, and its commits do not follow the branch"
    if ref is not None and ref != record.branch:
        # The agent has made a branch of its own; the one it was given is of use to nobody unless it has commits.
        here.succeeds("update-ref", "-d", record.branch, record.base)
        record = record.model_copy(update={"branch": ref})
    book.write(record.model_copy(update={"ended": True}))
    changes = Changes.COMMITTED if note is None else Changes.UNCOMMITTED
    return Ending(
        changes=changes, branch=short(ref or record.branch), commit=head, note=note, was_committed_here=committed
    )


def _commit_rest(record: WorktreeRecord, here: Git, title: str, body: str) -> bool:
    """Commit what is not committed; False where there is nothing.

    Raises:
        _Left: it must stay as it is.
        GitError: git refuses.
    """
    assert record.git_dir is not None
    if (what := under_way(record.git_dir)) is not None:
        raise _Left(f"a {what} is not finished")
    if has_submodules(record.git_dir):
        raise _Left("it has submodules, whose commits are only there")
    paths = _changed(here)
    if not paths:
        return False
    _refuse_filtered(here, paths)
    here.run("add", "--all", "--", ":/")
    before = _links(here, "ls-tree", "-r", "-z", "HEAD")
    if new := _links(here, "ls-files", "--stage", "-z") - before:
        here.run("reset", "--quiet")
        raise _Left(f"{min(new)!r} is a repository of its own, whose content a commit would not hold")
    author = replace(here, settings=_missing_identity(here))
    message = f"{_first_line(title)}\n\n{body}\n"
    author.run(
        "commit", "--quiet", "--no-verify", "--allow-empty-message", "--cleanup=verbatim", "-F", "-", stdin=message
    )
    if rest := _changed(here):
        raise _Left(f"{rest[0]!r} changed while it was committed")
    return True


def _changed(here: Git) -> list[str]:
    """Return the paths that differ from the last commit, with those that the index was told not to look at."""
    listing = here.run("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
    entries = [entry for entry in listing.split("\0") if entry]
    for entry in entries:
        if "U" in entry[:2] or entry[:2] in ("AA", "DD"):
            raise _Left(f"{entry[3:]!r} has a conflict")
    if hidden := hidden_changes(here):
        raise _Left(f"{hidden!r} is marked as unchanged in the index")
    return [entry[3:] for entry in entries]


def hidden_changes(here: Git) -> str | None:
    """Return a file that the index was told to take for unchanged, and that is there; None where there is none.

    Raises:
        GitError: the index cannot be read.
    """
    assert here.directory is not None
    for entry in here.run("ls-files", "-v", "-z").split("\0"):
        if entry and (entry[0].islower() or (entry[0] == "S" and (here.directory / entry[2:]).exists())):
            return entry[2:]
    return None


def _refuse_filtered(here: Git, paths: list[str]) -> None:
    """Raise where a filter should have changed what is stored: LFS would get whole files, and git-crypt plain text."""
    fields = here.run("check-attr", "-z", "--stdin", "filter", stdin="\0".join(paths)).split("\0")
    for path, value in zip(fields[0::3], fields[2::3], strict=False):
        if value not in _NO_FILTER:
            raise _Left(f"{path!r} goes through the filter {value!r}, which only its own user may run")


def _links(here: Git, *listing: str) -> set[str]:
    entries = here.run(*listing).split("\0")
    return {entry.partition("\t")[2] for entry in entries if entry.startswith("160000 ")}


def _missing_identity(here: Git) -> dict[str, str]:
    missing = {}
    for key, usual in zip(("user.name", "user.email"), _IDENTITY, strict=True):
        if not here.succeeds("config", "--get", key):
            missing[key] = usual
    return missing


def _first_line(title: str) -> str:
    line = re.sub(r"[\x00-\x1f\x7f\s]+", " ", title).strip()
    return line if len(line) <= _LONGEST_TITLE else f"{line[: _LONGEST_TITLE - 1]}…"


def _attach(record: WorktreeRecord, here: Git) -> None:
    """Move the branch to a detached head that has gone on from it."""
    if branch_of_head(here) is not None:
        return
    if here.succeeds("show-ref", "--verify", "--quiet", record.branch) and here.succeeds(
        "merge-base", "--is-ancestor", record.branch, "HEAD"
    ):
        here.run("update-ref", record.branch, "HEAD")
        here.run("symbolic-ref", "HEAD", record.branch)


def _remove_unchanged(book: RecordBook, record: WorktreeRecord, here: Git, *, keep: bool) -> bool:
    """Remove the branch; and the directory, unless something is in it that git was told to ignore."""
    bare = here.at(record.common)
    with repository_lock(record.common):
        if not keep and not _has_ignored(here) and nested_repository(record.path) is None:
            remove_directory(record, bare)
            bare.run("update-ref", "-d", record.branch, record.base)
            book.forget(record.name)
            return True
        here.run("update-ref", "--no-deref", "HEAD", record.base)
        bare.run("update-ref", "-d", record.branch, record.base)
    book.write(record.model_copy(update={"ended": True}))
    return False


def _has_ignored(here: Git) -> bool:
    listing = here.run("status", "--porcelain=v1", "-z", "--ignored=matching", "--untracked-files=all")
    return any(entry.startswith("!! ") for entry in listing.split("\0"))
