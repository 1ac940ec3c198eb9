"""The two ends of a worktree: its directory, and what the repository keeps of it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LOCK_NAME: Final = "codehornets.lock"
_LOCK_PATIENCE_S: Final = 30.0
_UNDER_WAY: Final = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisection",
    "sequencer": "sequence of commits",
}


def find_admin(common: Path, path: Path) -> Path | None:
    """Return the administrative directory of the worktree at `path`; None where the repository knows of none."""
    wanted = f"{path}/.git"
    with suppress(OSError):
        for entry in sorted((common / "worktrees").iterdir()):
            with suppress(OSError):
                if (entry / "gitdir").read_text(errors="surrogateescape").strip() == wanted:
                    return entry
    return None


def is_whole(git_dir: Path | None, path: Path) -> bool:
    """Tell whether both ends are there and know of each other; a `.git` file that was changed is mended."""
    if git_dir is None or path.is_symlink() or not path.is_dir():
        return False
    try:
        if (git_dir / "gitdir").read_text(errors="surrogateescape").strip() != f"{path}/.git":
            return False
        link, text = path / ".git", f"gitdir: {git_dir}\n"
        if link.is_symlink() or not link.is_file() or link.read_text(errors="replace") != text:
            if link.is_dir() and not link.is_symlink():
                # A repository of its own, made in place of the link: nothing here may touch it.
                return False
            with suppress(FileNotFoundError):
                link.unlink()
            link.write_text(text)
    except OSError:
        return False
    return True


def under_way(git_dir: Path) -> str | None:
    """Return what was begun and not ended in the worktree, such as a rebase; None for nothing."""
    return next((what for name, what in _UNDER_WAY.items() if (git_dir / name).exists()), None)


def has_submodules(git_dir: Path) -> bool:
    """Tell whether submodules were fetched into the worktree; their commits are nowhere else."""
    try:
        return any((git_dir / "modules").iterdir())
    except OSError:
        return False


def nested_repository(path: Path) -> Path | None:
    """Return a repository that lies inside of the worktree, ignored or not; None where there is none.

    Raises:
        OSError: a directory cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(path, onerror=refuse):
        if Path(folder) != path and (".git" in folders or ".git" in files):
            return Path(folder)
        if ".git" in folders:
            folders.remove(".git")
        if {"HEAD", "objects", "refs"} <= {*folders, *files}:
            return Path(folder)
    return None


@contextmanager
def repository_lock(common: Path) -> Iterator[None]:
    """Keep other workers from removing branches of the same repository for the length of the block.

    Of two branches with the same commits each is a reason that the other may go, but not of both at the same time.

    Raises:
        OSError: the lock cannot be had.
    """
    path = common / _LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise OSError(errno.EAGAIN, "somebody holds the lock of the repository", str(path)) from None
            time.sleep(0.02)
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
