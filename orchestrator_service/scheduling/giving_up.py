"""Ending tasks that were to end and cannot say so: their worker is down, and nobody knows whether it comes back."""

from __future__ import annotations

from typing import Final

from orchestrator_service.ledger.usage import count_run
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.lifecycle import end, get
from orchestrator_service.scheduling.step import Step

PATIENCE_S: Final = 60.0
"""So long a worker that is down has to come back and carry out what it was asked for."""


def give_up(step: Step) -> list[str]:
    """End tasks whose end was asked for a while ago and whose worker is down; returns the names of their dispatches.

    The request lies with the worker: should it come back, it ends the agent and does not go on. What its run has cost
    is not known, and counts for all that was reserved.
    """
    rows = step.connection.execute(
        "SELECT t.seq, r.wire_id, r.worker, r.reserved_usd, r.budget_day, t.error_kind, t.error_message"
        " FROM tasks AS t JOIN runs AS r ON r.wire_id = t.wire_id"
        " WHERE t.cancel_at IS NOT NULL AND t.ended_at IS NULL AND t.cancel_at <= ? AND r.ended_at IS NULL",
        (step.now - PATIENCE_S,),
    ).fetchall()
    given_up: list[str] = []
    for seq, wire_id, worker, reserved, budget_day, kind, message in rows:
        member = step.fleet.members.get(worker)
        if member is not None and member.up:
            continue
        step.connection.execute(
            "UPDATE runs SET ended_at = ?, status = 'given_up', cost_usd = ? WHERE wire_id = ?",
            (step.now, reserved, wire_id),
        )
        count_run(step.connection, wire_id)
        step.connection.execute(
            "UPDATE tasks SET cost_usd = CASE WHEN ? IS NULL THEN cost_usd ELSE COALESCE(cost_usd, 0) + ? END"
            " WHERE seq = ?",
            (reserved, reserved, seq),
        )
        step.book.in_flight[worker] -= 1
        if budget_day == step.book.day:
            step.book.reserved[worker] -= reserved or 0.0
            step.book.spent[worker] += reserved or 0.0
        row = get(step.connection, seq)
        told = (
            f"{(message or 'Its end was asked for').rstrip('.')}. Its worker {worker} is down and has not confirmed it."
        )
        end(step, row, TaskState(row.cancel_status or "cancelled"), kind=kind or "cancelled", message=told)
        given_up.append(wire_id)
    return given_up
