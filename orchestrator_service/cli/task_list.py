"""`codehornets tasks`, `task` and `retry`: what there is to do, what is done, and all that is known of one task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator_service.cli.api_place import find_api, need_api, or_without
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.moments import clock, money, since
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir
from orchestrator_service.cli.results import check_id, no_other_way
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from agent_bus.messages import Result
    from orchestrator_service.client.calls import ApiPlace
    from orchestrator_service.records import TaskRecord, TaskSummary, TryRecord

_LARGEST_PAGE: Final = 500
_FILE_STATES: Final = ("waiting", "running", "completed", "failed", "timed_out", "cancelled")
_HEADINGS: Final = ("task", "state", "worker", "handed in>", "took>", "cost>", "title or what it waits for*")
_FILE_HEADINGS: Final = ("task", "state", "worker", "changed>")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which tasks to list."""

    states: tuple[str, ...] = ()
    worker: str | None = None
    goal: str | None = None
    graph: str | None = None
    limit: int = 50
    all_pages: bool = False


def tasks(wanted: Wanted, *, where: Where, as_json: bool) -> int:
    """List tasks, newest first; without an API those that the files show."""
    if (place := find_api(where)) is not None and or_without(place, partial(_by_api, wanted, as_json)):
        return 0
    if wanted.goal is not None or wanted.graph is not None:
        need_api(where, "--goal or --graph")
    return _by_files(wanted, find_shared_dir(where.shared_dir), as_json)


def _by_api(wanted: Wanted, as_json: bool, place: ApiPlace) -> bool:
    from orchestrator_service.client.calls import ask
    from orchestrator_service.client.calls import tasks as page_of

    query = [("state", state) for state in wanted.states]
    query += [
        (name, value)
        for name, value in (("worker", wanted.worker), ("goal", wanted.goal), ("graph", wanted.graph))
        if value is not None
    ]
    found: list[TaskSummary] = []
    cursor: str | None = None
    while True:
        size = _LARGEST_PAGE if wanted.all_pages else min(_LARGEST_PAGE, wanted.limit - len(found))
        further = [("cursor", cursor)] if cursor is not None else []
        page = ask(place, page_of([*query, ("limit", str(size)), *further]))
        found += page.tasks
        cursor = page.next_cursor
        if cursor is None or (not wanted.all_pages and len(found) >= wanted.limit):
            break
    if as_json:
        print_json({"tasks": [task.model_dump(mode="json") for task in found], "more": cursor is not None})
        return True
    if not found:
        print("There is no such task." if query else "There is no task yet.")
        return True
    print_table(_HEADINGS, map(_row, found))
    if cursor is not None:
        print(f"There are more than these {len(found)}; --limit or --all shows them.")
    return True


def _row(task: TaskSummary) -> tuple[str, ...]:
    about = task.title or ""
    if task.waits_for is not None:
        about = f"{about}: {task.waits_for.message}" if about else task.waits_for.message
    elif task.error is not None:
        about = f"{about}: {task.error.message}" if about else task.error.message
    return (
        task.task_id,
        task.state.value.replace("_", " "),
        task.worker or _route(task),
        since(task.submitted_at),
        _took(task),
        money(task.cost_usd, task.notional_cost_usd),
        about,
    )


def _route(task: TaskSummary) -> str:
    if task.route.worker is not None:
        return task.route.worker
    wanted = [*([task.route.role] if task.route.role else []), *task.route.skills]
    return f"any {', '.join(wanted)}".strip() if wanted else "any"


def _took(task: TaskSummary) -> str:
    if task.started_at is None:
        return "-"
    if task.ended_at is None:
        return since(task.started_at)
    return f"{(task.ended_at - task.started_at).total_seconds():.1f} s"


def _by_files(wanted: Wanted, shared: Path, as_json: bool) -> int:
    from orchestrator_service.cli.file_tasks import seen_tasks

    if unknown := [state for state in wanted.states if state not in _FILE_STATES]:
        raise UserError(
            f"--state is {unknown[0][:80]!r}; allowed without the orchestrator are {', '.join(_FILE_STATES)}."
        )
    limit = 10**9 if wanted.all_pages else wanted.limit
    found = seen_tasks(shared, limit=limit, states=frozenset(wanted.states), worker=wanted.worker)
    if as_json:
        print_json({"tasks": [seen.as_json() for seen in found], "more": len(found) >= limit})
    elif not found:
        print(f"No such task can be seen in {shared}.")
    else:
        rows = ((seen.task_id, seen.state.replace("_", " "), seen.worker, since(seen.moment)) for seen in found)
        print_table(_FILE_HEADINGS, rows)
    return 0


