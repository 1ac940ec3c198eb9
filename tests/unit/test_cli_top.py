"""What `codehornets top` shows, from given data."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from agent_bus.messages import TaskError
from orchestrator_service.cli.top_view import Glimpse, Throughput, render
from orchestrator_service.records import Route, TaskState, TaskSummary, WaitsFor, WorkerInstance, WorkerRecord

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def task(task_id: str, state: TaskState, **changes: object) -> TaskSummary:
    fields: dict[str, object] = {
        "task_id": task_id,
        "title": None,
        "state": state,
        "worker": "ann",
        "route": Route(worker="ann"),
        "priority": 50,
        "dependencies": 0,
        "unmet": 0,
        "tries": 1,
        "origin": "api",
        "submitted_by": "local",
        "submitted_at": NOW,
    }
    given = {"depth": 0, "stuck": False, **fields}
    missing = dict.fromkeys(name for name in TaskSummary.model_fields if name not in given)
    return TaskSummary.model_validate({**missing, **given, **changes})


def worker(name: str, **changes: object) -> WorkerRecord:
    fields: dict[str, object] = {
        "name": name,
        "role": "first",
        "skills": [],
        "state": "up",
        "status": "busy",
        "paused": False,
        "heartbeat_age_seconds": 3.0,
        "slots": 4,
        "in_flight": 2,
        "max_in_flight": 8,
        "waiting": 1,
        "transport": "file",
        "spent_today_usd": 1.5,
        "reserved_usd": 0.0,
        "budget_usd": None,
        "instances": [],
    }
    return WorkerRecord.model_validate({**fields, **changes})


def shown(glimpse: Glimpse, **options: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(glimpse, **{"per_minute": 12.0, "height": 40, **options}))  # type: ignore[arg-type]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def glimpse(**changes: object) -> Glimpse:
    fields: dict[str, object] = {
        "workers": [worker("ann"), worker("bob", state="down", heartbeat_age_seconds=None, in_flight=0)],
        "counts": {"running": 1, "ready": 3, "completed": 7, "failed": 1},
        "running": [task("r1", TaskState.RUNNING, started_at=NOW - timedelta(minutes=5), title="Sum up")],
        "waiting": [
            task(f"w{n}", TaskState.READY, waits_for=WaitsFor(kind=kind, message="It waits."))
            for n, kind in enumerate(("slot", "slot", "budget"))
        ],
        "ended": [
            task(
                "e1",
                TaskState.FAILED,
                ended_at=NOW - timedelta(seconds=9),
                error=TaskError(kind="x", message="no\x1b[2J luck\nat all"),
            )
        ],
        "at": NOW,
    }
    return Glimpse(**{**fields, **changes})  # type: ignore[arg-type]


def test_workers_what_runs_what_waits_and_what_ended() -> None:
    text = shown(glimpse())
    assert "3 ready, 1 running, 7 completed, 1 failed 12 a minute" in text
    assert "ann busy 3 s 2/4 1 $1.50 first" in text
    assert "bob down - 0/4 1" in text
    assert "3 wait: 2 for a free place, 1 for money." in text
    assert "r1 running ann 5 min Sum up" in text
    assert "e1 failed ann 9 s no[2J luck at all" in text
    assert "\x1b" not in text


def test_a_worker_with_stuck_tasks_says_how_many() -> None:
    told = dict.fromkeys(WorkerInstance.model_fields)
    told |= {
        "instance": "ann-1",
        "transport": "file",
        "status": "busy",
        "age_seconds": 1.0,
        "slots": 4,
        "mode": "hooks",
    }
    told |= {"timestamp": NOW, "current_tasks": ["r1", "r2"], "stuck_tasks": ["r2"], "agent": "claude", "version": "1"}
    gone = {**told, "instance": "ann-0", "alive": False}
    ann = worker("ann", instances=[{**told, "alive": True}, gone])
    assert "ann busy, 1 stuck 3 s" in shown(glimpse(workers=[ann]))


def test_a_sample_of_what_waits_is_called_one() -> None:
    assert "9000 wait: 2 for a free place, 1 for money (of the first 3)." in shown(glimpse(counts={"ready": 9000}))


def test_an_empty_team_and_trouble() -> None:
    text = shown(glimpse(workers=[], counts={}, running=[], waiting=[], ended=[]), trouble="The API\x07 is away")
    assert "no tasks yet" in text
    assert "Nothing waits." in text
    assert text.rstrip().endswith("The API is away")


def test_throughput_is_that_of_the_last_minute() -> None:
    pace = Throughput()
    assert pace.add(glimpse(counts={"completed": 0})) is None
    assert pace.add(glimpse(counts={"completed": 5}, at=NOW + timedelta(seconds=30))) == 10.0
    assert pace.add(glimpse(counts={"completed": 5}, at=NOW + timedelta(seconds=90))) == 0.0
