"""A team is saved while it works, killed, put back into an empty place, and goes on: nothing is lost or doubled."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from datetime import timedelta
from pathlib import Path

import pytest

from agent_bus.dead_letters import DeadLetterBox
from agent_bus.layout import WorkerLayout
from agent_bus.messages import utc_now
from orchestrator_service.cli import run
from service_kit.git.repository import look_at
from service_kit.worktrees.making import Wish, candidates, open_worktree
from service_kit.worktrees.pruning import prune
from service_kit.worktrees.records import RecordBook, WorktreeRecord
from tests.git_repository import TestRepository, make_repository
from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import Processes, ask, processes, results
from tests.integration.test_orchestrator_crash import checked_after
from tests.mounts import SmallDisk
from tests.waiting import wait_until

WORKERS = ("anga", "marie")
# Those that are held go on once there is a file `go` beside the shared directory.
AGENT = """sh -c 'cat; case $CODEHORNETS_TASK_ID in held*) until [ -e {go} ]; do sleep 0.05; done; esac; sleep 0.02'"""
OPEN = "SELECT COUNT(*) FROM tasks WHERE ended_at IS NULL"


def codehornets(*arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    command = [sys.executable, "-m", "orchestrator_service.cli", *arguments]
    environ = {**inherited, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environ, input=given, capture_output=True, timeout=50, check=False)


def done(*arguments: str, given: bytes | None = None) -> bytes:
    """Run it and return what it printed; it must succeed."""
    ended = codehornets(*arguments, given=given)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


def refused(*arguments: str) -> str:
    """Run it; it must refuse. Returns its one sentence."""
    said = io.StringIO()
    with redirect_stderr(said):
        code = run(list(arguments))
    assert code == 2, said.getvalue()
    (sentence,) = said.getvalue().splitlines()
    return sentence


def start(started: Processes, shared: Path) -> None:
    agent = AGENT.format(go=shared.parent / "go")
    for name in WORKERS:
        started.worker(name, AGENT="command", AGENT_COMMAND=agent, MAX_CONCURRENT="3", MAX_ATTEMPTS="3")


def drop(shared: Path, worker: str, task_id: str, **fields: str) -> None:
    """Hand a task in as a file, without the orchestrator."""
    layout = WorkerLayout.under(shared, worker)
    staged = layout.triggers / f".{task_id}.tmp"
    staged.write_text(json.dumps({"task_id": task_id, "description": task_id, **fields}))
    staged.rename(layout.triggers / f"task-{task_id}.trigger")


def answered(wire_ids: Iterable[str]) -> set[str]:
    """Return whose results these are: a worker that comes first takes over what waits for one that is not up yet."""
    return {wire_id.partition("+")[0] for wire_id in wire_ids}


@pytest.mark.timeout(180)
def test_a_team_saved_under_load_and_restored_loses_and_doubles_nothing(shared: Path, tmp_path: Path) -> None:
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
                    "dependencies": [f"t{number - 30}"] if number >= 30 else [],
                    "on_failure": "continue",
                    **({"worker": WORKERS[number % 2]} if number % 3 else {}),
                }
                for number in range(120)
            ]
            assert client.post("/api/v1/tasks", json={"graph_id": "g", "tasks": tasks}).status_code == 201
            handed_in |= {f"g.t{number}" for number in range(120)}
            bad = WorkerLayout.under(shared, "marie").triggers / "task-broken.trigger"
            wait_until(bad.parent.is_dir, 30)
            bad.write_text("{ this is no JSON")
            letters = WorkerLayout.under(shared, "marie").dead_letters
            wait_until(lambda: list(letters.glob("*.reason.json")), 30, "a dead letter")
            for worker in WORKERS:
                # One is in flight and one waits for it, however slow this machine is today.
                for task_id in (f"held-{worker}", f"waits-{worker}"):
                    drop(shared, worker, task_id, session="s")
                    handed_in.add(task_id)
                inflight = WorkerLayout.under(shared, worker).inflight
                wait_until(lambda inflight=inflight: list(inflight.glob("*/*held*")), 30, "one that is held")  # type: ignore[misc]
            for round_number in range(3):
                for number in range(10):
                    for worker in WORKERS:
                        drop(shared, worker, f"direct-{worker}-{round_number}-{number}")
                        handed_in.add(f"direct-{worker}-{round_number}-{number}")
                reached = 20 + 40 * round_number
                wait_until(lambda reached=reached: len(results(shared)) >= reached, 60, f"{reached} results")  # type: ignore[misc]
                archive = tmp_path / f"{round_number}.tar.gz"
                accepted[archive] = set(handed_in)
                done("backup", str(archive), "--shared-dir", str(shared), "--also", f"auth-marie={home}")
                archives.append(archive)
    assert {archive.stat().st_mode & 0o777 for archive in archives} == {0o600}
    moved = [json.loads(done("restore", str(archive), "--check", "--json"))["counts"] for archive in archives]
    # That it was taken in the middle of things is what this test is for.
    assert all(counts["waiting"] >= 2 and counts["in_flight"] >= 2 for counts in moved), moved

    archive = archives[1]
    place = tmp_path / "place"
    done("restore", str(archive), "--into", str(place))
    assert (place / "also" / "auth-marie" / ".claude" / "credentials").read_text() == "secret"
    new, ledger = place / "shared", place / "state" / "ledger.sqlite3"
    before = {name: paths[0].read_bytes() for name, paths in results(new).items()}
    known = {wire_id for (wire_id,) in ask(ledger, "SELECT wire_id FROM runs WHERE ended_at IS NOT NULL")}
    assert known <= set(before), "the ledger knows of a result that is not there"
    (place / "go").touch()
    with processes(new) as started:
        start(started, new)
        orchestrator = started.orchestrator(WORKERS=",".join(WORKERS), LEDGER_PATH=str(ledger))
        with orchestrator.client() as client:
            wait_until(lambda: ask(ledger, OPEN) == [(0,)], 90, "the end of every task")
            try:
                wait_until(lambda: accepted[archive] <= answered(results(new)), 60, "a result of each task")
            finally:
                assert accepted[archive] - answered(results(new)) == set()
            ended = utc_now()
            rules = wait_until(lambda: checked_after(client, ended), 20, "invariants that were checked after the end")
        assert [rule for rule in rules if not rule["holds"]] == []
    found = results(new)
    assert {wire_id: len(paths) for wire_id, paths in found.items() if len(paths) > 1} == {}
    assert len(answered(found)) == len(found), "a task was done at two workers"
    assert {name: found[name][0].read_bytes() for name in before} == before, "a result was written anew"
    stored = {wire_id for (wire_id,) in ask(ledger, "SELECT wire_id FROM results")}
    assert accepted[archive] <= answered(stored)
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


def small_team(shared: Path) -> WorkerLayout:
    """Make a place in which somebody has worked: an answer, a task that waits, one in flight and its note."""
    marie = WorkerLayout.under(shared, "marie")
    claim = marie.inflight / "gone-1-ab" / "2~19a~task-b.trigger"
    for path, body in {
        marie.result("a"): '{"task_id": "a", "worker": "marie", "status": "completed", "output": "done"}',
        marie.triggers / "task-c.trigger": '{"description": "c"}',
        claim: '{"description": "b"}',
        claim.with_name("19a.note"): '{"session_id": "kept"}',
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    return marie


def everything_below(place: Path) -> list[str]:
    return sorted(f"{path.relative_to(place)}" for path in place.rglob("*"))


def test_by_standard_output_and_input(shared: Path, tmp_path: Path) -> None:
    small_team(shared)
    packed = done("backup", "-", "--shared-dir", str(shared), "--no-ledger")
    new = tmp_path / "new"
    said = json.loads(done("restore", "-", "--shared-dir", str(new), "--json", given=packed))
    assert (said["done"], said["counts"]["results"], said["counts"]["in_flight"]) == ("restored", 1, 1)
    assert (new / "results" / "marie" / "a.json").read_bytes() == (shared / "results" / "marie" / "a.json").read_bytes()


def test_claims_of_the_dead_go_on_and_answers_stay(shared: Path, tmp_path: Path) -> None:
    small_team(shared)
    new = tmp_path / "new"
    done("restore", "-", "--shared-dir", str(new), given=done("backup", "-", "--shared-dir", str(shared)))
    with processes(new) as started:
        started.worker("marie")
        wait_until(lambda: len(results(new)) == 3, 30, "a result of each")
    layout = WorkerLayout.under(new, "marie")
    # The attempt that was under way is spent, as after a crash.
    assert json.loads(layout.result("b").read_bytes())["attempts"] == 3
    assert json.loads(layout.result("c").read_bytes())["attempts"] == 1
    assert json.loads(layout.result("a").read_bytes())["output"] == "done"
    assert list(DeadLetterBox(layout).letters()) == []


def test_a_place_that_is_not_free_is_refused_and_left_as_it_is(shared: Path, tmp_path: Path) -> None:
    small_team(shared)
    archive = str(tmp_path / "team.tar.gz")
    done("backup", archive, "--shared-dir", str(shared), "--no-ledger")
    before = everything_below(shared)
    assert "is not empty" in refused("restore", archive, "--shared-dir", str(shared))
    assert everything_below(shared) == before
    assert "is there already" in refused("backup", archive, "--shared-dir", str(shared), "--no-ledger")

    ledger = tmp_path / "ledger.sqlite3"
    saved = str(tmp_path / "with-ledger.tar.gz")
    with processes(shared) as started, started.orchestrator(LEDGER_PATH=str(ledger)).client():
        done("backup", saved, "--shared-dir", str(shared), "--ledger", str(ledger))
        assert "An orchestrator has" in refused(
            "restore", saved, "--shared-dir", f"{tmp_path}/x", "--ledger", f"{ledger}"
        )
    assert f"{ledger} is there already" in refused(
        "restore", saved, "--shared-dir", f"{tmp_path}/x", "--ledger", f"{ledger}"
    )
    (tmp_path / "half" / ".restore-1234").mkdir(parents=True)
    assert "was killed, or is under way" in refused("restore", archive, "--shared-dir", f"{tmp_path}/half")


def test_a_place_where_somebody_works_is_refused(shared: Path, tmp_path: Path) -> None:
    small_team(shared)
    archive = str(tmp_path / "team.tar.gz")
    done("backup", archive, "--shared-dir", str(shared), "--no-ledger")
    new = tmp_path / "new"
    new.mkdir()
    with processes(new) as started:
        worker = started.worker("anga")
        worker.ready()
        assert f"Worker anga is at work in {new}" in refused("restore", archive, "--shared-dir", str(new))
        worker.kill()
        # The lock is gone with it; on another machine there never was one.
        assert "anga is alive by its heartbeat" in refused("restore", archive, "--shared-dir", str(new))
    (new / "heartbeats" / "anga-watcher.json").unlink()
    done("restore", archive, "--shared-dir", str(new))
    assert (new / "results" / "marie" / "a.json").exists()
    assert not list(new.glob(".restore-*"))


def test_prepared_directories_and_rules_stay(shared: Path, tmp_path: Path) -> None:
    small_team(shared)
    archive = str(tmp_path / "team.tar.gz")
    (shared / "hooks-config").mkdir()
    (shared / "hooks-config" / "marie-hooks.json").write_text("{}")
    done("backup", archive, "--shared-dir", str(shared), "--no-ledger")
    new = tmp_path / "new"
    for folder in ("tasks/fabien", "pipes", "results/marie", "hooks-config"):
        (new / folder).mkdir(parents=True)
    os.mkfifo(new / "pipes" / "marie-control")
    (new / "hooks-config" / "marie-hooks.json").write_text('{"kept": true}')
    said = done("restore", archive, "--shared-dir", str(new)).decode()
    assert "has rules already" in said
    assert (new / "hooks-config" / "marie-hooks.json").read_text() == '{"kept": true}'
    assert (new / "tasks" / "fabien").is_dir() and (new / "pipes" / "marie-control").is_fifo()


def test_a_full_disk_leaves_nothing_half_restored(
    shared: Path, tmp_path: Path, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    layout = small_team(shared)
    for number in range(20):
        layout.result(f"r{number}").write_bytes(os.urandom(50_000))
    archive = str(tmp_path / "team.tar.gz")
    done("backup", archive, "--shared-dir", str(shared), "--no-ledger")
    disk = small_disk(tmp_path / "disk", 512 * 1024)
    assert "make room" in refused("restore", archive, "--shared-dir", str(disk.path))
    assert everything_below(disk.path) == []
    # And the other way: an archive that does not fit is not there at all.
    assert "No space left" in refused("backup", f"{disk.path}/team.tar.gz", "--shared-dir", str(shared), "--no-ledger")
    assert everything_below(disk.path) == []


def test_a_disk_that_fills_while_it_is_restored(
    shared: Path, tmp_path: Path, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    layout = small_team(shared)
    # Directories and names take room as well, which nobody counts before.
    for number in range(40):
        layout.result(f"r{number}").write_text("{}")
    archive = str(tmp_path / "team.tar.gz")
    done("backup", archive, "--shared-dir", str(shared), "--no-ledger")
    disk = small_disk(tmp_path / "disk", 1024 * 1024)
    subprocess.run(["mount", "-o", "remount,nr_inodes=30", str(disk.path)], check=True)
    assert "There is no room" in refused("restore", archive, "--shared-dir", str(disk.path))
    assert everything_below(disk.path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["backup", "{new}", "--shared-dir", "{tmp}/missing"], "There is no shared directory"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--ledger", "{tmp}/missing"], "There is no ledger"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--ledger", "{text}"], "cannot be copied"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--ledger", "{text}", "--no-ledger"], "contradict"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--also", "home"], "allowed is NAME=DIR"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--also", "../x={tmp}"], "allowed is NAME=DIR"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--also", "x={tmp}/missing"], "There is no directory"),
        (["backup", "{new}", "--shared-dir", "{shared}", "--also", "x={shared}", "--also", "x={tmp}"], "twice"),
        (["backup", "{tmp}/home/b", "--shared-dir", "{shared}", "--also", "x={tmp}/home"], "lies in"),
        (["backup", "{tmp}/missing/b", "--shared-dir", "{shared}"], "No such file or directory"),
        (["restore", "{tmp}/missing"], "There is no file"),
        (["restore", "{text}"], "no compressed tar archive"),
        (["restore", "{archive}", "--shared-dir", "{new}"], "holds the directory home as well"),
        (["restore", "{archive}", "--shared-dir", "{new}", "--skip", "hom"], "it holds home"),
        (["restore", "{archive}", "--shared-dir", "{new}", "--also", "home={shared}"], "is not empty"),
        (["restore", "{archive}", "--shared-dir", "{new}", "--also", "home={text}"], "is no directory"),
        (["restore", "{archive}", "--into", "{new}", "--ledger", "{text}"], "--into says where everything goes"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    arguments: list[str], sentence: str, shared: Path, tmp_path: Path
) -> None:
    small_team(shared)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "text").write_text("hello, this is no archive and no ledger either")
    places = {name: tmp_path / name for name in ("new", "shared", "text", "archive")}
    archive = str(places["archive"])
    assert run(["backup", archive, "--shared-dir", str(shared), "--no-ledger", "--also", f"home={home}"]) in (0, None)
    before = everything_below(tmp_path)
    if "--ledger" not in arguments and arguments[0] == "backup":
        arguments = [*arguments, "--no-ledger"]
    assert sentence in refused(*(each.format(**places, tmp=tmp_path) for each in arguments))
    assert everything_below(tmp_path) == before


# -- worktrees


@pytest.fixture
def repository(tmp_path: Path) -> TestRepository:
    return make_repository(tmp_path / "repo", tmp_path / "home")


def open_for(shared: Path, repository: TestRepository, task_id: str = "b") -> WorktreeRecord:
    """Give marie's task its worktree, as a worker does."""
    book = RecordBook(WorkerLayout.under(shared, "marie").worktree_records)
    found = look_at(repository.safe, repository.top)
    wish = Wish(name=task_id, key=f"task:{task_id}", worker="marie", task_id=task_id)
    for name in candidates(task_id):
        with book.hold(name):
            opened = open_worktree(book, shared / "worktrees" / "marie", wish, name, found, repository.safe)
        if opened is not None:
            return opened.record
    raise AssertionError("no worktree")


