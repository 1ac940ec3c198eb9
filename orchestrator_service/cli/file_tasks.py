"""Which tasks can be seen in the files of a shared directory, where no orchestrator keeps a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_bus.claim_names import original_name
from agent_bus.layout import TASK_SUFFIX, WorkerLayout
from agent_bus.trigger_reader import task_id_in_name
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import known_workers
from orchestrator_service.cli.tasks import read_result, task_files


@dataclass(frozen=True)
class SeenTask:
    """What a file tells of a task."""

    task_id: str
    """A file's name where that tells no id."""
    worker: str
    state: str
    """`waiting`, `running`, or how it ended."""
    moment: datetime
    """When its file came to be as it is."""

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "task_id": self.task_id,
            "worker": self.worker,
            "state": self.state,
            "changed_at": self.moment.isoformat(),
        }


def seen_tasks(
    shared: Path, *, limit: int, states: frozenset[str] = frozenset(), worker: str | None = None
) -> list[SeenTask]:
    """Return the newest tasks that can be seen, newest first.

    Args:
        shared: The shared directory.
        limit: How many at most.
        states: Only these; none means all.
        worker: Only this one's; None means all.
    """
    found: dict[tuple[str, str], SeenTask] = {}
    for seen in _open_tasks(shared):
        if (worker is None or seen.worker == worker) and (not states or seen.state in states):
            found[seen.worker, seen.task_id] = seen
    tasks = sorted(found.values(), key=lambda seen: seen.moment, reverse=True)
    ended = sorted(_results(shared, worker), reverse=True)
    for changed_at, name, path in ended:
        if len(tasks) >= limit and tasks[limit - 1].moment.timestamp() > changed_at:
            break
        seen = SeenTask(path.name.removesuffix(TASK_SUFFIX), name, _status(path), _moment(changed_at))
        if not states or seen.state in states:
            tasks.append(seen)
            tasks.sort(key=lambda seen: seen.moment, reverse=True)
            del tasks[limit:]
    return tasks[:limit]


def _open_tasks(shared: Path) -> Iterator[SeenTask]:
    for where, path in task_files(shared):
        with suppress(FileNotFoundError):
            name = original_name(path.name)
            task_id = task_id_in_name(name) or name.removesuffix(TASK_SUFFIX)
            yield SeenTask(task_id, where.worker, where.state, _moment(path.lstat().st_mtime))


def _results(shared: Path, worker: str | None) -> Iterator[tuple[float, str, Path]]:
    for name in [worker] if worker is not None else known_workers(shared):
        results = WorkerLayout.under(shared, name).results
        with suppress(OSError), os.scandir(results) as entries:
            for entry in entries:
                if entry.name.endswith(TASK_SUFFIX) and not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        yield entry.stat(follow_symlinks=False).st_mtime, name, results / entry.name


def _status(path: Path) -> str:
    try:
        result = read_result(path)
    except UserError:
        return "unreadable"
    return "unreadable" if result is None else result.status.value


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
