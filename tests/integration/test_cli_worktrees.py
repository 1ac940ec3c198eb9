"""`codehornets worktrees`, and what `doctor` says of worktrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_service.checks import check_all
from orchestrator_service.cli import run
from orchestrator_service.findings import Grade
from orchestrator_service.team import read_team
from orchestrator_service.worker_environment import worker_environment
from service_kit.worktrees.records import RecordBook
from tests.git_repository import make_repository
from tests.integration.worktree_bench import Bench
from worker_service.settings import Worktrees, read_settings


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    repository = make_repository(tmp_path / "repo", tmp_path / "home")
    shared = tmp_path / "shared"
    monkeypatch.setenv("SHARED_DIR", str(shared))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORKTREE_KEEP", raising=False)
    (shared / "triggers" / "marie").mkdir(parents=True)
    return Bench(repository, RecordBook(shared / "tasks" / "marie" / "worktrees"), shared / "worktrees" / "marie")


def _ended(bench: Bench, task_id: str, **files: str) -> None:
    record = bench.open(task_id).record
    for name, text in files.items():
        (record.path / name).write_text(text)
    bench.end(record)


def test_the_list_has_age_branch_and_state(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    _ended(bench, "merged", a="1")
    bench.repository.git("merge", "--quiet", "codehornets/merged")
    _ended(bench, "unmerged", b="1")
    open_one = bench.open("open").record
    (open_one.path / "c").write_text("1")
    assert run(["worktrees", "--json"]) == 0
    found = {each["task_id"]: each for each in json.loads(capsys.readouterr().out)}
    assert {task_id: each["state"] for task_id, each in found.items()} == {
        "merged": "merged",
        "unmerged": "unmerged",
        "open": "uncommitted",
    }
    assert found["unmerged"]["branch"] == "codehornets/unmerged"
    assert run(["worktrees"]) == 0
    shown = capsys.readouterr().out
    assert "1 file is not committed" in shown and "codehornets/unmerged" in shown and "task:open" in shown


def test_prune_removes_what_may_go_and_says_what_stays(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    _ended(bench, "t1", a="1")
    assert run(["worktrees", "--prune"]) == 0
    assert capsys.readouterr().out == "No worktree is old enough.\n"
    half = bench.open("t2").record
    (half.path / "half").write_text("1")
    assert run(["worktrees", "--prune", "--older-than", "0"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "marie/t1 removed, its branch stays: only codehornets/t1 has its commits",
        "marie/t2 stays: 1 file is not committed",
    ]
    assert (half.path / "half").exists()


def test_an_unknown_worker_and_a_wrong_variable_are_one_sentence(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["worktrees", "--worker", "nobody"]) == 2
    assert "No worker 'nobody'" in capsys.readouterr().err
    monkeypatch.setenv("WORKTREE_KEEP", "soon")
    assert run(["worktrees"]) == 2
    assert capsys.readouterr().err == "codehornets: WORKTREE_KEEP is 'soon'; allowed is a number of seconds.\n"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert run(["worktrees"]) == 2
    assert capsys.readouterr().err == "codehornets: git is not installed; install the package git.\n"


@pytest.mark.parametrize(
    ("path", "worktrees", "workspace", "grade", "words"),
    [
        (None, "auto", "repo", Grade.GOOD, "git version"),
        (None, "on", "home", Grade.BROKEN, "the tasks of marie must have one and cannot"),
        ("/nonexistent", "auto", "repo", Grade.NOTE, "git is not installed"),
        ("/nonexistent", "on", "repo", Grade.BROKEN, "git is not installed"),
    ],
)
def test_doctor(
    bench: Bench, tmp_path: Path, path: str | None, worktrees: str, workspace: str, grade: Grade, words: str
) -> None:
    (tmp_path / "team.toml").write_text(
        f'[workers.marie]\nworktrees = "{worktrees}"\nworktree_keep = 60\nworkspace = "{workspace}"\n'
    )
    team = read_team(tmp_path / "team.toml")
    environ = {"PATH": path or os.environ["PATH"], "HOME": str(tmp_path / "home"), "AGENT": "echo"}
    found = [each for each in check_all(team, tmp_path / "shared", environ) if each.subject == "worktrees"]
    assert any(each.grade is grade and words in each.text for each in found), found


def test_listing_needs_no_more_than_the_command(bench: Bench) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "orchestrator_service.cli", "worktrees"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "There are no worktrees of tasks.\n", "")


def test_submit_asks_for_one(bench: Bench, tmp_path: Path) -> None:
    for option, asked in (("--worktree", True), ("--no-worktree", False)):
        assert run(["submit", "marie", "hello", "--id", f"t{asked}", option]) == 0
        trigger = tmp_path / "shared" / "triggers" / "marie" / f"task-t{asked}.trigger"
        assert json.loads(trigger.read_text())["worktree"] is asked
    assert run(["submit", "marie", "hello", "--id", "silent"]) == 0
    assert "worktree" not in json.loads(
        (tmp_path / "shared" / "triggers" / "marie" / "task-silent.trigger").read_text()
    )


def test_a_team_file_sets_them_for_its_workers(tmp_path: Path) -> None:
    (tmp_path / "team.toml").write_text('[defaults]\nworktrees = "on"\nworktree_keep = 60\n[workers.marie]\n')
    team = read_team(tmp_path / "team.toml")
    environ = worker_environment(team, team.workers["marie"], {}, shared_dir=tmp_path / "shared", agent="echo")
    settings = read_settings({**environ, "WORKSPACE": str(tmp_path)})
    assert (settings.worktrees, settings.worktree_keep_s) == (Worktrees.ON, 60)
    assert settings.worktree_dir == tmp_path / "shared" / "worktrees" / "marie"
    assert settings.worktree_records == tmp_path / "shared" / "tasks" / "marie" / "worktrees"


def test_with_redis_alone_they_are_in_the_home_of_the_conversations(tmp_path: Path) -> None:
    environ = {"WORKER_NAME": "marie", "REDIS_URL": "redis://localhost:1", "HOME": str(tmp_path), "AGENT": "echo"}
    settings = read_settings(environ)
    if not settings.serves_files:
        assert settings.worktree_dir == tmp_path / ".codehornets" / "worktrees" / "marie"
    moved = read_settings({**environ, "WORKTREE_DIR": str(tmp_path / "big")})
    assert moved.worktree_dir == tmp_path / "big" / "marie"
