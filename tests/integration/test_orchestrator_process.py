"""`python -m orchestrator_service` from its start to its end, with real workers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import WorkerStatus
from orchestrator_service.ledger.schema import migrations
from orchestrator_service.settings import orchestrator_heartbeat
from tests.integration.harness import REPOSITORY, Shop
from tests.integration.orchestrator_process import Processes, ask, processes, read_result, results
from tests.waiting import wait_until

TASKS = "/api/v1/tasks"


@pytest.fixture
def started(shared: Path) -> Iterator[Processes]:
    with processes(shared) as running:
        yield running


def state(client: httpx.Client, task_id: str) -> str:
    found: str = client.get(f"{TASKS}/{task_id}").json()["state"]
    return found


def refused(shared: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """Start an orchestrator that is to refuse; returns its exit code and what it said."""
    given = {"SHARED_DIR": str(shared), "PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HTTP_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator_service", *arguments],
        env={**given, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr + done.stdout


def test_kills_at_each_step_of_a_task(started: Processes, shared: Path) -> None:
    ledger = shared / "orchestrator" / "ledger.sqlite3"
    go = shared.parent / "go"
    # The agent waits for a file: so it is known where everybody is when the orchestrator is killed.
    script = f'while [ ! -e {go} ]; do sleep 0.02; done; echo "did $CODEHORNETS_TASK_ID"'
    agent = {"AGENT": "command", "AGENT_COMMAND": f"sh -c '{script}'", "WARM_PROCESSES": "0"}
    first = started.orchestrator(WORKERS="marie")
    with first.client() as client:
        graph = {
            "graph_id": "g",
            "tasks": [
                {"key": "a", "description": "x"},
                {"key": "b", "description": "x", "dependencies": ["a"]},
                {"key": "c", "description": "x", "dependencies": ["b"]},
            ],
        }
        assert client.post(TASKS, json=graph).status_code == 201
    # Handed in, and nobody to do it.
    first.kill()
    worker = started.worker("marie", **agent)
    worker.ready()
    second = started.orchestrator(WORKERS="marie")
    with second.client() as client:
        wait_until(lambda: state(client, "g.a") == "running", 20, "the first task begun")
    # The agent has it; its result comes while nobody listens.
    second.kill()
    go.touch()
    # Another one is handed to the worker directly meanwhile.
    Shop(WorkerLayout.under(shared, "marie")).submit("direct")
    wait_until(lambda: len(results(shared)) == 2, 20, "the results")
    third = started.orchestrator(WORKERS="marie")
    with third.client() as client:
        wait_until(lambda: state(client, "g.c") == "completed", 30, "the end of the graph")
        one = client.get(f"{TASKS}/g.a").json()
        assert (one["tries"], one["runs"][0]["attempts"]) == (1, 1)
        direct = client.get(f"{TASKS}/direct").json()
        assert (direct["state"], direct["origin"], direct["worker"]) == ("completed", "file", "marie")
    assert third.stop() == 0
    beat = read_heartbeat(orchestrator_heartbeat(shared))
    assert beat is not None
    assert beat.status is WorkerStatus.STOPPED
    assert {wire_id: read_result(paths[0])["output"].strip() for wire_id, paths in results(shared).items()} == {
        name: f"did {name}" for name in ("direct", "g.a", "g.b", "g.c")
    }
    ends = ask(ledger, "SELECT task_id, COUNT(*) FROM events WHERE event = 'task_ended' GROUP BY task_id")
    assert sorted(ends) == [("direct", 1), ("g.a", 1), ("g.b", 1), ("g.c", 1)]
    assert "Traceback" not in third.output()


def test_a_lost_trigger_is_handed_over_again(started: Processes, shared: Path) -> None:
    first = started.orchestrator(WORKERS="marie")
    worker = started.worker("marie", AGENT="echo")
    worker.ready()
    worker.kill()
    with first.client() as client:
        assert client.post(TASKS, json={"description": "x", "task_id": "t", "worker": "marie"}).status_code == 201
        trigger = shared / "triggers" / "marie" / "task-t.trigger"
        wait_until(trigger.exists, 20, "the trigger")
        trigger.unlink()
        # Two looks, a second apart, find nothing of it.
        wait_until(trigger.exists, 20, "the trigger anew")
        started.worker("marie", AGENT="echo").ready()
        wait_until(lambda: state(client, "t") == "completed", 20, "its end")
        assert client.get(f"{TASKS}/t").json()["tries"] == 1


def test_a_worker_that_is_killed_is_shown_as_down_and_others_take_its_tasks(started: Processes, shared: Path) -> None:
    leader = started.orchestrator(WORKER_SILENT_AFTER="1.5")
    dead = started.worker("anga", AGENT="echo")
    dead.ready()
    with leader.client() as client:

        def of(name: str) -> str:
            found: str = client.get(f"/api/v1/workers/{name}").json().get("state", "not known")
            return found

        wait_until(lambda: of("anga") == "up", 20, "anga up")
        dead.kill()
        assert client.post(TASKS, json={"description": "x", "task_id": "any"}).status_code == 201
        assert client.post(TASKS, json={"description": "x", "task_id": "hers", "worker": "anga"}).status_code == 201
        wait_until(lambda: of("anga") == "down", 20, "anga down")
        started.worker("marie", AGENT="echo").ready()
        wait_until(lambda: state(client, "any") == "completed", 20, "the task that anybody may do")
        task = client.get(f"{TASKS}/any").json()
        assert (task["worker"], [run["status"] for run in task["runs"]]) == ("marie", ["withdrawn", "completed"])
        assert client.post(TASKS, json={"description": "x", "task_id": "late", "worker": "anga"}).status_code == 201
        waits = client.get(f"{TASKS}/late").json()["waits_for"]
        assert waits == {"kind": "worker_down", "message": "anga is down: no heartbeat."}
        started.worker("anga", AGENT="echo").ready()
        for task_id in ("hers", "late"):
            wait_until(lambda task_id=task_id: state(client, task_id) == "completed", 20, task_id)  # type: ignore[misc]


def test_a_second_one_on_the_same_ledger_is_refused(started: Processes, shared: Path) -> None:
    first = started.orchestrator()
    with first.client() as client:
        code, said = refused(shared)
        assert client.get("/readyz").status_code == 200
    assert code == 2
    assert said.count("\n") == 1
    assert "is in use by another orchestrator; stop that one, or name another LEDGER_PATH." in said


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"HTTP_HOST": "0.0.0.0"}, "HTTP_HOST is '0.0.0.0' and there is no token"),
        ({"HTTP_PORT": "many"}, "HTTP_PORT is 'many'; allowed is a whole number from 0 to 65535"),
        ({"SHARED_DIR": "/nowhere"}, "SHARED_DIR is '/nowhere'; allowed is a directory that exists"),
        ({"DAY_BUDGET_USD": "5"}, "DAY_BUDGET_USD needs TASK_BUDGET_USD, which says what to reserve"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(shared: Path, environ: dict[str, str], sentence: str) -> None:
    code, said = refused(shared, **environ)
    assert (code, said.count("\n")) == (2, 1), said
    assert sentence in said


def test_an_address_that_is_taken_is_one_sentence(started: Processes, shared: Path, tmp_path: Path) -> None:
    with started.orchestrator().client() as client:
        other = tmp_path / "other"
        other.mkdir()
        code, said = refused(other, HTTP_PORT=str(client.base_url.port))
    assert (code, said.count("\n")) == (2, 1), said


def test_a_ledger_of_a_newer_version_is_told_and_left_alone(started: Processes, shared: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "newer.sqlite3"
    with sqlite3.connect(ledger) as connection:
        connection.execute(f"PRAGMA user_version = {migrations()[-1][0] + 1}")
        connection.execute("CREATE TABLE tasks (colour TEXT)")
    connection.close()
    before = ledger.read_bytes()
    running = started.orchestrator(LEDGER_PATH=str(ledger))
    with running.client() as client:
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "and this program knows versions up to" in ready.text
        answer = client.post(TASKS, json={"description": "x"})
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/ledger-unavailable")
        assert client.get(TASKS).status_code == 503
        assert client.get("/api/v1/workers").status_code == 200
    assert running.stop() == 0
    assert ledger.read_bytes() == before
