"""What the worktree and the branch of a task or a session are called."""

from __future__ import annotations

import hashlib
import re
from typing import Final

BRANCHES: Final = "codehornets"
"""Branches of tasks are `codehornets/NAME`."""

_LONGEST: Final = 100


def name_of(*, task_id: str, session: str | None) -> str:
    """Return a name that is safe as a directory and as the last part of a branch.

    A task id that is safe is its own name. Any other, and every session, gets a short hash behind what of it is safe:
    two ids never share a name.
    """
    if session is not None:
        return f"session-{_safe(session, 40)}-{_hash(session)}"
    safe = _safe(task_id, _LONGEST)
    # A name that looks like a session's, or like a second one of another task, must not be mistaken for it.
    plain = safe == task_id and not safe.startswith("session-")
    return safe if plain else f"{safe}-{_hash(task_id)}"


def branch_of(name: str) -> str:
    """Return the full name of the branch."""
    return f"refs/heads/{BRANCHES}/{name}"


def short(ref: str) -> str:
    """Return a branch as people name it."""
    return ref.removeprefix("refs/heads/")


def _safe(text: str, longest: int) -> str:
    # What `git check-ref-format` refuses, and what a shell or a file system would stumble over.
    safe = re.sub(r"[^A-Za-z0-9._+@-]+", "_", text)[:longest]
    safe = re.sub(r"\.{2,}", "_", safe).strip(".")
    return re.sub(r"\.lock$", "_lock", safe) or "_"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
