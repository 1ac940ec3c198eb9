"""Who gets what next: the highest priority first, then the oldest, to the worker with the shortest queue."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from agent_bus.messages import Result
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.lifecycle import end, get
from orchestrator_service.scheduling.placeholders import fill_in
from orchestrator_service.scheduling.routing import Member, lane_of
from orchestrator_service.scheduling.step import Step, encode
from orchestrator_service.transports.base import Dispatch

LARGEST_BODY_BYTES: Final = 1_048_576
"""The workers' usual `MAX_TRIGGER_BYTES`."""
MOST_IN_STEP: Final = 64
"""So many tasks are sent in one step; after it others have their turn."""
_PAGE: Final = 64
_MOST_SKIPPED: Final = 64
"""So many tasks of a lane are passed over because there is no money for them; then the lane waits."""
_HANDED_ON: Final = (
    "title",
    "priority",
    "session",
    "workspace",
    "worktree",
    "model",
    "allowed_tools",
    "max_turns",
    "output_schema",
    "max_attempts",
    "on_interrupt",
    "stuck_after",
    "on_question",
    "question_timeout",
)

_Head = tuple[int, int, str, str | None, float | None]
"""Priority (negative), seq, lane, session, and what it may cost yet."""


def plan(step: Step) -> None:
    """Send what can be sent now; `effects.more_to_plan` tells that it is more than one step may send."""
    # A task that follows its conversation to another lane is looked at again, in its place there.
    while _plan_once(step):
        pass


def _plan_once(step: Step) -> bool:
    """Look at every lane once; True when a task has changed its lane."""
    moved = False
    heads: list[tuple[_Head, Iterator[_Head]]] = []
    for lane in [lane for lane, count in step.book.lanes.items() if count > 0]:
        if any(_has_room(step, member) for member in step.fleet.candidates(lane)):
            _push(heads, _waiting(step.connection, lane))
    skipped: dict[str, int] = {}
    while heads:
        if len(step.effects.dispatches) >= MOST_IN_STEP:
            step.effects.more_to_plan = True
            return False
        head, others = heapq.heappop(heads)
        _, seq, lane, session, amount = head
        open_to = [member for member in step.fleet.candidates(lane) if _has_room(step, member)]
        if not open_to:
            continue
        # Who names a worker means that one, wherever the conversation is.
        if session is not None and _only_worker(lane) is None and (home := _home(step, session)) is not None:
            _move_to(step, seq, lane, home)
            moved = True
            _push(heads, others)
            continue
        chosen = _choose(step, open_to, amount)
        if chosen is not None:
            send(step, seq, chosen, session)
        else:
            skipped[lane] = skipped.get(lane, 0) + 1
            if skipped[lane] >= _MOST_SKIPPED:
                continue
        _push(heads, others)
    return moved


def _push(heads: list[tuple[_Head, Iterator[_Head]]], waiting: Iterator[_Head]) -> None:
    if (head := next(waiting, None)) is not None:
        heapq.heappush(heads, (head, waiting))


def _waiting(connection: sqlite3.Connection, lane: str) -> Iterator[_Head]:
    """Yield the tasks of a lane in their order, read a page at a time: most of them will not be looked at."""
    priority, seq = 2**31, 0
    while True:
        rows = connection.execute(
            "SELECT priority, seq, session, reserve_usd - COALESCE(cost_usd, 0) FROM tasks"
            " WHERE state = 'ready' AND lane = ? AND (priority < ? OR (priority = ? AND seq > ?))"
            " ORDER BY priority DESC, seq LIMIT ?",
            (lane, priority, priority, seq, _PAGE),
        ).fetchall()
        for priority, seq, session, amount in rows:
            yield -priority, seq, lane, session, amount
        if len(rows) < _PAGE:
            return


def _has_room(step: Step, member: Member) -> bool:
    return member.takes and step.book.in_flight[member.name] < member.cap


def _choose(step: Step, members: list[Member], amount: float | None) -> Member | None:
    """Return the one with the shortest queue for its size that has the money."""

    def load(member: Member) -> tuple[float, str]:
        return (step.book.in_flight[member.name] + member.foreign) / member.slots, member.name

    for member in sorted(members, key=load):
        if amount is None or not member.costs or step.book.lacks(member.name, amount) is None:
            return member
    return None


def _home(step: Step, session: str) -> str | None:
    found = step.connection.execute("SELECT worker FROM sessions WHERE session = ?", (session,)).fetchone()
    return None if found is None else str(found[0])


def _only_worker(lane: str) -> str | None:
    worker = json.loads(lane)[0]
    return None if worker is None else str(worker)


