"""The life of a task in the ledger: released, ended, tried again, and what that means for the tasks that need it."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, NamedTuple

from orchestrator_service.errors import Conflict
from orchestrator_service.orders import OnFailure
from orchestrator_service.records import FINAL_STATES, TaskState
from orchestrator_service.scheduling.step import OpenRun, Step

WAITING_STATES: Final = (TaskState.BLOCKED, TaskState.SCHEDULED, TaskState.READY)
"""No worker has such a task."""
DEPENDENCY_FAILED: Final = "dependency_failed"

_COLUMNS: Final = "seq, task_id, state, lane, worker, goal_id, on_failure, wire_id, next_at, cancel_at, cancel_status"
_OF_T: Final = ", ".join(f"t.{name.strip()}" for name in _COLUMNS.split(","))


class Row(NamedTuple):
    """What most changes must know of a task."""

    seq: int
    task_id: str
    state: str
    lane: str
    worker: str | None
    goal_id: str | None
    on_failure: str
    wire_id: str | None
    next_at: float | None
    cancel_at: float | None
    cancel_status: str | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES


def find(connection: sqlite3.Connection, task_id: str) -> Row | None:
    """Return a task by its id."""
    found = connection.execute(f"SELECT {_COLUMNS} FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
    return None if found is None else Row(*found)


def get(connection: sqlite3.Connection, seq: int) -> Row:
    """Return a task by its number."""
    return Row(*connection.execute(f"SELECT {_COLUMNS} FROM tasks WHERE seq = ?", (seq,)).fetchone())


def release(step: Step, row: Row) -> None:
    """Let a task go on that needs nothing of others any more."""
    due = row.next_at
    if due is not None and due > step.now:
        step.connection.execute("UPDATE tasks SET state = 'scheduled' WHERE seq = ?", (row.seq,))
        step.set_state(row.seq, row.lane, row.state, TaskState.SCHEDULED)
        return
    step.connection.execute(
        "UPDATE tasks SET state = 'ready', next_at = NULL, ready_at = ? WHERE seq = ?", (step.now, row.seq)
    )
    step.set_state(row.seq, row.lane, row.state, TaskState.READY)


def end(step: Step, row: Row, state: TaskState, *, kind: str | None = None, message: str | None = None) -> None:
    """End a task, and settle what that means for those that need it, however many there are in a row."""
    pending: list[tuple[Row, TaskState, str | None, str | None]] = [(row, state, kind, message)]
    met: set[int] = set()
    while pending:
        ended, how, why, words = pending.pop()
        if ended.seq in met:
            # It needs several that failed.
            continue
        met.add(ended.seq)
        step.connection.execute(
            "UPDATE tasks SET state = ?, ended_at = ?, next_at = NULL, error_kind = ?, error_message = ? WHERE seq = ?",
            (how.value, step.now, why, words, ended.seq),
        )
        step.set_state(ended.seq, ended.lane, ended.state, how)
        data: dict[str, Any] = {"state": how.value}
        if why is not None:
            data["error"] = {"kind": why, "message": words}
        step.happened("task_ended", data, task_id=ended.task_id, worker=ended.worker, goal_id=ended.goal_id)
        goes_on = how is TaskState.COMPLETED or ended.on_failure == OnFailure.CONTINUE
        for dependent in _blocked_by(step.connection, ended.seq):
            if goes_on:
                _meet(step, dependent)
            else:
                told = f"Task {ended.task_id}, which it needs, {_HOW[how]}."
                pending.append((dependent, TaskState.FAILED, DEPENDENCY_FAILED, told))


_HOW: Final = {
    TaskState.FAILED: "failed",
    TaskState.TIMED_OUT: "ran out of time",
    TaskState.CANCELLED: "was cancelled",
    TaskState.COMPLETED: "completed",
}


def _blocked_by(connection: sqlite3.Connection, seq: int) -> list[Row]:
    rows = connection.execute(
        f"SELECT {_OF_T} FROM dependencies AS d JOIN tasks AS t ON t.seq = d.seq"
        " WHERE d.needs = ? AND t.state = 'blocked'",
        (seq,),
    )
    return [Row(*row) for row in rows]


def _meet(step: Step, dependent: Row) -> None:
    (unmet,) = step.connection.execute(
        "UPDATE tasks SET unmet = unmet - 1 WHERE seq = ? RETURNING unmet", (dependent.seq,)
    ).fetchone()
    if unmet <= 0:
        release(step, dependent)


def cancel(step: Step, row: Row, *, status: TaskState, kind: str, message: str) -> None:
    """End a task that no worker has; ask for the end of one that a worker has, whose result then says so."""
    if row.state in WAITING_STATES:
        end(step, row, status, kind=kind, message=message)
        return
    step.connection.execute(
        "UPDATE tasks SET cancel_at = ?, cancel_status = ?, error_kind = ?, error_message = ? WHERE seq = ?",
        (step.now, status.value, kind, message, row.seq),
    )
    step.happened("task_cancelling", {"reason": message}, task_id=row.task_id, worker=row.worker, goal_id=row.goal_id)
    if row.wire_id is not None and (run := open_run(step.connection, row.wire_id)) is not None:
        step.effects.cancels.append(run)


def open_run(connection: sqlite3.Connection, wire_id: str) -> OpenRun | None:
    """Return a dispatch if it has not ended."""
    found = connection.execute(
        "SELECT wire_id, worker, transport FROM runs WHERE wire_id = ? AND ended_at IS NULL", (wire_id,)
    ).fetchone()
    return None if found is None else OpenRun(*found)


def try_again(step: Step, row: Row) -> None:
    """Let a task run anew that ended without completing; those that failed because of it wait for it again.

    Raises:
        Conflict: it needs a task that has failed itself, or its money is used up.
    """
    if failed := _failed_needs(step.connection, row.seq):
        name, how = failed[0].task_id, _HOW[TaskState(failed[0].state)]
        raise Conflict(f"Task {row.task_id} needs {name}, which {how}; retry that one, and this one comes with it.")
    cost, reserve = step.connection.execute(
        "SELECT cost_usd, reserve_usd FROM tasks WHERE seq = ?", (row.seq,)
    ).fetchone()
    if reserve is not None and (cost or 0.0) >= reserve:
        raise Conflict(
            f"Task {row.task_id} has cost ${cost:.2f} of the ${reserve:.2f} that it may cost; hand in a new one."
        )
    for task in _reopen(step, row):
        _go_on(step, task)


def complete_after_all(step: Step, row: Row) -> None:
    """End a task as completed that had ended otherwise: those that failed because of it come back, and go on."""
    revived = _reopen(step, row)
    for task in revived:
        if task.seq != row.seq:
            _go_on(step, task)
    end(step, get(step.connection, row.seq), TaskState.COMPLETED)


def _reopen(step: Step, row: Row) -> list[Row]:
    revived = _revived(step.connection, row)
    for task in revived:
        step.connection.execute(
            "UPDATE tasks SET state = 'blocked', ended_at = NULL, error_kind = NULL, error_message = NULL,"
            " cancel_at = NULL, cancel_status = NULL, started_at = NULL, sent_at = NULL, retries = 0,"
            " deadline = CASE WHEN deadline <= ? THEN NULL ELSE deadline END WHERE seq = ?",
            (step.now, task.seq),
        )
        step.set_state(task.seq, task.lane, task.state, TaskState.BLOCKED)
        step.happened("task_retrying", {"by_hand": True}, task_id=task.task_id, goal_id=task.goal_id)
    # What waits for others as well had taken an end that does not hold for one that does.
    for task in revived:
        step.connection.execute(
            f"UPDATE tasks SET unmet = {_UNMET} WHERE state = 'blocked'"
            " AND seq IN (SELECT d.seq FROM dependencies AS d WHERE d.needs = ?)",
            (task.seq,),
        )
    return revived


_UNMET: Final = (
    "(SELECT COUNT(*) FROM dependencies AS d JOIN tasks AS t ON t.seq = d.needs WHERE d.seq = tasks.seq"
    " AND NOT (t.state = 'completed' OR (t.ended_at IS NOT NULL AND t.on_failure = 'continue')))"
)


def _go_on(step: Step, task: Row) -> None:
    # What it waits for is known only now that all of them are open again.
    (unmet,) = step.connection.execute(
        f"UPDATE tasks SET unmet = {_UNMET} WHERE seq = ? RETURNING unmet", (task.seq,)
    ).fetchone()
    if not unmet:
        release(step, get(step.connection, task.seq))


def _revived(connection: sqlite3.Connection, row: Row) -> list[Row]:
    """Return a task and those that failed because of it, but for those that another failed task holds down."""
    found = {row.seq: row}
    pending = [row.seq]
    while pending:
        for dependent in _failed_by(connection, pending.pop()):
            if dependent.seq not in found:
                found[dependent.seq] = dependent
                pending.append(dependent.seq)
    held = [
        task
        for task in found.values()
        if task is not row and any(need.seq not in found for need in _failed_needs(connection, task.seq))
    ]
    while held:
        task = held.pop()
        if found.pop(task.seq, None) is not None and task.on_failure != OnFailure.CONTINUE:
            held += [dependent for dependent in _failed_by(connection, task.seq) if dependent.seq in found]
    return list(found.values())


def _failed_by(connection: sqlite3.Connection, seq: int) -> list[Row]:
    rows = connection.execute(
        f"SELECT {_OF_T} FROM dependencies AS d JOIN tasks AS t ON t.seq = d.seq"
        f" WHERE d.needs = ? AND t.error_kind = '{DEPENDENCY_FAILED}' AND t.ended_at IS NOT NULL",
        (seq,),
    )
    return [Row(*row) for row in rows]


def _failed_needs(connection: sqlite3.Connection, seq: int) -> list[Row]:
    rows = connection.execute(
        f"SELECT {_OF_T} FROM dependencies AS d JOIN tasks AS t ON t.seq = d.needs WHERE d.seq = ?"
        " AND t.ended_at IS NOT NULL AND t.state != 'completed' AND t.on_failure = 'fail_dependents'",
        (seq,),
    )
    return [Row(*row) for row in rows]