def task(task_id: str, *, where: Where, as_json: bool) -> int:
    """Show all that is known of one task."""
    check_id(task_id)
    if (place := find_api(where)) is not None:
        if or_without(place, partial(_task_by_api, task_id, as_json)):
            return 0
        no_other_way(where, place, task_id)
    return _task_by_files(task_id, find_shared_dir(where.shared_dir), as_json)


def _task_by_api(task_id: str, as_json: bool, place: ApiPlace) -> bool:
    from orchestrator_service.cli.api_tasks import ask_or_nothing
    from orchestrator_service.client import calls as api_calls

    found = ask_or_nothing(place, api_calls.task(task_id))
    if found is None:
        return False
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for line in _in_lines(found):
            print(harmless(line))
    return True


def _in_lines(task: TaskRecord) -> list[str]:
    state = task.state.value.replace("_", " ")
    facts: list[tuple[str, str | None]] = [
        ("task", task.task_id),
        ("title", task.title),
        ("state", state if task.waits_for is None else f"{state}: {task.waits_for.message}"),
        ("error", None if task.error is None else f"{task.error.kind}: {task.error.message}"),
        ("for", _route(task)),
        ("priority", str(task.priority)),
        ("needs", f"{', '.join(task.needs)} ({task.unmet} not ended)" if task.needs else None),
        ("graph", task.graph_id),
        ("goal", task.goal_id),
        ("schedule", task.schedule),
        ("asked by", f"{task.submitted_by} ({task.origin})" + (f", for {task.parent}" if task.parent else "")),
        ("deadline", None if task.deadline is None else clock(task.deadline)),
        ("cost", money(task.cost_usd, task.notional_cost_usd) or None),
        ("prompt", " ".join(task.description.split())),
    ]
    lines = [f"{name:<9} {_cut(text)}" for name, text in facts if text is not None]
    return [*lines, "", *(f"{moment}  {what}" for moment, what in _timeline(task))]


def _timeline(task: TaskRecord) -> list[tuple[str, str]]:
    moments: list[tuple[Any, str]] = [(task.submitted_at, "handed in"), (task.ready_at, "ready")]
    for run in task.runs:
        try_words = f"try {run.number}"
        moments += [
            (run.sent_at, f"{try_words}: sent to {run.worker} by {run.transport}"),
            (run.started_at, f"{try_words}: begun"),
        ]
        why = "" if run.error is None else f": {run.error.message}"
        price = _price(run)
        moments.append((run.ended_at, f"{try_words}: {(run.status or 'ended').replace('_', ' ')}{price}{why}"))
    moments += [
        (task.cancel_requested_at, "its end was asked for"),
        (task.ended_at, task.state.value.replace("_", " ")),
        (task.next_at, "goes on at this time") if task.ended_at is None else (None, ""),
    ]
    # A stable order: what happened in one moment stays in the order of a task's life.
    there = sorted((each for each in moments if each[0] is not None), key=lambda each: each[0])
    return [(clock(moment), _cut(what)) for moment, what in there]


def _price(run: TryRecord) -> str:
    if run.cost_usd is None:
        return ""
    return f" ({money(run.cost_usd, run.cost_usd if run.cost_is_notional else None)})"


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:299]}…"


def _task_by_files(task_id: str, shared: Path, as_json: bool) -> int:
    from orchestrator_service.cli.tasks import find_result, find_task

    result = find_result(shared, task_id)
    where = None if result is not None else find_task(shared, task_id)
    if result is None and where is None:
        raise UserError(f"No task {task_id} in {shared}: no result, and no worker has it.")
    if result is not None:
        content = result.model_dump(mode="json")
        facts = [
            ("task", task_id),
            ("state", result.status.value.replace("_", " ")),
            ("error", None if result.error is None else f"{result.error.kind}: {result.error.message}"),
            ("worker", result.worker),
            ("attempts", str(result.attempts)),
            ("cost", _cost_of(result)),
            ("ended", clock(result.completed_at)),
            ("took", f"{result.duration_seconds:.1f} s"),
        ]
    else:
        assert where is not None
        content = {"task_id": task_id, "worker": where.worker, "state": where.state}
        facts = [("task", task_id), ("state", where.state), ("worker", where.worker)]
    if as_json:
        print_json(content)
    else:
        for name, text in facts:
            if text is not None:
                print(harmless(f"{name:<9} {_cut(text)}"))
    return 0


def retry(task_id: str, *, where: Where, as_json: bool) -> int:
    """Try a task again that failed, ran out of time or was cancelled."""
    check_id(task_id)
    place = need_api(where, "`retry`")
    from orchestrator_service.cli.api_tasks import where_it_is
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.retry(task_id))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print(harmless(f"Task {task_id} is tried again; it is {where_it_is(found)}."))
    return 0


def _cost_of(result: Result) -> str | None:
    price = money(result.cost_usd, result.cost_usd if result.cost_is_notional else None)
    if not result.cost_is_partial:
        return price or None
    return f"at least {price}" if price else "not known: it was cut off"
