"""What a directory is to git: the repository it belongs to and the commit it stands on, or why there is none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service_kit.git.command import Git, GitError

_WORDS: Final = ("--show-toplevel", "--git-common-dir", "--show-prefix")


class NoRepository(Exception):
    """No worktree can be made for this directory; the text says why, as a clause with the mend."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A directory in a working tree that has a commit."""

    top: Path
    """The top of the working tree."""
    common: Path
    """The repository's own directory, which all its worktrees share: `.git`."""
    prefix: str
    """Where the directory is below the top; empty for the top itself."""
    head: str
    """The commit that is checked out."""
    branch: str | None
    """The branch that is checked out, as a full name; None for a detached head."""


def look_at(git: Git, directory: Path) -> Repository:
    """Return the repository that the directory belongs to.

    Raises:
        NoRepository: there is none, or none that a worktree could be made of.
        OSError: no process can be made.
    """
    if not directory.is_dir():
        raise NoRepository(f"{directory} is no directory; name one that exists")
    here = Git(git.program, git.environment, directory)
    try:
        # One a line, and a path may hold line breaks: then it is none that is worked with here.
        top, common, prefix = here.run("rev-parse", "--path-format=absolute", *_WORDS).removesuffix("\n").split("\n")
    except ValueError as error:
        raise NoRepository(f"the path of {str(directory)!r} has a line break; rename it") from error
    except GitError as error:
        raise NoRepository(_reason(directory, error)) from error
    try:
        head = here.run("rev-parse", "--verify", "HEAD^{commit}").strip()
    except GitError as error:
        raise NoRepository(f"{top} has no commit yet; make a first one") from error
    if prefix and not _holds(here, prefix):
        raise NoRepository(f"{directory} is not part of what {top} has committed; commit it, or name another directory")
    if not os.access(common, os.W_OK | os.X_OK):
        raise NoRepository(f"{common} is not writable for user id {os.geteuid()}; mend its owner, mode or mount")
    return Repository(
        top=Path(top), common=Path(common), prefix=prefix.rstrip("/"), head=head, branch=branch_of_head(here)
    )


def branch_of_head(git: Git) -> str | None:
    """Return the full name of the branch that is checked out, None for a detached head.

    Raises:
        GitError: the head cannot be read.
    """
    try:
        return git.run("symbolic-ref", "--quiet", "HEAD").strip()
    except GitError as error:
        if error.code != 1:
            raise
        return None


def _holds(git: Git, prefix: str) -> bool:
    try:
        return git.run("cat-file", "-t", f"HEAD:{prefix.rstrip('/')}").strip() == "tree"
    except GitError:
        return False


def _reason(directory: Path, error: GitError) -> str:
    if "dubious ownership" in error.said:
        return (
            f"git does not trust {directory}, which belongs to another user; chown it, or "
            f"`git config --global --add safe.directory {directory}`"
        )
    if "must be run in a work tree" in error.said:
        return f"{directory} is a bare repository or inside of .git; name a working tree"
    if "not a git repository" in error.said:
        return f"{directory} is in no git repository; `git init` it and commit, or name another directory"
    return f"{directory} cannot be used by git ({error.reason})"
