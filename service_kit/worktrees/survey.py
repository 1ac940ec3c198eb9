"""How a worktree stands: whether removing it would lose anything."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum

from service_kit.git.command import Git, GitError
from service_kit.git.repository import branch_of_head
from service_kit.worktrees.admin import has_submodules, is_whole, nested_repository, under_way
from service_kit.worktrees.ending import hidden_changes
from service_kit.worktrees.names import short
from service_kit.worktrees.records import WorktreeRecord


class State(StrEnum):
    """How a worktree stands."""

    IN_USE = "in use"
    """A task works in it now."""
    UNCOMMITTED = "uncommitted"
    """Something in it is in no commit, or in one that no branch holds: it is never removed."""
    UNMERGED = "unmerged"
    """All is committed, and only its own branch has it: the directory may go, the branch stays."""
    MERGED = "merged"
    """Another branch, a remote's or a tag has all of it: directory and branch may go."""
    GONE = "gone"
    """Neither directory nor branch is there."""
    UNKNOWN = "unknown"
    """Git cannot tell: it is never removed."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a worktree stands, and why."""

    state: State
    why: str
    tip: str | None = None
    """The commit of its branch, where it has one."""
    has_directory: bool = True
    """Whether there is a directory that a task may have worked in."""


def look_into(record: WorktreeRecord, git: Git) -> Standing:
    """Tell how a worktree stands that nobody uses."""
    try:
        return _look(record, git)
    except (GitError, OSError) as error:
        return Standing(state=State.UNKNOWN, why=str(error))


def _look(record: WorktreeRecord, git: Git) -> Standing:
    bare = git.at(record.common)
    tip = tip_of(record, bare)
    if not record.made or not os.path.lexists(record.path):
        return replace(_of_branch(record, bare, tip), has_directory=False)
    if not is_whole(record.git_dir, record.path) or record.git_dir is None:
        return Standing(state=State.UNKNOWN, why="the repository does not know the directory", tip=tip)
    here = git.at(record.git_dir, record.path).without_filters()
    if (loss := _would_lose(record, here)) is not None:
        return Standing(state=State.UNCOMMITTED, why=loss, tip=tip)
    ref = branch_of_head(here)
    if ref is None and not holders(bare, here.run("rev-parse", "--verify", "HEAD^{commit}").strip()):
        return Standing(state=State.UNCOMMITTED, why="its head is detached, on commits that no branch has", tip=tip)
    standing = _of_branch(record, bare, tip)
    return replace(standing, state=State.MERGED) if tip is None else standing


def _of_branch(record: WorktreeRecord, bare: Git, tip: str | None) -> Standing:
    if tip is None:
        return Standing(state=State.GONE, why="it has no branch of its own")
    if others := holders(bare, tip, without=record.branch):
        return Standing(state=State.MERGED, why=f"{short(others[0])} has all of it", tip=tip)
    return Standing(state=State.UNMERGED, why=f"only {short(record.branch)} has its commits", tip=tip)


def _would_lose(record: WorktreeRecord, here: Git) -> str | None:
    assert record.git_dir is not None
    if (what := under_way(record.git_dir)) is not None:
        return f"a {what} is not finished"
    if has_submodules(record.git_dir):
        return "it has submodules, whose commits are only there"
    listing = here.run("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
    entries = [entry for entry in listing.split("\0") if entry]
    if entries:
        return f"{len(entries)} file{'s are' if len(entries) > 1 else ' is'} not committed"
    if (hidden := hidden_changes(here)) is not None:
        return f"{hidden!r} is marked as unchanged in the index"
    if (nested := nested_repository(record.path)) is not None:
        return f"{nested.relative_to(record.path)} is a repository of its own"
    if own := here.run("for-each-ref", "--format=%(refname)", "refs/worktree", "refs/bisect", "refs/rewritten").split():
        return f"{own[0]} is only there"
    return None


def tip_of(record: WorktreeRecord, bare: Git) -> str | None:
    """Return the commit of the branch; None where there is no such branch.

    Raises:
        GitError: git cannot tell.
    """
    try:
        return bare.run("rev-parse", "--verify", "--quiet", f"{record.branch}^{{commit}}").strip()
    except GitError as error:
        if error.code != 1:
            raise
        return None


def holders(bare: Git, commit: str, *, without: str = "") -> list[str]:
    """Return up to two branches, remote branches or tags that have the commit.

    Raises:
        GitError: git cannot tell.
    """
    places = ("refs/heads", "refs/remotes", "refs/tags")
    found = bare.run("for-each-ref", "--count=2", "--format=%(refname)", f"--contains={commit}", *places).split()
    return [ref for ref in found if ref != without]
