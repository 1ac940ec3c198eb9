"""Letting tasks in: everything of an order is checked, then all of it is written down, or nothing."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic_core import to_json

from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.errors import Conflict, FieldProblem, OrderRefused
from orchestrator_service.orders import GraphOrder, OnFailure, TaskOrder
from orchestrator_service.records import TaskState
from orchestrator_service.scheduling.graphs import Node, resolve
from orchestrator_service.scheduling.routing import FleetView, lane_of
from orchestrator_service.scheduling.step import Step

_KEPT_KEYS_S: Final = 7 * 86_400.0
_MOST_DEPTH: Final = 10
_CHUNK: Final = 500
_LONGEST_TITLE: Final = 80
_FAILED: Final = (TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED)
_INSERT: Final = (
    "INSERT INTO tasks (seq, task_id, state, lane, priority, title, graph_id, goal_id, schedule, parent, depth, origin,"
    " submitted_by, on_failure, session, needs, unmet, reserve_usd, submitted_at, next_at, ready_at, deadline)"
    f" VALUES ({', '.join('?' * 22)})"
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What was let in."""

    graph_id: str | None
    first_seq: int
    last_seq: int
    repeated: bool


def new_task_id() -> str:
    """Return an id that sorts by time and that nobody else makes up."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"


def admit(
    step: Step,
    order: TaskOrder | GraphOrder,
    asker: Asker,
    idempotency: Idempotency | None = None,
    schedule: str | None = None,
) -> Admitted:
    """Let a task or a graph in.

    Raises:
        OrderRefused: a field is wrong.
        Conflict: an id is used, or the idempotency key came with another body.
    """
    connection = step.connection
    if idempotency is not None and (known := _repeated(step, asker, idempotency)) is not None:
        return known
    graph_id: str | None = None
    orders: Sequence[TaskOrder] = [order] if isinstance(order, TaskOrder) else order.tasks
    if isinstance(order, GraphOrder):
        graph_id = order.graph_id or f"g{time.strftime('%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"
    nodes, problems = resolve(orders, graph_id, new_task_id)
    problems += check_tasks(step, nodes, single=graph_id is None)
    if problems:
        raise OrderRefused(problems)
    _refuse_used(connection, nodes)
    known_needs, more_problems = _look_up_needs(connection, nodes, single=graph_id is None)
    if more_problems:
        raise OrderRefused(more_problems)
    (last,) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM tasks").fetchone()
    first_seq = int(last) + 1
    _insert(step, nodes, known_needs, first_seq, graph_id, asker, schedule)
    last_seq = first_seq + len(nodes) - 1
    if idempotency is not None:
        connection.execute(
            "INSERT INTO idempotency (submitted_by, key, digest, graph_id, first_seq, last_seq, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (asker.name, idempotency.key, idempotency.digest, graph_id, first_seq, last_seq, step.now),
        )
    return Admitted(graph_id, first_seq, last_seq, repeated=False)


def _repeated(step: Step, asker: Asker, idempotency: Idempotency) -> Admitted | None:
    step.connection.execute("DELETE FROM idempotency WHERE at < ?", (step.now - _KEPT_KEYS_S,))
    found = step.connection.execute(
        "SELECT digest, graph_id, first_seq, last_seq FROM idempotency WHERE submitted_by = ? AND key = ?",
        (asker.name, idempotency.key),
    ).fetchone()
    if found is None:
        return None
    digest, graph_id, first_seq, last_seq = found
    kept = step.connection.execute(
        "SELECT 1 FROM tasks WHERE seq BETWEEN ? AND ? LIMIT 1", (first_seq, last_seq)
    ).fetchone()
    if kept is None:
        # What it brought is forgotten, and so is the key.
        step.connection.execute(
            "DELETE FROM idempotency WHERE submitted_by = ? AND key = ?", (asker.name, idempotency.key)
        )
        return None
    if digest != idempotency.digest:
        raise Conflict(f"The idempotency key {idempotency.key[:80]!r} came before with another body; take a new one.")
    return Admitted(graph_id, first_seq, last_seq, repeated=True)


def check_tasks(step: Step, nodes: Sequence[Node], *, single: bool) -> list[FieldProblem]:
    """Return what is wrong with the tasks one by one."""
    problems: list[FieldProblem] = []
    lanes: dict[tuple[str | None, str | None, tuple[str, ...]], str | None] = {}
    homes: dict[str, str | None] = {}
    for number, node in enumerate(nodes):
        order = node.order

        def field(name: str, number: int = number) -> str:
            return name if single else f"tasks[{number}].{name}"

        if order.worker is not None and (order.role is not None or order.skills):
            problems.append(
                FieldProblem(field("worker"), order.worker, "name a worker, or a role and skills; not both")
            )
        destination = (order.worker, order.role, tuple(order.skills))
        if destination not in lanes:
            lanes[destination] = _nobody(step.fleet, order)
        if (sentence := lanes[destination]) is not None:
            name = "worker" if order.worker is not None else "role" if order.role is not None else "skills"
            problems.append(FieldProblem(field(name), getattr(order, name), sentence))
        if order.session is not None and order.worker is not None:
            if order.session not in homes:
                homes[order.session] = _home(step.connection, order.session) or order.worker
            if (home := homes[order.session]) != order.worker:
                told = f"the session {order.session!r} is at {home}; leave worker out, or name that one"
                problems.append(FieldProblem(field("session"), order.session, told))
        problems += [
            FieldProblem(field(name), None, "it cannot be written as JSON: allowed are texts of whole characters")
            for name in ("metadata", "output_schema")
            if not _is_json(getattr(order, name))
        ]
        if order.task_id is not None and _is_a_later_try(order.task_id):
            problems.append(
                FieldProblem(
                    field("task_id"), order.task_id, "an id must not end in + and a number; later tries are called so"
                )
            )
        if order.deadline is not None and order.deadline.timestamp() <= step.now:
            problems.append(FieldProblem(field("deadline"), order.deadline.isoformat(), "it has passed already"))
        if order.deadline is not None and order.not_before is not None and order.deadline <= order.not_before:
            problems.append(FieldProblem(field("deadline"), order.deadline.isoformat(), "it is before not_before"))
        if (sentence := _too_dear(step, order)) is not None:
            problems.append(FieldProblem(field("max_budget_usd"), order.max_budget_usd, sentence))
    return problems


def _nobody(fleet: FleetView, order: TaskOrder) -> str | None:
    """Return a sentence if no worker that is known could ever take the task."""
    if order.worker is None and order.role is None and not order.skills:
        return None
    if fleet.candidates(lane_of(order.worker, order.role, order.skills)):
        return None
    names = ", ".join(sorted(fleet.members)) or "none yet"
    if order.worker is not None:
        return f"there is no such worker; there are: {names}"
    if order.role is not None:
        roles = ", ".join(sorted({member.role for member in fleet.members.values() if member.role})) or "none"
        return f"no worker has this role{' and these skills' if order.skills else ''}; the roles are: {roles}"
    skills = ", ".join(sorted({skill for member in fleet.members.values() for skill in member.skills})) or "none"
    return f"no worker has all of these skills; there are: {skills}"


def _home(connection: sqlite3.Connection, session: str) -> str | None:
    found = connection.execute("SELECT worker FROM sessions WHERE session = ?", (session,)).fetchone()
    return None if found is None else str(found[0])


def _is_json(value: object) -> bool:
    if not value:
        return True
    try:
        to_json(value)
    except ValueError:
        return False
    return True


def _is_a_later_try(task_id: str) -> bool:
    head, plus, number = task_id.rpartition("+")
    return bool(head and plus and number.isdigit())


def _too_dear(step: Step, order: TaskOrder) -> str | None:
    if order.max_budget_usd is None:
        return None
    budget = step.book.budget
    for limit, name in (
        (budget.task_usd, "a task (TASK_BUDGET_USD)"),
        (budget.worker_day_usd, "a worker and day (WORKER_BUDGET_USD)"),
        (budget.day_usd, "the team and day (DAY_BUDGET_USD)"),
    ):
        if limit is not None and order.max_budget_usd > limit:
            return f"at most ${limit:g}, the limit for {name}"
    return None


def _refuse_used(connection: sqlite3.Connection, nodes: Sequence[Node]) -> None:
    named = [node.order.task_id or "" for node in nodes]
    for start in range(0, len(named), _CHUNK):
        chunk = named[start : start + _CHUNK]
        found = connection.execute(
            f"SELECT task_id, state FROM tasks WHERE task_id IN ({', '.join('?' * len(chunk))}) LIMIT 1", chunk
        ).fetchone()
        if found is not None:
            raise Conflict(f"Task {found[0]} is there already ({found[1]}); take another task_id.")


def _look_up_needs(
    connection: sqlite3.Connection, nodes: Sequence[Node], *, single: bool
) -> tuple[Mapping[str, tuple[int, str, str]], list[FieldProblem]]:
    """Return (seq, state, on_failure) of each needed task that is in the ledger, and the names that are nowhere."""
    own = {node.order.task_id for node in nodes}
    outside = list({name for node in nodes for name in node.needs if name not in own})
    known: dict[str, tuple[int, str, str]] = {}
    for start in range(0, len(outside), _CHUNK):
        chunk = outside[start : start + _CHUNK]
        rows = connection.execute(
            f"SELECT task_id, seq, state, on_failure FROM tasks WHERE task_id IN ({', '.join('?' * len(chunk))})", chunk
        )
        known.update((task_id, (seq, state, on_failure)) for task_id, seq, state, on_failure in rows)
    problems: list[FieldProblem] = []
    for number, node in enumerate(nodes):
        for at, name in enumerate(node.needs):
            field = f"dependencies[{at}]" if single else f"tasks[{number}].dependencies[{at}]"
            if name not in own and name not in known:
                where = "" if single else " and no task of this graph has it as its key or id"
                problems.append(FieldProblem(field, name, f"there is no such task{where}"))
            elif name in known and known[name][1] in _FAILED and known[name][2] != OnFailure.CONTINUE:
                told = f"this task has ended as {known[name][1]}; retry it first, or leave it out"
                problems.append(FieldProblem(field, name, told))
    return known, problems


def _insert(
    step: Step,
    nodes: Sequence[Node],
    known: Mapping[str, tuple[int, str, str]],
    first_seq: int,
    graph_id: str | None,
    asker: Asker,
    schedule: str | None,
) -> None:
    connection = step.connection
    own = {node.order.task_id or "": first_seq + number for number, node in enumerate(nodes)}
    tasks, bodies, edges = [], [], []
    depths: dict[str | None, int] = {None: 0}
    for number, node in enumerate(nodes):
        order, seq = node.order, first_seq + number
        if order.parent not in depths:
            depths[order.parent] = _depth_below(connection, order.parent, number, single=graph_id is None)
        unmet = 0
        for name in node.needs:
            needed_seq, state, on_failure = (own[name], "", "") if name in own else known[name]
            edges.append((seq, needed_seq))
            if state == TaskState.COMPLETED or (state in _FAILED and on_failure == OnFailure.CONTINUE):
                continue
            unmet += 1
        not_before = None if order.not_before is None else order.not_before.timestamp()
        state = TaskState.BLOCKED
        if not unmet:
            state = TaskState.READY if not_before is None or not_before <= step.now else TaskState.SCHEDULED
        lane = lane_of(order.worker, order.role, order.skills)
        reserve = order.max_budget_usd if order.max_budget_usd is not None else step.book.budget.task_usd
        tasks.append(
            (
                seq,
                order.task_id,
                state.value,
                lane,
                order.priority,
                order.title or beginning_of(order.description),
                graph_id,
                asker.goal_id,
                schedule,
                order.parent,
                depths[order.parent],
                asker.origin,
                asker.name,
                order.on_failure.value,
                order.session,
                len(node.needs),
                unmet,
                reserve,
                step.now,
                not_before if state is not TaskState.READY else None,
                step.now if state is TaskState.READY else None,
                None if order.deadline is None else order.deadline.timestamp(),
            )
        )
        bodies.append((seq, order.model_dump_json(exclude_defaults=True)))
        step.set_state(seq, lane, None, state)
    connection.executemany(_INSERT, tasks)
    connection.executemany("INSERT INTO orders (seq, body) VALUES (?, ?)", bodies)
    connection.executemany("INSERT INTO dependencies (seq, needs) VALUES (?, ?)", edges)
    _tell(step, nodes, graph_id, asker)


def _depth_below(connection: sqlite3.Connection, parent: str | None, number: int, *, single: bool) -> int:
    field = "parent" if single else f"tasks[{number}].parent"
    found = connection.execute("SELECT depth FROM tasks WHERE task_id = ?", (parent,)).fetchone()
    if found is None:
        raise OrderRefused([FieldProblem(field, parent, "there is no such task")])
    depth = int(found[0]) + 1
    if depth > _MOST_DEPTH:
        raise OrderRefused([FieldProblem(field, parent, f"tasks may ask for tasks {_MOST_DEPTH} deep and no deeper")])
    return depth


def _tell(step: Step, nodes: Sequence[Node], graph_id: str | None, asker: Asker) -> None:
    for node in nodes:
        data = {"title": node.order.title, "by": asker.name, "origin": asker.origin, "graph_id": graph_id}
        step.happened("task_submitted", _given(data), task_id=node.order.task_id, goal_id=asker.goal_id)


def beginning_of(description: str) -> str:
    """Return the first words of a prompt, as a title for lists."""
    first = next((line for line in description.splitlines() if line.strip()), "").strip()
    return first if len(first) <= _LONGEST_TITLE else f"{first[: _LONGEST_TITLE - 1]}…"


def _given(data: Mapping[str, object]) -> dict[str, object]:
    """Return what is not empty."""
    return {name: value for name, value in data.items() if value is not None}
