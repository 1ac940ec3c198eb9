"""Which variables put a worker's directories elsewhere, and where its shared directory is if nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent_bus.layout import WorkerLayout

USUAL_SHARED_DIR: Final = Path("/shared")

PLACE_VARIABLES: Final = {
    "TRIGGER_DIR": "triggers",
    "TASK_DIR": "tasks",
    "RESULT_DIR": "results",
    "HEARTBEAT_DIR": "heartbeats",
    "LOG_DIR": "logs",
    "PIPE_DIR": "pipes",
}
"""Which directory of the layout each of them moves."""

_OF_TASKS: Final = ("SHARED_DIR", "TRIGGER_DIR", "TASK_DIR", "RESULT_DIR")


def has_shared_directory(environ: Mapping[str, str]) -> bool:
    """Tell whether tasks can come as files: a place is named for them, or there is the usual one."""
    return any(environ.get(variable) for variable in _OF_TASKS) or _can_be_written_to(USUAL_SHARED_DIR)


def _can_be_written_to(directory: Path) -> bool:
    # An image brings an empty one for volumes to be mounted on. Where none is, and its root is read-only, nobody can
    # ever put a task there. Whose it is does not matter here: a wrong owner is a mistake to be told.
    return directory.is_dir() and not os.statvfs(directory).f_flag & os.ST_RDONLY


def layout_of(environ: Mapping[str, str], shared: Path, worker: str) -> WorkerLayout:
    """Return the worker's layout below `shared`, with the directories that the environment puts elsewhere."""
    moved = {part: Path(environ[name]).absolute() for name, part in PLACE_VARIABLES.items() if environ.get(name)}
    return replace(WorkerLayout.under(shared, worker), **moved)
