"""What comes back from workers: begun, ended, taken back, or never delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agent_bus.messages import Result, TaskStatus, encode_result
from orchestrator_service.ledger.usage import count_run, tokens_of
from orchestrator_service.orders import RetryPolicy
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.lifecycle import Row, end, find, get, release
from orchestrator_service.scheduling.planner import compose
from orchestrator_service.scheduling.replays import begin_replayed, is_replayed, judge_replayed
from orchestrator_service.scheduling.retries import is_worth_a_retry, pause_s
from orchestrator_service.scheduling.routing import lane_of
from orchestrator_service.scheduling.step import Step
from orchestrator_service.transports.base import Dispatch, HeardResult, Undelivered

_MOVED: Final = "withdrawn"


def settle(step: Step, heard: HeardResult) -> None:
    """Write a result down and let the task, and those that need it, go on. A result that is known changes nothing."""
    result = heard.result
    if heard.position is not None:
        step.connection.execute(
            "INSERT INTO positions (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (f"{heard.transport}:results", heard.position),
        )
    run = step.connection.execute(
        "SELECT seq, number, worker, started_at, ended_at, reserved_usd, budget_day FROM runs WHERE wire_id = ?",
        (result.task_id,),
    ).fetchone()
    if run is None:
        _adopt(step, heard)
        return
    seq, number, worker, started_at, ended_at, reserved, budget_day = run
    if ended_at is not None:
        if is_replayed(step, result):
            _take_up(step, heard, seq)
        return
    row = get(step.connection, seq)
    cost = _cost(result, reserved)
    started = result.started_at.timestamp() if result.started_at is not None else started_at
    _close_run(step, heard, started, cost)
    step.book.in_flight[worker] -= 1
    if budget_day == step.book.day:
        step.book.reserved[worker] -= reserved or 0.0
        step.book.spent[worker] += cost or 0.0
    step.connection.execute(
        "UPDATE tasks SET cost_usd = CASE WHEN ? IS NULL THEN cost_usd ELSE COALESCE(cost_usd, 0) + ? END,"
        " started_at = COALESCE(?, started_at) WHERE seq = ?",
        (cost, cost, started, seq),
    )
    if row.is_final:
        return
    if result.worker != worker:
        step.happened("result_from_another_worker", {"expected": worker}, task_id=row.task_id, worker=result.worker)
    _judge(step, row, result, number)


def _take_up(step: Step, heard: HeardResult, seq: int) -> None:
    """Take the result of a try that a person had run anew for the last word on its task."""
    result = heard.result
    begin_replayed(step, result, seq)
    started = None if result.started_at is None else result.started_at.timestamp()
    _close_run(step, heard, started, result.cost_usd)
    step.book.touched = True
    if step.book.day_of(step.now) == step.book.day:
        step.book.spent[result.worker] += result.cost_usd or 0.0
    step.connection.execute(
        "UPDATE tasks SET cost_usd = CASE WHEN ? IS NULL THEN cost_usd ELSE COALESCE(cost_usd, 0) + ? END"
        " WHERE seq = ?",
        (result.cost_usd, result.cost_usd, seq),
    )
    judge_replayed(step, get(step.connection, seq), result)
    step.connection.execute("UPDATE tasks SET started_at = COALESCE(?, started_at) WHERE seq = ?", (started, seq))


def _cost(result: Result, reserved: float | None) -> float | None:
    """Return what a run cost. What was cut off without a word of its cost counts for all that was reserved."""
    told = result.cost_usd
    cut_off = told is None and result.status is not TaskStatus.COMPLETED and result.attempts > 0
    if reserved and (cut_off or result.cost_is_partial):
        return max(reserved, told or 0.0)
    return told


def _close_run(step: Step, heard: HeardResult, started: float | None, cost: float | None) -> None:
    result = heard.result
    step.connection.execute(
        "UPDATE runs SET ended_at = ?, started_at = ?, status = ?, session_id = ?, attempts = ?, cost_usd = ?,"
        " error_kind = ?, error_message = ?, event_position = ?, notional = ?, model = ?, input_tokens = ?,"
        " output_tokens = ?, cache_read_tokens = ?, cache_creation_tokens = ? WHERE wire_id = ?",
        (
            step.now,
            started,
            result.status.value,
            result.session_id,
            result.attempts,
            cost,
            None if result.error is None else result.error.kind,
            None if result.error is None else result.error.message,
            heard.event_position,
            result.cost_is_notional,
            result.model,
            *tokens_of(result.usage),
            result.task_id,
        ),
    )
    step.connection.execute(
        "INSERT OR REPLACE INTO results (wire_id, body) VALUES (?, ?)", (result.task_id, encode_result(result))
    )
    count_run(step.connection, result.task_id)


def _judge(step: Step, row: Row, result: Result, number: int) -> None:
    """Decide what a result means for its task."""
    kind = None if result.error is None else result.error.kind
    message = None if result.error is None else result.error.message
    if result.status is TaskStatus.COMPLETED:
        end(step, row, TaskState.COMPLETED)
        return
    if row.cancel_at is not None:
        why, words = step.connection.execute(
            "SELECT error_kind, error_message FROM tasks WHERE seq = ?", (row.seq,)
        ).fetchone()
        end(step, row, TaskState(row.cancel_status or "cancelled"), kind=why, message=words)
        return
    policy = _retry_policy(step, row.seq)
    (retries,) = step.connection.execute("SELECT retries FROM tasks WHERE seq = ?", (row.seq,)).fetchone()
    if is_worth_a_retry(result.status, kind) and retries < policy.max_retries:
        pause = pause_s(policy, retries + 1)
        step.connection.execute(
            "UPDATE tasks SET state = 'scheduled', next_at = ?, retries = retries + 1, error_kind = ?,"
            " error_message = ? WHERE seq = ?",
            (step.now + pause, kind, message, row.seq),
        )
        step.set_state(row.seq, row.lane, row.state, TaskState.SCHEDULED)
        data = {"try": number, "status": result.status.value, "pause_seconds": round(pause, 3), "error": message}
        step.happened("task_retrying", data, task_id=row.task_id, worker=row.worker, goal_id=row.goal_id)
        return
    end(step, row, TaskState(result.status.value), kind=kind, message=message)


def _retry_policy(step: Step, seq: int) -> RetryPolicy:
    (text,) = step.connection.execute(
        "SELECT json_extract(body, '$.retry') FROM orders WHERE seq = ?", (seq,)
    ).fetchone()
    return RetryPolicy() if text is None else RetryPolicy.model_validate_json(text)


def _adopt(step: Step, heard: HeardResult) -> None:
    """Take a task into the ledger that was handed to its worker directly: no result is without its task."""
    result = heard.result
    if find(step.connection, result.task_id) is not None:
        # Somebody used the id of a task that has not been sent; ours will be refused as a duplicate when it is.
        return
    queued = (result.queued_at or result.started_at or result.completed_at).timestamp()
    started = None if result.started_at is None else result.started_at.timestamp()
    ended = result.completed_at.timestamp()
    kind = None if result.error is None else result.error.kind
    message = None if result.error is None else result.error.message
    cursor = step.connection.execute(
        "INSERT INTO tasks (task_id, state, lane, worker, priority, origin, submitted_by, on_failure, tries, wire_id,"
        " submitted_at, sent_at, started_at, ended_at, cost_usd, error_kind, error_message)"
        " VALUES (?, ?, ?, ?, 50, ?, 'worker', 'fail_dependents', 1, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            result.task_id,
            result.status.value,
            lane_of(result.worker, None, ()),
            result.worker,
            heard.transport,
            result.task_id,
            queued,
            queued,
            started,
            ended,
            result.cost_usd,
            kind,
            message,
        ),
    )
    step.connection.execute("INSERT INTO orders (seq, body) VALUES (?, '{}')", (cursor.lastrowid,))
    day = step.book.day_of(ended)
    step.connection.execute(
        "INSERT INTO runs (wire_id, seq, number, worker, transport, sent_at, budget_day) VALUES (?, ?, 1, ?, ?, ?, ?)",
        (result.task_id, cursor.lastrowid, result.worker, heard.transport, queued, day),
    )
    _close_run(step, heard, started, result.cost_usd)
    step.connection.execute("UPDATE runs SET ended_at = ? WHERE wire_id = ?", (ended, result.task_id))
    if day == step.book.day:
        step.book.spent[result.worker] += result.cost_usd or 0.0
    step.book.moved(None, result.status.value)
    data: dict[str, Any] = {"state": result.status.value, "origin": heard.transport}
    step.happened("task_ended", data, task_id=result.task_id, worker=result.worker)


def begin(step: Step, wire_id: str) -> None:
    """Take note that an agent has a task."""
    found = step.connection.execute(
        "UPDATE runs SET started_at = ? WHERE wire_id = ? AND started_at IS NULL AND ended_at IS NULL"
        " RETURNING seq, worker",
        (step.now, wire_id),
    ).fetchone()
    if found is None:
        return
    seq, worker = found
    row = get(step.connection, seq)
    if row.state != TaskState.SENT or row.wire_id != wire_id:
        return
    step.connection.execute("UPDATE tasks SET state = 'running', started_at = ? WHERE seq = ?", (step.now, seq))
    step.set_state(seq, row.lane, row.state, TaskState.RUNNING)
    step.happened("task_started", {"wire_id": wire_id}, task_id=row.task_id, worker=worker, goal_id=row.goal_id)


def note_broken(step: Step, wire_id: str, reason: str) -> None:
    """Take note of a result that cannot be understood: the task stays open, says so, and goes on when it is mended."""
    found = step.connection.execute(
        "SELECT t.seq, t.error_message FROM runs AS r JOIN tasks AS t ON t.seq = r.seq AND t.wire_id = r.wire_id"
        " WHERE r.wire_id = ? AND r.ended_at IS NULL",
        (wire_id,),
    ).fetchone()
    if found is None or found[1] == reason:
        return
    row = get(step.connection, found[0])
    step.connection.execute(
        "UPDATE tasks SET error_kind = 'result_unreadable', error_message = ? WHERE seq = ?", (reason, row.seq)
    )
    step.happened("result_unreadable", {"reason": reason}, task_id=row.task_id, worker=row.worker, goal_id=row.goal_id)


def take_back(step: Step, wire_id: str) -> None:
    """Take note that a dispatch was withdrawn: nobody will run it. A task whose end was asked for has it now."""
    found = step.connection.execute(
        "UPDATE runs SET ended_at = ?, status = ? WHERE wire_id = ? AND ended_at IS NULL"
        " RETURNING seq, worker, reserved_usd, budget_day",
        (step.now, _MOVED, wire_id),
    ).fetchone()
    if found is None:
        return
    seq, worker, reserved, budget_day = found
    _forget_run(step, worker, reserved, budget_day)
    row = get(step.connection, seq)
    if row.is_final or row.wire_id != wire_id:
        return
    if row.cancel_at is not None:
        why, words = step.connection.execute(
            "SELECT error_kind, error_message FROM tasks WHERE seq = ?", (seq,)
        ).fetchone()
        end(step, row, TaskState(row.cancel_status or "cancelled"), kind=why, message=words)
        return
    step.happened("task_withdrawn", {"wire_id": wire_id}, task_id=row.task_id, worker=worker, goal_id=row.goal_id)
    release(step, row._replace(next_at=None))


def not_delivered(step: Step, failures: Sequence[Undelivered]) -> None:
    """Put tasks back that could not be handed over; they are sent under the same name when somebody can be reached."""
    for failure in failures:
        found = step.connection.execute(
            "DELETE FROM runs WHERE wire_id = ? AND ended_at IS NULL RETURNING seq, worker, reserved_usd, budget_day",
            (failure.dispatch.wire_id,),
        ).fetchone()
        if found is None:
            continue
        seq, worker, reserved, budget_day = found
        _forget_run(step, worker, reserved, budget_day)
        row = get(step.connection, seq)
        step.connection.execute(
            "UPDATE tasks SET state = 'ready', tries = tries - 1, wire_id = NULL, sent_at = NULL WHERE seq = ?", (seq,)
        )
        step.set_state(seq, row.lane, row.state, TaskState.READY)
        data = {"wire_id": failure.dispatch.wire_id, "reason": failure.reason}
        step.happened("task_undelivered", data, task_id=row.task_id, worker=worker, goal_id=row.goal_id)
        if row.cancel_at is not None:
            end(step, get(step.connection, seq), TaskState(row.cancel_status or "cancelled"), kind="cancelled")


def _forget_run(step: Step, worker: str, reserved: float | None, budget_day: str) -> None:
    step.book.in_flight[worker] -= 1
    if budget_day == step.book.day:
        step.book.reserved[worker] -= reserved or 0.0


def send_again(step: Step, wire_id: str) -> None:
    """Hand a dispatch over once more of which no trace is left, under the same name."""
    found = step.connection.execute(
        "SELECT r.seq, r.number, r.worker, r.transport, r.reserved_usd, t.task_id, t.goal_id FROM runs AS r"
        " JOIN tasks AS t ON t.seq = r.seq AND t.wire_id = r.wire_id WHERE r.wire_id = ? AND r.ended_at IS NULL",
        (wire_id,),
    ).fetchone()
    if found is None:
        return
    seq, number, worker, transport, cap, task_id, goal_id = found
    body = compose(step.connection, seq, wire_id, number, worker, step.now, cap)
    step.effects.dispatches.append(Dispatch(wire_id=wire_id, worker=worker, transport=transport, body=body))
    step.happened("task_sent_again", {"wire_id": wire_id}, task_id=task_id, worker=worker, goal_id=goal_id)
