"""Taking the directory of a worktree away: a whole one only by git, which looks once more whether it is clean."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace

from service_kit.git.command import Git, GitError
from service_kit.worktrees.admin import find_admin
from service_kit.worktrees.records import WorktreeRecord


def remove_directory(record: WorktreeRecord, bare: Git) -> None:
    """Remove a worktree that has nothing uncommitted; git looks once more and refuses where it has.

    Raises:
        GitError: it is not removed.
    """
    if record.git_dir is not None:
        # Its look at the files goes through the filters that are configured for the worktree's branch.
        bare = replace(bare, filters=bare.at(record.git_dir, record.path).without_filters().filters)
    bare.run("worktree", "unlock", str(record.path))
    try:
        bare.run("worktree", "remove", str(record.path))
    except GitError:
        bare.run("worktree", "lock", str(record.path))
        raise


def remove_remains(record: WorktreeRecord, bare: Git) -> None:
    """Remove what is left of a worktree that is gone, or that was never finished, so that no agent has seen it."""
    if record.made and os.path.lexists(record.path):
        return
    with suppress(GitError):
        if find_admin(record.common, record.path) is not None:
            bare.run("worktree", "remove", "--force", "--force", str(record.path))
    # Only what the record says was made for it; never through a link that somebody put there.
    if not record.made and record.path.name == record.name and not record.path.is_symlink():
        shutil.rmtree(record.path, ignore_errors=True)
