"""Tries that a person had run anew: a dead letter that was replayed brings a second result under the same name."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from agent_bus.messages import Result, TaskStatus
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.lifecycle import Row, complete_after_all, end
from orchestrator_service.scheduling.step import Step

_KEPT: Final = (
    "seq, number, worker, transport, sent_at, started_at, ended_at, status, session_id, attempts, reserved_usd,"
    " cost_usd, budget_day, error_kind, error_message, event_position, notional, model, input_tokens, output_tokens,"
    " cache_read_tokens, cache_creation_tokens, counted"
)


def is_replayed(step: Step, result: Result) -> bool:
    """Tell whether this result is newer than the failed one that the ledger has: only a failed one makes way."""
    found = step.connection.execute("SELECT body FROM results WHERE wire_id = ?", (result.task_id,)).fetchone()
    if found is None:
        return False
    try:
        known = Result.model_validate_json(found[0])
    except ValidationError:
        return False
    return known.status is TaskStatus.FAILED and result.completed_at > known.completed_at


def begin_replayed(step: Step, result: Result, seq: int) -> int:
    """Make room for the new try: the earlier one is kept beside it. Returns the number of the new one."""
    (number, earlier) = step.connection.execute(
        "SELECT (SELECT MAX(number) + 1 FROM runs WHERE seq = ?), number FROM runs WHERE wire_id = ?",
        (seq, result.task_id),
    ).fetchone()
    # No name on the wire has this character.
    aside = f"{result.task_id}#{earlier}"
    step.connection.execute(
        f"INSERT INTO runs (wire_id, {_KEPT}) SELECT ?, {_KEPT} FROM runs WHERE wire_id = ?", (aside, result.task_id)
    )
    step.connection.execute("UPDATE results SET wire_id = ? WHERE wire_id = ?", (aside, result.task_id))
    queued = (result.queued_at or result.started_at or result.completed_at).timestamp()
    step.connection.execute(
        "UPDATE runs SET number = ?, worker = ?, sent_at = ?, started_at = NULL, reserved_usd = NULL, cost_usd = NULL,"
        " budget_day = ?, counted = NULL WHERE wire_id = ?",
        (number, result.worker, queued, step.book.day_of(step.now), result.task_id),
    )
    step.connection.execute("UPDATE tasks SET tries = MAX(tries, ?) WHERE seq = ?", (number, seq))
    return int(number)


def judge_replayed(step: Step, row: Row, result: Result) -> None:
    """Let the task tell the last outcome. A later try of the orchestrator's own is not disturbed."""
    data = {"status": result.status.value, "wire_id": result.task_id}
    step.happened("task_replayed", data, task_id=row.task_id, worker=result.worker, goal_id=row.goal_id)
    if row.wire_id != result.task_id or row.state == TaskState.COMPLETED:
        return
    if result.status is TaskStatus.COMPLETED:
        if row.is_final:
            complete_after_all(step, row)
        else:
            end(step, row, TaskState.COMPLETED)
    elif row.is_final:
        # Those that need it have failed with it, or gone on without it, already.
        kind = None if result.error is None else result.error.kind
        message = None if result.error is None else result.error.message
        state = TaskState(result.status.value)
        step.connection.execute(
            "UPDATE tasks SET state = ?, ended_at = ?, error_kind = ?, error_message = ? WHERE seq = ?",
            (state.value, step.now, kind, message, row.seq),
        )
        step.set_state(row.seq, row.lane, row.state, state)
        told = {"state": state.value, "error": {"kind": kind, "message": message}}
        step.happened("task_ended", told, task_id=row.task_id, worker=result.worker, goal_id=row.goal_id)