def restored(shared: Path, new: Path) -> None:
    said = json.loads(
        done("restore", "-", "--shared-dir", str(new), "--json", given=done("backup", "-", "--shared-dir", str(shared)))
    )
    assert said["counts"]["worktrees"] == 1


def test_a_restored_task_goes_on_in_its_worktree(shared: Path, tmp_path: Path, repository: TestRepository) -> None:
    """The shared directory is lost, the worktrees were on another disk."""
    small_team(shared)
    book = RecordBook(WorkerLayout.under(shared, "marie").worktree_records)
    found = look_at(repository.safe, repository.top)
    wish = Wish(name="b", key="task:b", worker="marie", task_id="b")
    opened = open_worktree(book, tmp_path / "disk", wish, "b", found, repository.safe)
    assert opened is not None
    (opened.record.path / "new.txt").write_text("not committed")
    new = tmp_path / "new"
    restored(shared, new)
    after = RecordBook(WorkerLayout.under(new, "marie").worktree_records)
    record = after.read("b")
    assert record is not None and record.path == opened.record.path and record.used_at > opened.record.used_at
    again = open_worktree(after, tmp_path / "disk", wish, "b", found, repository.safe)
    assert again is not None and again.how == "found"
    assert (again.record.path / "new.txt").read_text() == "not committed"


