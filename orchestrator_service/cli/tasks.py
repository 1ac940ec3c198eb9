"""Handing tasks in, and finding where a task is now."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent_bus.claim_names import original_name, parse_claim_name
from agent_bus.errors import TriggerRejected
from agent_bus.files import write_new
from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import TASK_SUFFIX, TRIGGER_SUFFIX, WorkerLayout
from agent_bus.messages import Heartbeat, Result, Task, utc_now
from agent_bus.trigger_reader import TaskBody, make_task, task_id_in_name
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import known_workers

_LONGEST_SEARCHED_BYTES = 2_000_000


def new_task_id() -> str:
    """Return an id that sorts by time and that nobody else makes up."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}"


def trigger_name(task_id: str) -> str:
    """Return the name of a task's trigger."""
    return f"task-{task_id}{TRIGGER_SUFFIX}"


def check_task(worker: str, fields: dict[str, Any]) -> Task:
    """Return the task as its worker will see it; `task_id` must be among the fields.

    Raises:
        UserError: a field is wrong.
    """
    name = trigger_name(str(fields["task_id"]))
    try:
        return make_task(TaskBody({**fields, "created_at": utc_now()}), name, mtime_ns=0, worker=worker)
    except TriggerRejected as refusal:
        raise UserError(f"The task is refused: {refusal.message}.") from refusal


def hand_in(layout: WorkerLayout, worker: str, fields: dict[str, Any]) -> Path:
    """Check a task as its worker would, and put its trigger in place by one rename; returns the trigger.

    Args:
        layout: The worker's directories.
        worker: Its name.
        fields: The task's fields; `task_id` must be among them.

    Raises:
        UserError: a field is wrong, the id is used, or the trigger cannot be written.
    """
    task = check_task(worker, fields)
    name = trigger_name(task.task_id)
    if os.path.lexists(layout.result(task.task_id)):
        raise UserError(f"Task {task.task_id} has its result in {layout.result(task.task_id)}; take another --id.")
    target = layout.triggers / name
    if os.path.lexists(target):
        raise UserError(f"{target} waits already; take another --id.")
    body = task.model_dump_json(exclude_unset=True).encode()
    staged = layout.triggers / f".{name}.{os.getpid()}.tmp"
    try:
        write_new(str(staged), body)
        staged.rename(target)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise UserError(f"{target} cannot be written: {error.strerror}; mend its directory or make room.") from error
    return target


def read_result(path: Path) -> Result | None:
    """Return the result, or None when there is none.

    Raises:
        UserError: there is one, and it cannot be read or understood.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise UserError(f"{path} is no result that this version understands.") from error


def find_result(shared: Path, task_id: str) -> Result | None:
    """Return the result of the task, whichever worker wrote it; None when there is none."""
    for path in sorted(shared.glob(f"results/*/{task_id}{TASK_SUFFIX}")):
        if (result := read_result(path)) is not None:
            return result
    return None


def has_ended(task_id: str, result: Result) -> UserError:
    """Return the error that says that there is nothing to cancel any more."""
    return UserError(f"Task {task_id} has ended already ({result.status.value}); there is nothing to cancel.")


@dataclass(frozen=True)
class Whereabouts:
    """Where a task is that has no result yet."""

    worker: str
    state: str
    """`waiting` or `running`, for people."""


def find_task(shared: Path, task_id: str) -> Whereabouts | None:
    """Return which worker holds the task; None when none does, as far as can be seen.

    Names are looked at first, then what runs, and what is in the files only where neither helped: a trigger may hold
    a task under any name.
    """
    names = {trigger_name(task_id), f"{task_id}{TASK_SUFFIX}"}
    files = list(task_files(shared))
    for where, path in files:
        if original_name(path.name) in names:
            return where
    for worker in known_workers(shared):
        beat = read_heartbeat(WorkerLayout.under(shared, worker).heartbeat(worker))
        if beat is not None and task_id in beat.current_tasks:
            return Whereabouts(worker, "running")
    for where, path in files:
        if _holds(path, task_id):
            return where
    return None


def task_files(shared: Path) -> Iterator[tuple[Whereabouts, Path]]:
    """Yield every file that holds a task without a result, and where it is; claims bear their claim's name."""
    for worker in known_workers(shared):
        layout = WorkerLayout.under(shared, worker)
        waiting = (layout.triggers.glob(f"*{TRIGGER_SUFFIX}"), layout.tasks.glob(f"*{TASK_SUFFIX}"))
        for path in (path for files in waiting for path in files):
            yield Whereabouts(worker, "waiting"), path
        for path in layout.released.glob("*~*"):
            if parse_claim_name(path.name) is not None:
                yield Whereabouts(worker, "waiting"), path
        for path in layout.inflight.glob("*/*~*"):
            if parse_claim_name(path.name) is not None:
                yield Whereabouts(worker, "running"), path


def _holds(path: Path, task_id: str) -> bool:
    try:
        # Anybody may have put it there: no link is followed, and nothing is opened that would block.
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LONGEST_SEARCHED_BYTES:
            return False
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and fields.get("task_id") == task_id


def running_tasks(layout: WorkerLayout, beat: Heartbeat) -> tuple[str, ...]:
    """Return the tasks that the beating instance has claimed, oldest first; a file's name where that tells no id."""
    claims: list[tuple[float, str]] = []
    for path in (layout.inflight / beat.instance).glob("*~*~*"):
        if (name := parse_claim_name(path.name)) is not None:
            with suppress(FileNotFoundError):
                claims.append((path.stat().st_ctime, task_id_in_name(name.name) or name.name))
    return tuple(name for _, name in sorted(claims))


def queue_depth(layout: WorkerLayout) -> int:
    """Return how many files wait for the worker: triggers, task files, and what was given back."""
    return (
        sum(1 for _ in layout.triggers.glob(f"[!.]*{TRIGGER_SUFFIX}"))
        + sum(1 for _ in layout.tasks.glob(f"[!.]*{TASK_SUFFIX}"))
        + sum(parse_claim_name(path.name) is not None for path in layout.released.glob("*~*~*"))
    )