def _move_to(step: Step, seq: int, lane: str, worker: str) -> None:
    """Put a task into the lane of the worker that has its conversation; it is planned from there."""
    to = lane_of(worker, None, ())
    step.connection.execute("UPDATE tasks SET lane = ? WHERE seq = ?", (to, seq))
    step.book.lanes[lane] -= 1
    step.book.lanes[to] += 1


def send(step: Step, seq: int, member: Member, session: str | None) -> None:
    """Hand a task to a worker: the run is in the ledger before anything of it is on its way."""
    connection = step.connection
    task_id, state, lane, goal_id, tries, reserve, cost = connection.execute(
        "SELECT task_id, state, lane, goal_id, tries, reserve_usd, cost_usd FROM tasks WHERE seq = ?", (seq,)
    ).fetchone()
    number = tries + 1
    wire_id = task_id if number == 1 else f"{task_id}+{number}"
    cap = None if reserve is None else max(0.0, reserve - (cost or 0.0))
    amount = cap if member.costs else None
    if cap is not None and cap <= 0.0:
        told = f"Its tries have cost ${cost:.2f} of ${reserve:.2f}."
        end(step, get(connection, seq), TaskState.FAILED, kind="max_budget", message=told)
        return
    body = compose(connection, seq, wire_id, number, member.name, step.now, cap)
    if len(body) > LARGEST_BODY_BYTES:
        told = f"With the outputs that it names the task has {len(body)} bytes; workers take {LARGEST_BODY_BYTES}."
        end(step, get(connection, seq), TaskState.FAILED, kind="prompt_too_large", message=told)
        return
    transport = member.transport or ""
    connection.execute(
        "INSERT INTO runs (wire_id, seq, number, worker, transport, sent_at, reserved_usd, budget_day)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (wire_id, seq, number, member.name, transport, step.now, amount, step.book.day),
    )
    connection.execute(
        "UPDATE tasks SET state = 'sent', worker = ?, wire_id = ?, tries = ?, sent_at = ?, started_at = NULL,"
        " error_kind = NULL, error_message = NULL WHERE seq = ?",
        (member.name, wire_id, number, step.now, seq),
    )
    if session is not None:
        connection.execute(
            "INSERT INTO sessions (session, worker, used_at) VALUES (?, ?, ?)"
            " ON CONFLICT (session) DO UPDATE SET used_at = excluded.used_at",
            (session, member.name, step.now),
        )
    step.set_state(seq, lane, state, TaskState.SENT)
    step.book.in_flight[member.name] += 1
    step.book.reserved[member.name] += amount or 0.0
    data = {"wire_id": wire_id, "try": number, "transport": transport}
    step.happened("task_sent", data, task_id=task_id, worker=member.name, goal_id=goal_id)
    step.effects.dispatches.append(Dispatch(wire_id=wire_id, worker=member.name, transport=transport, body=body))


def compose(
    connection: sqlite3.Connection,
    seq: int,
    wire_id: str,
    number: int,
    worker: str,
    now: float,
    cap_usd: float | None,
) -> bytes:
    """Return a task as its worker reads it. The same whenever it is asked for, deadlines apart."""
    task_id, graph_id, goal_id, submitted_at, deadline, text = connection.execute(
        "SELECT t.task_id, t.graph_id, t.goal_id, t.submitted_at, t.deadline, o.body FROM tasks AS t"
        " JOIN orders AS o ON o.seq = t.seq WHERE t.seq = ?",
        (seq,),
    ).fetchone()
    order: dict[str, Any] = json.loads(text)
    ours = {"task_id": task_id, "try": number, "graph_id": graph_id, "goal_id": goal_id}
    task: dict[str, Any] = {
        "task_id": wire_id,
        "description": fill_in(order["description"], lambda name: _result_of(connection, name)),
        "worker": worker,
        "created_at": datetime.fromtimestamp(submitted_at, UTC).isoformat(),
        "metadata": {**order.get("metadata", {}), "orchestrator": {k: v for k, v in ours.items() if v is not None}},
        **{name: order[name] for name in _HANDED_ON if order.get(name) is not None},
    }
    timeout = order.get("timeout")
    if deadline is not None:
        left = max(0.001, deadline - now)
        timeout = left if timeout is None else min(timeout, left)
    if timeout is not None:
        task["timeout"] = min(timeout, 30 * 86_400.0)
    if cap_usd is not None:
        task["max_budget_usd"] = cap_usd
    return encode(task).encode()


def _result_of(connection: sqlite3.Connection, task_id: str) -> Result | None:
    found = connection.execute(
        "SELECT r.body FROM tasks AS t JOIN results AS r ON r.wire_id = t.wire_id WHERE t.task_id = ?", (task_id,)
    ).fetchone()
    if found is None:
        return None
    try:
        return Result.model_validate_json(found[0])
    except ValidationError:
        return None
