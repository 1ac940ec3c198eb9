"""A team is saved while it works, killed, put back into an empty place, and goes on: nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent_bus.dead_letters import DeadLetterBox
from agent_bus.layout import WorkerLayout
from agent_bus.messages import utc_now
from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import Processes, ask, processes, results
from tests.integration.test_orchestrator_crash import checked_after
from tests.waiting import wait_until

WORKERS = ("anga", "marie")
# Each run of a task leaves a line beside the shared directory, so that one that ran twice shows.
AGENT = """sh -c 'cat; case "$CODEHORNETS_TASK_ID" in *bad*) exit 3;; esac; sleep 0.02'"""
OPEN = "SELECT COUNT(*) FROM tasks WHERE ended_at IS NULL"


def codehornets(*arguments: str, **pipes: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a process of its own."""
    given = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    command = [sys.executable, "-m", "orchestrator_service.cli", *arguments]
    environ = {**given, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environ, capture_output=True, timeout=50, check=False, **pipes)  # type: ignore[call-overload,no-any-return]


def done(*arguments: str, **pipes: object) -> bytes:
    """Run it and return what it printed; it must succeed."""
    ended = codehornets(*arguments, **pipes)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


def refused(*arguments: str, **pipes: object) -> str:
    """Run it; it must refuse. Returns its one sentence."""
    ended = codehornets(*arguments, **pipes)
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    (sentence,) = ended.stderr.decode().splitlines()
    return sentence


def start(started: Processes, shared: Path) -> None:
    started.shared = shared
    for name in WORKERS:
        started.worker(name, AGENT="command", AGENT_COMMAND=AGENT, MAX_CONCURRENT="3", MAX_ATTEMPTS="3")


def drop(shared: Path, worker: str, task_id: str) -> None:
    """Hand a task in as a file, without the orchestrator."""
    layout = WorkerLayout.under(shared, worker)
    staged = layout.triggers / f".{task_id}.tmp"
    staged.write_text(json.dumps({"task_id": task_id, "description": task_id}))
    staged.rename(layout.triggers / f"task-{task_id}.trigger")


@pytest.mark.timeout(180)
def test_a_team_saved_under_load_and_restored_loses_and_doubles_nothing(tmp_path: Path) -> None:
    shared, new = tmp_path / "shared", tmp_path / "elsewhere" / "shared"
    shared.mkdir()
    home = tmp_path / "home"
    (home / ".claude").mkdir(parents=True)
    (home / ".claude" / "credentials").write_text("secret")
    archives: list[Path] = []
    accepted: dict[Path, set[str]] = {}
    with processes(shared) as started:
        orchestrator = started.orchestrator(WORKERS=",".join(WORKERS))
        start(started, shared)
        handed_in: set[str] = set()
        with orchestrator.client() as client:
            tasks = [
                {
                    "key": f"t{number}",
                    "description": f"task {number}",
                    "dependencies": [f"t{number - 40}"] if number >= 40 else [],
                    "on_failure": "continue",
                    **({"worker": WORKERS[number % 2]} if number % 3 else {}),
                }
                for number in range(240)
            ]
            assert client.post("/api/v1/tasks", json={"graph_id": "g", "tasks": tasks}).status_code == 201
            handed_in |= {f"g.t{number}" for number in range(240)}
            bad = WorkerLayout.under(shared, "marie").triggers / "task-broken.trigger"
            wait_until(bad.parent.is_dir, 30)
            bad.write_text("{ this is no JSON")
            letters = WorkerLayout.under(shared, "marie").dead_letters
            wait_until(lambda: list(letters.glob("*.reason.json")), 30, "a dead letter")
            for round_number in range(4):
                for number in range(20):
                    for worker in WORKERS:
                        drop(shared, worker, f"direct-{worker}-{round_number}-{number}")
                        handed_in.add(f"direct-{worker}-{round_number}-{number}")
                reached = 30 + 40 * round_number
                wait_until(lambda reached=reached: len(results(shared)) >= reached, 60, f"{reached} results")  # type: ignore[misc]
                archive = tmp_path / f"{round_number}.tar.gz"
                accepted[archive] = set(handed_in)
                done("backup", str(archive), "--shared-dir", str(shared), "--also", f"auth-marie={home}")
                archives.append(archive)
    assert {archive.stat().st_mode & 0o777 for archive in archives} == {0o600}
    moved = [json.loads(done("restore", str(archive), "--check", "--json"))["counts"] for archive in archives]
    # That it was taken in the middle of things is what this test is for.
    assert any(counts["waiting"] for counts in moved) and any(counts["in_flight"] for counts in moved), moved

    for number, archive in enumerate(archives):
        place = tmp_path / f"place-{number}"
        done("restore", str(archive), "--into", str(place))
        assert (place / "also" / "auth-marie" / ".claude" / "credentials").read_text() == "secret"
    archive = archives[1]
    place = tmp_path / "place-1"
    new, ledger = place / "shared", place / "state" / "ledger.sqlite3"
    before = {name: paths[0].read_bytes() for name, paths in results(new).items()}
    known = {wire_id for (wire_id,) in ask(ledger, "SELECT wire_id FROM runs WHERE ended_at IS NOT NULL")}
    assert known <= set(before), "the ledger knows of a result that is not there"
    with processes(new) as started:
        start(started, new)
        orchestrator = started.orchestrator(WORKERS=",".join(WORKERS), LEDGER_PATH=str(ledger))
        with orchestrator.client() as client:
            wait_until(lambda: ask(ledger, OPEN) == [(0,)], 90, "the end of every task")
            wait_until(lambda: accepted[archive] <= set(results(new)), 60, "a result of each task")
            ended = utc_now()
            rules = wait_until(lambda: checked_after(client, ended), 20, "invariants that were checked after the end")
        assert [rule for rule in rules if not rule["holds"]] == []
    found = results(new)
    assert {wire_id: len(paths) for wire_id, paths in found.items() if len(paths) > 1} == {}
    assert {name: found[name][0].read_bytes() for name in before} == before, "a result was written anew"
    stored = {wire_id for (wire_id,) in ask(ledger, "SELECT wire_id FROM results")}
    assert accepted[archive] <= stored
    ends = Counter(task_id for (task_id,) in ask(ledger, "SELECT task_id FROM events WHERE event = 'task_ended'"))
    assert {task_id: count for task_id, count in ends.items() if count > 1} == {}
    letters_left = [
        (letter.original_name, letter.reason)
        for name in WORKERS
        for letter in DeadLetterBox(WorkerLayout.under(new, name)).letters()
    ]
    assert letters_left == [("task-broken.trigger", "malformed")]
    assert b"task-broken.trigger goes back" in done(
        "dead-letters", "replay", "task-broken.trigger", "--shared-dir", str(new)
    )
