"""Clean-up: what is old goes, and what would be lost never does, whatever state it was left in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_bus.messages import utc_now
from service_kit.worktrees.pruning import prune, survey
from service_kit.worktrees.records import WorktreeRecord
from service_kit.worktrees.survey import State
from tests.git_repository import make_repository
from tests.integration.worktree_bench import Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def _committed(bench: Bench, task_id: str = "t1") -> WorktreeRecord:
    record = bench.open(task_id).record
    (record.path / f"{task_id}.txt").write_text("work\n")
    bench.end(record)
    return record


def test_what_is_merged_goes_with_its_branch(bench: Bench) -> None:
    record = _committed(bench)
    bench.repository.git("merge", "--quiet", "codehornets/t1")
    verdict = bench.prune()["t1"]
    assert (verdict.is_removed, verdict.is_branch_removed, verdict.is_forgotten) == (True, True, True)
    assert verdict.words == "removed with its branch: main has all of it"
    assert not record.path.exists()
    assert (bench.repository.branches(), bench.repository.worktrees(), bench.book.names()) == ({"main"}, 1, [])


def test_what_is_not_merged_keeps_its_branch_and_loses_its_directory(bench: Bench) -> None:
    record = _committed(bench)
    verdict = bench.prune()["t1"]
    assert verdict.words == "removed, its branch stays: only codehornets/t1 has its commits"
    assert not record.path.exists()
    assert bench.repository.git("show", "codehornets/t1:t1.txt") == "work"
    # A later look leaves it alone, until it is merged.
    verdict = bench.prune()["t1"]
    assert (verdict.is_removed, verdict.standing.state) == (False, State.UNMERGED)
    bench.repository.git("merge", "--quiet", "codehornets/t1")
    assert bench.prune()["t1"].is_branch_removed
    assert bench.book.names() == []


def test_a_task_that_comes_back_after_that_goes_on_on_its_branch(bench: Bench) -> None:
    record = _committed(bench)
    bench.prune()
    again = bench.open().record
    assert (again.path, again.branch, again.base) == (record.path, record.branch, record.base)
    assert (again.path / "t1.txt").exists()


def test_of_two_branches_with_the_same_commits_one_stays(bench: Bench) -> None:
    _committed(bench, "t1")
    record = bench.open("t2").record
    bench.git(record, "merge", "--quiet", "codehornets/t1")
    bench.end(record)
    assert bench.repository.git("rev-parse", "codehornets/t1") == bench.repository.git("rev-parse", "codehornets/t2")
    bench.prune()
    bench.prune()
    assert bench.repository.branches() == {"main", "codehornets/t2"}


def test_a_branch_of_a_remote_counts(bench: Bench, tmp_path: Path) -> None:
    bench.repository.git("init", "--quiet", "--bare", str(tmp_path / "remote"))
    bench.repository.git("remote", "add", "origin", str(tmp_path / "remote"))
    _committed(bench)
    bench.repository.git("push", "--quiet", "origin", "codehornets/t1")
    assert bench.prune()["t1"].is_branch_removed


def test_age_counts_from_the_end_of_the_task(bench: Bench) -> None:
    _committed(bench)
    assert bench.prune(keep_s=3600) == {}
    later = utc_now() + timedelta(seconds=3601)
    assert [verdict.is_removed for verdict in prune(bench.book, bench.repository.safe, keep_s=3600, now=later)] == [
        True
    ]


def test_one_in_use_is_left_alone(bench: Bench) -> None:
    record = _committed(bench)
    with bench.book.hold("t1"):
        assert bench.prune() == {}
        assert [each.standing.state for each in survey(bench.book, bench.repository.safe)] == [State.IN_USE]
    assert record.path.exists()


def test_a_repository_that_is_gone_is_no_reason_to_remove_anything(bench: Bench) -> None:
    record = _committed(bench)
    bench.repository.common.rename(bench.repository.top.parent / "away")
    verdict = bench.prune()["t1"]
    assert (verdict.is_removed, verdict.standing.state) == (False, State.UNKNOWN)
    assert (record.path / "t1.txt").exists()


def test_a_directory_that_is_missing_on_another_host_is_left_to_it(bench: Bench) -> None:
    record = _committed(bench)
    bench.book.write(record.model_copy(update={"host": "elsewhere", "ended": True}))
    record.path.rename(bench.root / "away")
    bench.repository.git("merge", "--quiet", "codehornets/t1")
    verdict = bench.prune()["t1"]
    assert not verdict.is_branch_removed
    (bench.root / "away").rename(record.path)
    assert bench.git(record, "status", "--porcelain") == ""


# -- any state


def _write(name: str) -> Callable[[Bench, WorktreeRecord], None]:
    def act(bench: Bench, record: WorktreeRecord) -> None:
        (record.path / name).parent.mkdir(exist_ok=True)
        (record.path / name).write_text(f"{name} {len(list(record.path.iterdir()))}\n")

    return act


def _git(*arguments: str) -> Callable[[Bench, WorktreeRecord], None]:
    def act(bench: Bench, record: WorktreeRecord) -> None:
        bench.repository.git(*arguments, at=record.path, ok=False)

    return act


def _main(*arguments: str) -> Callable[[Bench, WorktreeRecord], None]:
    def act(bench: Bench, record: WorktreeRecord) -> None:
        bench.repository.git(*arguments, ok=False)

    return act


def _commit_in_main(bench: Bench, record: WorktreeRecord) -> None:
    bench.repository.commit("main goes on", README=f"main {len(bench.repository.git('rev-list', 'HEAD'))}\n")


def _add_and_commit(bench: Bench, record: WorktreeRecord) -> None:
    _git("add", "-A")(bench, record)
    _git("commit", "--quiet", "-m", "more")(bench, record)


def _inner_repository(bench: Bench, record: WorktreeRecord) -> None:
    if not (record.path / "ignored" / "inner").exists():
        make_repository(record.path / "ignored" / "inner", bench.root.parent / "home")


def _hide(bench: Bench, record: WorktreeRecord) -> None:
    bench.repository.git("update-index", "--assume-unchanged", "README", at=record.path, ok=False)
    (record.path / "README").write_text("hidden\n")


def _end(bench: Bench, record: WorktreeRecord) -> None:
    known = bench.book.read(record.name)
    if known is not None:
        bench.end(known)


ACTS: dict[str, Callable[[Bench, WorktreeRecord], None]] = {
    "edit": _write("README"),
    "add": _write("new.txt"),
    "add ignored": _write("ignored/x"),
    "commit": _git("commit", "--quiet", "-am", "work"),
    "add and commit": _add_and_commit,
    "stage": _git("add", "-A"),
    "remove a file": _git("rm", "--quiet", "-f", "src/code.py"),
    "another branch": _git("checkout", "--quiet", "-b", "feature"),
    "detach": _git("checkout", "--quiet", "--detach"),
    "back to main": _git("checkout", "--quiet", "--detach", "main"),
    "merge main": _git("merge", "main"),
    "rebase on main": _git("rebase", "main"),
    "stash": _git("stash", "--include-untracked"),
    "bisect": _git("bisect", "start"),
    "hide": _hide,
    "repository inside": _inner_repository,
    "tag": _git("tag", "-f", "kept"),
    "main goes on": _commit_in_main,
    "merged": _main("merge", "codehornets/t1"),
    "end": _end,
}


def _commits(bench: Bench, *of: str) -> set[str]:
    return set(bench.repository.git("rev-list", *of).split())


def _content(top: Path) -> dict[str, bytes]:
    """Return what no commit and no rule to ignore accounts for: all files of the worktree."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file() and path != top / ".git"
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(acts=st.lists(st.sampled_from(sorted(ACTS)), max_size=7), rounds=st.integers(1, 3))
def test_whatever_state_it_is_in_nothing_that_is_not_merged_is_removed(acts: list[str], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(Path(folder), README="hello\n", **{"src/code.py": "print(1)\n", ".gitignore": "ignored/\n"})
        bench.repository.git("config", "user.name", "Person")
        bench.repository.git("config", "user.email", "person@example.org")
        record = bench.open().record
        for act in acts:
            if record.path.exists():
                ACTS[act](bench, record)
        _nothing_is_lost(bench, record, rounds)


def _nothing_is_lost(bench: Bench, record: WorktreeRecord, rounds: int) -> None:
    there = record.path.exists()
    before = _commits(bench, "--all", *([bench.git(record, "rev-parse", "HEAD")] if there else []))
    # The judgement of plain git, not of the code under test.
    if there:
        bench.repository.git("update-index", "--no-assume-unchanged", "README", at=record.path, ok=False)
    dirty = there and bench.git(record, "status", "--porcelain", "--untracked-files=all") != ""
    inner = (record.path / "ignored" / "inner" / ".git").exists()
    content = _content(record.path) if there else {}
    if there and "hidden" in content.get("README", b"").decode():
        bench.repository.git("update-index", "--assume-unchanged", "README", at=record.path, ok=False)
    for _ in range(rounds):
        bench.prune()
    after = _commits(bench, "--all", *([bench.git(record, "rev-parse", "HEAD")] if record.path.exists() else []))
    assert before <= after
    if dirty or inner:
        assert _content(record.path) == content
    listed = bench.repository.git("worktree", "list", "--porcelain")
    assert (f"worktree {record.path}" in listed.splitlines()) == record.path.exists()


def test_the_property_notices_a_loss(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    record = bench.open().record
    ACTS["add"](bench, record)
    content = _content(record.path)
    assert content
    shutil.rmtree(record.path)
    assert _content(record.path) != content
    other = bench.open("t2").record
    commit = bench.repository.commit("lost", at=other.path, a="1")
    before = _commits(bench, "--all")
    bench.repository.git("worktree", "remove", "--force", "--force", str(other.path))
    bench.repository.git("branch", "-D", "codehornets/t2")
    assert before - _commits(bench, "--all") == {commit}
