"""A graph of 500 tasks while orchestrator and workers are killed at random: each task ends in exactly one state."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_bus.dead_letters import DeadLetterBox
from agent_bus.layout import WorkerLayout
from agent_bus.messages import utc_now
from tests.integration.orchestrator_process import OrchestratorProcess, WorkerProcess, ask, processes, results
from tests.waiting import wait_until

TASKS = 500
LAYERS = 10
KILLS_OF_EACH = 5
WORKERS = ("anga", "fabien", "marie")
# Each task's own id says how it goes: those of 7 fail once, those of 33 time and again.
AGENT = """sh -c 'case "$CODEHORNETS_TASK_ID" in *33|*33+*) exit 3;; *7) exit 1;; esac; cat; echo " done"'"""


def graph(choice: random.Random) -> dict[str, object]:
    """Return layers of tasks, each of which needs some of the layer before."""
    width = TASKS // LAYERS
    tasks: list[dict[str, object]] = []
    for number in range(TASKS):
        layer = number // width
        before = range((layer - 1) * width, layer * width) if layer else range(0)
        needs = [f"t{each}" for each in choice.sample(list(before), min(len(before), choice.randint(1, 3)))]
        task: dict[str, object] = {
            "key": f"t{number}",
            "description": f"{number} after {{{{results.{needs[0]}.output}}}}" if needs else str(number),
            "dependencies": needs,
            "retry": {"max_retries": 2, "initial_seconds": 0.05, "jitter": 0.5},
            "on_failure": "continue" if number % 2 else "fail_dependents",
        }
        if number % 10 == 0:
            task["worker"] = choice.choice(WORKERS)
        tasks.append(task)
    return {"graph_id": "g", "tasks": tasks}


@pytest.mark.timeout(240)
def test_kills_of_the_orchestrator_and_its_workers_lose_and_double_nothing(shared: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    choice = random.Random(seed)
    ledger = shared / "orchestrator" / "ledger.sqlite3"
    with processes(shared) as started:

        def work(name: str) -> WorkerProcess:
            return started.worker(name, AGENT="command", AGENT_COMMAND=AGENT, MAX_CONCURRENT="4")

        def lead() -> OrchestratorProcess:
            return started.orchestrator(WORKERS=",".join(WORKERS))

        orchestrator = lead()
        workers = {name: work(name) for name in WORKERS}
        for worker in workers.values():
            worker.ready()
        with orchestrator.client() as client:
            headers = {"Idempotency-Key": "the graph"}
            assert client.post("/api/v1/tasks", json=graph(choice), headers=headers).status_code == 201

        # A kill at each of these numbers of results, wherever everybody is then.
        marks = sorted(choice.sample(range(5, TASKS * 3 // 4), 2 * KILLS_OF_EACH))
        victims = ["orchestrator"] * KILLS_OF_EACH + [choice.choice(WORKERS) for _ in range(KILLS_OF_EACH)]
        choice.shuffle(victims)
        for mark, victim in zip(marks, victims, strict=True):
            wait_until(lambda mark=mark: len(results(shared)) >= mark, 60, f"{mark} results")  # type: ignore[misc]
            if victim == "orchestrator":
                orchestrator.kill()
                orchestrator = lead()
            else:
                workers[victim].kill()
                workers[victim] = work(victim)

        open_ones = "SELECT COUNT(*) FROM tasks WHERE ended_at IS NULL"
        with orchestrator.client() as client:
            wait_until(lambda: ask(ledger, open_ones) == [(0,)], 90, "the end of every task")
            ended = utc_now()
            rules = wait_until(lambda: checked_after(client, ended), 20, "invariants that were checked after the end")
            told = client.get("/api/v1/workers").json()
        assert orchestrator.stop() == 0
        assert {worker["name"]: worker["in_flight"] for worker in told} == dict.fromkeys(WORKERS, 0)
        assert [rule for rule in rules if not rule["holds"]] == []

    states = dict(ask(ledger, "SELECT task_id, state FROM tasks"))
    assert len(states) == TASKS
    assert set(states.values()) == {"completed", "failed"}
    ends = dict(ask(ledger, "SELECT task_id, COUNT(*) FROM events WHERE event = 'task_ended' GROUP BY task_id"))
    assert ends == dict.fromkeys(states, 1)
    runs = ask(ledger, "SELECT wire_id, worker, ended_at, status FROM runs")
    assert [run for run in runs if run[2] is None] == []
    answered = {run[0]: run[1] for run in runs if run[3] != "withdrawn"}
    found = results(shared)
    assert {wire_id: [path.parent.name for path in paths] for wire_id, paths in found.items()} == {
        wire_id: [worker] for wire_id, worker in answered.items()
    }
    for task_id, state in states.items():
        number = int(task_id.removeprefix("g.t"))
        # What fails by itself, and what was never sent because of it, are all that has failed.
        sent = any(wire_id == task_id or wire_id.startswith(f"{task_id}+") for wire_id in answered)
        assert (state == "failed") == (number % 100 == 33 or not sent), task_id
    (stored,) = ask(ledger, "SELECT COUNT(*) FROM results")
    assert stored == (len(answered),)
    for name in WORKERS:
        layout = WorkerLayout.under(shared, name)
        letters = DeadLetterBox(layout).letters() if layout.dead_letters.is_dir() else []
        assert [letter.message for letter in letters] == []
        assert not list(layout.triggers.glob("*.trigger"))
    attempts = [json.loads(paths[0].read_bytes())["attempts"] for paths in found.values()]
    print("tries", len(answered), "begun again", sum(number > 1 for number in attempts))


def checked_after(client: httpx.Client, moment: datetime) -> list[dict[str, Any]] | None:
    """Return the invariants once they were checked after a moment."""
    rules: list[dict[str, Any]] = client.get("/api/v1/invariants").json()
    checked = [datetime.fromisoformat(rule["checked_at"] or "1970-01-01T00:00:00Z") for rule in rules]
    return rules if all(at > moment for at in checked) else None