def test_a_worktree_that_was_lost_is_made_again_from_its_branch(
    shared: Path, tmp_path: Path, repository: TestRepository
) -> None:
    small_team(shared)
    first = open_for(shared, repository)
    repository.commit("begun", at=first.path, **{"begun.txt": "so far"})
    new = tmp_path / "new"
    restored(shared, new)
    shutil.rmtree(shared)
    record = open_for(new, repository)
    assert record.path == new / "worktrees" / "marie" / "b" and record.branch == first.branch
    assert (record.path / "begun.txt").read_text() == "so far"


def test_a_team_that_is_restored_beside_the_old_one_leaves_its_worktrees_alone(
    shared: Path, tmp_path: Path, repository: TestRepository
) -> None:
    small_team(shared)
    first = open_for(shared, repository)
    (first.path / "new.txt").write_text("not committed")
    new = tmp_path / "new"
    restored(shared, new)
    record = open_for(new, repository)
    assert (record.path, record.branch) == (new / "worktrees" / "marie" / "b-2", "refs/heads/codehornets/b-2")
    after = RecordBook(WorkerLayout.under(new, "marie").worktree_records)
    list(prune(after, repository.safe, keep_s=0))
    assert (first.path / "new.txt").read_text() == "not committed"
    assert first.branch in repository.git("worktree", "list", "--porcelain")


def test_nothing_is_cleaned_up_at_once_after_a_restore(
    shared: Path, tmp_path: Path, repository: TestRepository
) -> None:
    small_team(shared)
    record = open_for(shared, repository)
    path = WorkerLayout.under(shared, "marie").worktree_records / "b.json"
    path.write_text(record.model_copy(update={"used_at": utc_now() - timedelta(days=30)}).model_dump_json())
    new = tmp_path / "new"
    restored(shared, new)
    after = RecordBook(WorkerLayout.under(new, "marie").worktree_records)
    assert list(prune(after, repository.safe, keep_s=7 * 86_400)) == []
    # The old place would have removed it: its record says that it is old.
    old = RecordBook(WorkerLayout.under(shared, "marie").worktree_records)
    assert [verdict.record.name for verdict in prune(old, repository.safe, keep_s=7 * 86_400)] == ["b"]
