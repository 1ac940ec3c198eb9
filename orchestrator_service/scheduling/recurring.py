"""Recurring tasks: kept in the ledger, handed in when they are due, and never left out silently."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, FieldProblem, NotKnown, OrchestratorError, OrderRefused
from orchestrator_service.ledger.rows import SCHEDULE_COLUMNS, schedule
from orchestrator_service.orders import Missed, Overlap, ScheduleOrder, TaskOrder
from orchestrator_service.records import ScheduleRecord, TaskState
from orchestrator_service.scheduling.admission import admit, check_tasks
from orchestrator_service.scheduling.graphs import resolve
from orchestrator_service.scheduling.recurrence import check_cron, next_after
from orchestrator_service.scheduling.step import Step
from orchestrator_service.settings import timezone

LATE_AFTER_S: Final = 60.0
"""A time that is further back than this was missed: the orchestrator was away, or stood still."""


def create(step: Step, order: ScheduleOrder, asker: Asker) -> ScheduleRecord:
    """Make a task recur.

    Raises:
        OrderRefused: the cron expression, the time zone or the task is wrong.
        Conflict: the name is taken.
    """
    problems: list[FieldProblem] = []
    zone: ZoneInfo | None = None
    try:
        zone = timezone(order.timezone)
    except ValueError:
        problems.append(FieldProblem("timezone", order.timezone, "allowed is a name such as UTC or Europe/Berlin"))
    try:
        check_cron(order.cron)
    except ValueError as error:
        problems.append(FieldProblem("cron", order.cron, str(error)))
    for name in ("task_id", "key"):
        if getattr(order.task, name) is not None:
            told = "leave it out: each time it is handed in it gets an id of its own"
            problems.append(FieldProblem(f"task.{name}", getattr(order.task, name), told))
    nodes, wrong = resolve([order.task], None, lambda: order.name)
    wrong += check_tasks(step, nodes, single=True)
    problems += [FieldProblem(f"task.{each.field}", each.value, each.message) for each in wrong]
    if problems or zone is None:
        raise OrderRefused(problems)
    try:
        step.connection.execute(
            f"INSERT INTO schedules ({SCHEDULE_COLUMNS}) VALUES ({', '.join('?' * 13)})",
            (
                order.name,
                order.cron,
                order.timezone,
                order.task.model_dump_json(exclude_defaults=True),
                order.overlap.value,
                order.missed.value,
                int(order.paused),
                next_after(order.cron, zone, step.now),
                None,
                None,
                None,
                asker.name,
                step.now,
            ),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"There is a schedule {order.name!r} already; delete it first, or take another name.") from error
    step.happened("schedule_created", {"schedule": order.name, "cron": order.cron, "by": asker.name})
    return find(step.connection, order.name)


def find(connection: sqlite3.Connection, name: str) -> ScheduleRecord:
    """Return a schedule. Raises NotKnown."""
    row = connection.execute(f"SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotKnown("schedule", name)
    return schedule(row)


def find_all(connection: sqlite3.Connection) -> list[ScheduleRecord]:
    """Return all schedules, by name."""
    rows = connection.execute(f"SELECT {SCHEDULE_COLUMNS} FROM schedules ORDER BY name")
    return [schedule(row) for row in rows]


def set_paused(step: Step, name: str, paused: bool, asker: Asker) -> ScheduleRecord:
    """Hold a schedule, or let it go on from now: what was due meanwhile is not made up for. Raises NotKnown."""
    record = find(step.connection, name)
    due = next_after(record.cron, timezone(record.timezone), step.now)
    step.connection.execute("UPDATE schedules SET paused = ?, next_at = ? WHERE name = ?", (int(paused), due, name))
    step.happened("schedule_paused" if paused else "schedule_resumed", {"schedule": name, "by": asker.name})
    return find(step.connection, name)


def delete(step: Step, name: str, asker: Asker) -> None:
    """Forget a schedule. Raises NotKnown."""
    if not step.connection.execute("DELETE FROM schedules WHERE name = ?", (name,)).rowcount:
        raise NotKnown("schedule", name)
    step.happened("schedule_deleted", {"schedule": name, "by": asker.name})


def hand_in_due(step: Step) -> None:
    """Hand in what is due."""
    rows = step.connection.execute(
        f"SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE paused = 0 AND next_at <= ?", (step.now,)
    ).fetchall()
    for row in rows:
        record = schedule(row)
        due = record.next_at.timestamp() if record.next_at is not None else step.now
        missed = step.now - due > LATE_AFTER_S
        outcome, task_id = _hand_in(step, record, missed)
        following: float | None = None
        try:
            following = next_after(record.cron, timezone(record.timezone), step.now)
        except ValueError as error:
            outcome = f"{outcome}; it is not due any more: {error or 'its time zone is not known here'}"
        step.connection.execute(
            "UPDATE schedules SET next_at = ?, last_at = ?, last_outcome = ?, last_task_id = COALESCE(?, last_task_id)"
            " WHERE name = ?",
            (following, due, outcome, task_id, record.name),
        )
        data: dict[str, Any] = {"schedule": record.name, "outcome": outcome}
        step.happened("schedule_due", data, task_id=task_id)


def _hand_in(step: Step, record: ScheduleRecord, missed: bool) -> tuple[str, str | None]:
    """Return what came of it, in a sentence, and the task's id."""
    if missed and record.missed == Missed.SKIP:
        return "skipped: the orchestrator was away when it was due", None
    if record.overlap == Overlap.SKIP and (open_one := _open_one(step.connection, record.name)) is not None:
        return f"skipped: task {open_one} of the time before has not ended", None
    try:
        order = TaskOrder.model_validate_json(json.dumps(record.task))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"refused: task.{where}: {first['msg']}; delete the schedule, and make it anew", None
    try:
        admitted = admit(step, order, Asker(name=record.created_by, origin="schedule"), schedule=record.name)
    except OrchestratorError as error:
        return f"refused: {error}", None
    (task_id,) = step.connection.execute("SELECT task_id FROM tasks WHERE seq = ?", (admitted.first_seq,)).fetchone()
    return ("handed in, late: the orchestrator was away when it was due" if missed else "handed in"), str(task_id)


def _open_one(connection: sqlite3.Connection, name: str) -> str | None:
    finals = ", ".join(f"'{state}'" for state in (TaskState.COMPLETED, "failed", "timed_out", "cancelled"))
    found = connection.execute(
        f"SELECT task_id FROM tasks WHERE schedule = ? AND state NOT IN ({finals}) ORDER BY seq DESC LIMIT 1", (name,)
    ).fetchone()
    return None if found is None else str(found[0])
