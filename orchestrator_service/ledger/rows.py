"""From rows of the ledger to what is told: one function a record, and the columns that it needs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from agent_bus.messages import TaskError
from orchestrator_service.records import (
    EventRecord,
    ScheduleRecord,
    TaskRecord,
    TaskState,
    TaskSummary,
    TryRecord,
    WaitsFor,
)
from orchestrator_service.scheduling.routing import route_of

SUMMARY_COLUMNS: Final = (
    "seq, task_id, state, lane, worker, priority, title, graph_id, goal_id, schedule, parent, depth, origin,"
    " submitted_by, session, needs, unmet, tries, retries, reserve_usd, submitted_at, ready_at, next_at, sent_at,"
    " started_at, ended_at, deadline, cancel_at, cost_usd, error_kind, error_message,"
    " notional_usd"
)
SCHEDULE_COLUMNS: Final = (
    "name, cron, timezone, task, overlap, missed, paused, next_at, last_at, last_task_id, last_outcome, created_by,"
    " created_at"
)


def moment(seconds: float | None) -> datetime | None:
    """Return a moment of the ledger as it is told."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def run_of(row: tuple[Any, ...]) -> str | None:
    """Return the wire id of the run that a row of `SUMMARY_COLUMNS` stands for; None where none is under way."""
    task_id, state, tries = row[1], row[2], row[17]
    if state not in (TaskState.SENT, TaskState.RUNNING):
        return None
    return str(task_id) if tries <= 1 else f"{task_id}+{tries}"


def event_record(row: tuple[Any, ...]) -> EventRecord:
    """Return an event from a row of `queries.latest_events`."""
    seq, at, event, task_id, title, worker, goal_id, data = row
    return EventRecord.model_construct(
        id=str(seq),
        event=event,
        timestamp=moment(at),
        task_id=task_id,
        title=title,
        worker=worker,
        goal_id=goal_id,
        data=json.loads(data),
    )


def summary_fields(row: tuple[Any, ...], waits_for: WaitsFor | None, stuck: bool) -> dict[str, Any]:
    """Return the fields of a `TaskSummary` from a row of `SUMMARY_COLUMNS`."""
    (
        _seq,
        task_id,
        state,
        lane,
        worker,
        priority,
        title,
        graph_id,
        goal_id,
        schedule,
        parent,
        depth,
        origin,
        submitted_by,
        _session,
        needs,
        unmet,
        tries,
        _retries,
        _reserve,
        submitted_at,
        ready_at,
        next_at,
        sent_at,
        started_at,
        ended_at,
        deadline,
        cancel_at,
        cost_usd,
        error_kind,
        error_message,
        notional_usd,
    ) = row
    return {
        "task_id": task_id,
        "title": title,
        "state": TaskState(state),
        "waits_for": waits_for,
        "worker": worker,
        "route": route_of(lane),
        "priority": priority,
        "dependencies": needs,
        "unmet": unmet,
        "tries": tries,
        "graph_id": graph_id,
        "goal_id": goal_id,
        "schedule": schedule,
        "parent": parent,
        "depth": depth,
        "origin": origin,
        "submitted_by": submitted_by,
        "submitted_at": moment(submitted_at),
        "ready_at": moment(ready_at),
        "next_at": moment(next_at),
        "sent_at": moment(sent_at),
        "started_at": moment(started_at),
        "ended_at": moment(ended_at),
        "deadline": moment(deadline),
        "cancel_requested_at": moment(cancel_at),
        "cost_usd": cost_usd,
        "notional_cost_usd": notional_usd,
        "error": None
        if error_kind is None
        else TaskError.model_construct(kind=error_kind, message=error_message or ""),
        "stuck": stuck,
    }


def summary(row: tuple[Any, ...], waits_for: WaitsFor | None, *, stuck: bool = False) -> TaskSummary:
    """Return a task for a list. What the ledger holds was checked when it came in."""
    return TaskSummary.model_construct(**summary_fields(row, waits_for, stuck))


def record(
    row: tuple[Any, ...],
    waits_for: WaitsFor | None,
    order: dict[str, Any],
    needs: list[str],
    runs: list[TryRecord],
    *,
    stuck: bool = False,
) -> TaskRecord:
    """Return all of a task."""
    return TaskRecord.model_construct(
        **summary_fields(row, waits_for, stuck),
        description=str(order.get("description", "")),
        needs=needs,
        order=order,
        runs=runs,
    )


RUN_COLUMNS: Final = (
    "number, wire_id, worker, transport, sent_at, started_at, ended_at, status, session_id, attempts, reserved_usd,"
    " cost_usd, error_kind, error_message, event_position, notional"
)


def run(row: tuple[Any, ...]) -> TryRecord:
    """Return one try from a row of `RUN_COLUMNS`."""
    (
        number,
        wire_id,
        worker,
        transport,
        sent,
        started,
        ended,
        status,
        session,
        attempts,
        reserved,
        cost,
        kind,
        text,
        at,
        notional,
    ) = row
    return TryRecord.model_construct(
        number=number,
        wire_id=wire_id,
        worker=worker,
        transport=transport,
        sent_at=moment(sent),
        started_at=moment(started),
        ended_at=moment(ended),
        status=status,
        session_id=session,
        attempts=attempts,
        reserved_usd=reserved,
        cost_usd=cost,
        cost_is_notional=None if notional is None else bool(notional),
        error=None if kind is None else TaskError.model_construct(kind=kind, message=text or ""),
        event_position=at,
    )


def schedule(row: tuple[Any, ...]) -> ScheduleRecord:
    """Return a recurring task from a row of `SCHEDULE_COLUMNS`."""
    name, cron, zone, task, overlap, missed, paused, next_at, last_at, last_task, outcome, who, created_at = row
    return ScheduleRecord.model_construct(
        name=name,
        cron=cron,
        timezone=zone,
        task=json.loads(task),
        overlap=overlap,
        missed=missed,
        paused=bool(paused),
        next_at=None if paused else moment(next_at),
        last_at=moment(last_at),
        last_task_id=last_task,
        last_outcome=outcome,
        created_by=who,
        created_at=moment(created_at),
    )
