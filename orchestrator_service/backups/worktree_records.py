"""What is known of the worktrees of tasks, on its way from one place to another.

The records are in a backup, the worktrees are not: they belong to a repository and to the disk that they are on. So a
record that is restored names the place where its task is to go on, and no worktree that lies elsewhere.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from agent_bus.files import write_atomic
from service_kit.worktrees.records import WorktreeRecord


def settle_records(shared: Path, *, was: Path, becomes: Path, now: datetime) -> int:
    """Bring the restored records up to date; returns how many there are.

    Args:
        shared: Where they have been unpacked: what will be the shared directory.
        was: Where the shared directory was when the backup was taken.
        becomes: Where it will be.
        now: From when on their age counts: what the records do not know of must not be cleaned up for it.
    """
    count = 0
    for path in sorted(shared.glob("tasks/*/worktrees/*.json")):
        # What cannot be understood is left as it is, as it would have been in its old place.
        with suppress(ValueError):
            record = WorktreeRecord.model_validate(json.loads(path.read_bytes()))
            below = record.path
            with suppress(ValueError):
                below = becomes / record.path.relative_to(was)
            settled = record.model_copy(update={"path": below, "used_at": now})
            write_atomic(path, settled.model_dump_json(indent=2).encode())
            count += 1
    return count
