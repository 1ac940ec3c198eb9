"""Worktrees with the real git: how they are made, found again and ended."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from service_kit.git.repository import NoRepository, look_at
from service_kit.worktrees.ending import Changes
from service_kit.worktrees.making import NotMade
from service_kit.worktrees.names import branch_of, name_of
from service_kit.worktrees.records import Busy
from tests.git_repository import make_repository
from tests.integration.worktree_bench import Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def test_a_worktree_on_a_branch_of_its_own_at_the_commit_of_the_workspace(bench: Bench) -> None:
    (bench.repository.top / "README").write_text("not committed\n")
    opened = bench.open("t1")
    record = opened.record
    assert opened.how == "made"
    assert record.path == bench.root / "t1"
    assert bench.git(record, "symbolic-ref", "HEAD") == "refs/heads/codehornets/t1" == record.branch
    assert bench.git(record, "rev-parse", "HEAD") == record.base == bench.repository.git("rev-parse", "HEAD")
    assert record.base_branch == "refs/heads/main"
    # What is not committed in the workspace is not in the worktree, and stays where it is.
    assert (record.path / "README").read_text() == "hello\n"
    assert (bench.repository.top / "README").read_text() == "not committed\n"


def test_what_is_uncommitted_is_committed_with_the_title_of_the_task(bench: Bench) -> None:
    record = bench.open().record
    (record.path / "README").write_text("changed\n")
    (record.path / "new.txt").write_text("new\n")
    (record.path / "src" / "code.py").unlink()
    ending = bench.end(record, "Change   the\nreadme")
    assert (ending.changes, ending.branch, ending.note) == (Changes.COMMITTED, "codehornets/t1", None)
    assert ending.was_committed_here
    log = bench.repository.git("log", "-1", "--format=%H|%an|%ae|%s|%b", "codehornets/t1")
    assert log == f"{ending.commit}|codehornets|codehornets@localhost|Change the readme|Task: t1"
    files = bench.repository.git("ls-tree", "-r", "--name-only", "codehornets/t1").split()
    assert files == ["README", "new.txt"]
    assert bench.git(record, "status", "--porcelain") == ""
    # The workspace has nothing of it.
    assert (bench.repository.top / "src" / "code.py").exists()
    assert bench.repository.git("status", "--porcelain") == ""


def test_the_identity_is_that_of_the_configuration_where_there_is_one(bench: Bench) -> None:
    bench.repository.git("config", "user.name", "Ana")
    bench.repository.git("config", "user.email", "ana@example.org")
    record = bench.open().record
    (record.path / "new.txt").write_text("new\n")
    bench.end(record)
    assert bench.repository.git("log", "-1", "--format=%an %ce", "codehornets/t1") == "Ana ana@example.org"


def test_the_agents_own_commits_are_named_and_no_other_is_made(bench: Bench) -> None:
    record = bench.open().record
    commit = bench.repository.commit("mine", at=record.path, a="1")
    ending = bench.end(record)
    assert (ending.commit, ending.was_committed_here, ending.changes) == (commit, False, Changes.COMMITTED)


def test_nothing_changed_leaves_no_commit_no_branch_and_no_directory(bench: Bench) -> None:
    record = bench.open().record
    ending = bench.end(record)
    assert (ending.changes, ending.branch, ending.commit, ending.is_removed) == (Changes.NONE, None, None, True)
    assert bench.repository.branches() == {"main"}
    assert bench.repository.worktrees() == 1
    assert not record.path.exists()
    assert bench.book.names() == []


def test_what_git_ignores_keeps_the_directory_until_it_is_old(bench: Bench) -> None:
    bench.repository.commit("ignore", **{".gitignore": "out/\n"})
    record = bench.open().record
    (record.path / "out").mkdir()
    (record.path / "out" / "report.pdf").write_text("a report")
    ending = bench.end(record)
    assert (ending.changes, ending.is_removed) == (Changes.NONE, False)
    assert bench.repository.branches() == {"main"}
    assert (record.path / "out" / "report.pdf").exists()
    assert bench.prune(keep_s=3600) == {}
    assert bench.prune()["t1"].is_removed
    assert not record.path.exists()


def test_another_attempt_finds_the_same_worktree_with_what_was_in_it(bench: Bench) -> None:
    first = bench.open().record
    (first.path / "half.txt").write_text("half")
    bench.repository.commit("the workspace goes on", more="1")
    again = bench.open()
    assert again.how == "found"
    assert (again.record.path, again.record.branch, again.record.base) == (first.path, first.branch, first.base)
    assert (first.path / "half.txt").read_text() == "half"


def test_tasks_of_a_session_share_one_also_after_one_that_changed_nothing(bench: Bench) -> None:
    first = bench.open("t1", session="ana / 1").record
    assert bench.end(first, keep=True).changes is Changes.NONE
    assert bench.repository.branches() == {"main"}
    second = bench.open("t2", session="ana / 1").record
    assert second.path == first.path
    (second.path / "a").write_text("1")
    ending = bench.end(second, keep=True)
    assert ending.branch == f"codehornets/{first.name}"
    third = bench.open("t3", session="ana / 1").record
    assert (third.path / "a").read_text() == "1"
    assert bench.open("t3", session="ana 1").record.path != first.path


def test_a_directory_that_is_gone_is_made_again_from_its_branch(bench: Bench) -> None:
    record = bench.open().record
    (record.path / "a").write_text("1")
    commit = bench.end(record).commit
    shutil.rmtree(record.path)
    again = bench.open()
    assert (again.how, again.record.path) == ("made_again", record.path)
    assert bench.git(again.record, "rev-parse", "HEAD") == commit
    assert again.record.base == record.base


def test_a_worktree_that_was_never_finished_is_made_anew(bench: Bench) -> None:
    record = bench.open().record
    # As a kill in the middle of the checkout leaves it.
    bench.book.write(record.model_copy(update={"made": False, "git_dir": None}))
    (record.path / "README").unlink()
    assert not bench.prune(keep_s=3600)
    again = bench.open()
    assert again.how == "made"
    assert (again.record.path / "README").read_text() == "hello\n"
    assert bench.repository.worktrees() == 2


def test_a_worktree_without_its_record_is_taken_over(bench: Bench) -> None:
    record = bench.open().record
    (record.path / "half.txt").write_text("half")
    bench.book.forget("t1")
    again = bench.open().record
    assert (again.path, again.base) == (record.path, record.base)
    assert (again.path / "half.txt").exists()


def test_a_name_that_is_taken_gets_a_number(bench: Bench) -> None:
    bench.repository.git("branch", "codehornets/t1")
    (bench.root / "t1-2").mkdir(parents=True)
    record = bench.open("t1").record
    assert (record.name, record.branch) == ("t1-3", "refs/heads/codehornets/t1-3")
    assert bench.open("t1").record.path == record.path


def test_a_branch_named_codehornets_is_in_the_way_and_is_named(bench: Bench) -> None:
    bench.repository.git("branch", "codehornets")
    with pytest.raises(NotMade, match="rename that branch"):
        bench.open()
    assert bench.book.names() == []
    assert list(bench.root.glob("t1*")) == []


@pytest.mark.parametrize(
    "task_id", ["a", "a:b", "a..b", "a.lock", "a.", "x" * 128, "session-x", "a@+-_.b", "A1:" + "y" * 125, "a.lock."]
)
def test_each_task_id_makes_a_branch(bench: Bench, task_id: str) -> None:
    record = bench.open(task_id).record
    bench.repository.git("check-ref-format", record.branch)
    assert record.branch in bench.repository.git("for-each-ref", "--format=%(refname)")


def test_no_two_tasks_share_a_name() -> None:
    ids = ["a:b", "a_b", "a/b", "a..b", "a._b", "a.lock", "a_lock", "x" * 128, "x" * 127, "x" * 100, "session-a"]
    names = {name_of(task_id=task_id, session=None) for task_id in ids}
    names |= {name_of(task_id="t", session=session) for session in ids}
    assert len(names) == 2 * len(ids)
    assert branch_of("a") == "refs/heads/codehornets/a"


def test_many_at_once_do_not_get_into_each_others_way(bench: Bench) -> None:
    trouble: list[BaseException] = []

    def work(number: int) -> None:
        try:
            record = bench.open(f"t{number}").record
            (record.path / "README").write_text(f"{number}\n")
            bench.end(record)
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert trouble == []
    for number in range(12):
        assert bench.repository.git("show", f"codehornets/t{number}:README") == str(number)
    assert (bench.repository.top / "README").read_text() == "hello\n"


def test_one_that_is_used_cannot_be_used_by_another(bench: Bench) -> None:
    with bench.book.hold("t1"), pytest.raises(Busy), bench.book.hold("t1"):
        pass
    with bench.book.hold("t1"):
        pass


# -- what is left uncommitted, and said


def test_an_unfinished_merge_is_left(bench: Bench) -> None:
    record = bench.open().record
    bench.repository.commit("mine", at=record.path, README="mine\n")
    bench.repository.commit("theirs", README="theirs\n")
    bench.repository.git("merge", "main", at=record.path, ok=False)
    ending = bench.end(record)
    assert (ending.changes, ending.note) == (Changes.UNCOMMITTED, "a merge is not finished")
    assert "<<<<<<<" in (record.path / "README").read_text()
    assert ending.commit == bench.git(record, "rev-parse", "HEAD")


def test_a_repository_inside_is_left(bench: Bench) -> None:
    record = bench.open().record
    inner = make_repository(record.path / "vendor", bench.root.parent / "home")
    ending = bench.end(record)
    assert ending.changes is Changes.UNCOMMITTED
    assert ending.note is not None and "'vendor' is a repository of its own" in ending.note
    assert bench.git(record, "rev-parse", "HEAD") == record.base
    assert not bench.prune()["t1"].is_removed
    assert inner.top.is_dir()


def test_a_file_that_a_filter_should_store_is_left(bench: Bench) -> None:
    bench.repository.commit("lfs", **{".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    record = bench.open().record
    (record.path / "a.bin").write_text("a large file")
    ending = bench.end(record)
    assert ending.changes is Changes.UNCOMMITTED
    assert ending.note == "'a.bin' goes through the filter 'lfs', which only its own user may run"


def test_a_branch_that_the_agent_chose_is_the_one_that_is_named(bench: Bench) -> None:
    record = bench.open().record
    bench.git(record, "checkout", "--quiet", "-b", "feature/x")
    (record.path / "a").write_text("1")
    ending = bench.end(record)
    assert ending.branch == "feature/x"
    assert bench.repository.git("rev-parse", "feature/x") == ending.commit
    assert bench.repository.branches() == {"main", "feature/x"}


def test_commits_on_a_detached_head_move_the_branch(bench: Bench) -> None:
    record = bench.open().record
    bench.git(record, "checkout", "--quiet", "--detach")
    commit = bench.repository.commit("detached", at=record.path, a="1")
    ending = bench.end(record)
    assert (ending.branch, ending.commit) == ("codehornets/t1", commit)
    assert bench.repository.git("rev-parse", "codehornets/t1") == commit


def test_a_detached_head_elsewhere_is_told(bench: Bench) -> None:
    record = bench.open().record
    bench.repository.commit("on the branch", at=record.path, a="1")
    bench.git(record, "checkout", "--quiet", "--detach", "main")
    bench.repository.commit("detached", at=record.path, b="1")
    ending = bench.end(record)
    assert ending.changes is Changes.UNCOMMITTED and ending.note is not None and "detached" in ending.note
    assert not bench.prune()["t1"].is_removed


def test_a_git_file_that_was_changed_leads_nowhere(bench: Bench) -> None:
    record = bench.open().record
    other = make_repository(bench.root.parent / "other", bench.root.parent / "home")
    (record.path / ".git").write_text(f"gitdir: {other.common}\n")
    (record.path / "a").write_text("1")
    ending = bench.end(record)
    assert ending.changes is Changes.COMMITTED
    assert bench.repository.git("show", "codehornets/t1:a") == "1"
    assert other.git("log", "--format=%s") == "first"


# -- workspaces that are not simple


def test_a_workspace_below_the_top(bench: Bench) -> None:
    workspace = bench.repository.top / "src"
    assert look_at(bench.repository.safe, workspace).prefix == "src"
    assert (bench.open(workspace=workspace).record.path / "src" / "code.py").exists()


@pytest.mark.parametrize("kind", ["none", "bare", "unborn", "untracked", "inside", "foreign", "missing"])
def test_what_is_no_workspace_is_said_in_a_clause(tmp_path: Path, kind: str) -> None:
    repository = make_repository(tmp_path / "repo", tmp_path / "home")
    place, words = tmp_path / kind, ""
    match kind:
        case "none":
            place.mkdir()
            words = "is in no git repository"
        case "bare":
            repository.git("clone", "--quiet", "--bare", str(repository.top), str(place))
            words = "is a bare repository"
        case "unborn":
            place.mkdir()
            repository.git("init", "--quiet", at=place)
            words = "has no commit yet"
        case "untracked":
            place = repository.top / "scratch"
            place.mkdir()
            words = "is not part of what"
        case "inside":
            place = repository.common
            words = "inside of .git"
        case "foreign":
            if os.geteuid() != 0:
                pytest.skip("only root can give a directory away")
            shutil.copytree(repository.top, place)
            os.chown(place, 12345, 12345)
            os.chown(place / ".git", 12345, 12345)
            words = "git does not trust"
        case "missing":
            words = "is no directory"
    with pytest.raises(NoRepository, match=words):
        look_at(repository.safe, place)


@pytest.mark.parametrize("kind", ["shallow", "detached", "rebase", "linked", "submodule"])
def test_repositories_that_are_not_simple_get_worktrees(tmp_path: Path, kind: str) -> None:
    bench = make_bench(tmp_path)
    repository = bench.repository
    match kind:
        case "shallow":
            repository.commit("second", a="1")
            repository.git("clone", "--quiet", "--depth=1", f"file://{repository.top}", str(tmp_path / "shallow"))
            repository.top = tmp_path / "shallow"
        case "detached":
            repository.git("checkout", "--quiet", "--detach")
        case "rebase":
            repository.git("checkout", "--quiet", "-b", "side")
            repository.commit("side", README="side\n")
            repository.git("checkout", "--quiet", "main")
            repository.commit("main", README="main\n")
            repository.git("rebase", "side", ok=False)
            assert (repository.common / "rebase-merge").exists()
        case "linked":
            repository.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
            repository.top = tmp_path / "linked"
        case "submodule":
            inner = make_repository(tmp_path / "inner", tmp_path / "home")
            repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.top), "sub")
            repository.commit("with a submodule")
    record = bench.open().record
    (record.path / "mine.txt").write_text("1")
    ending = bench.end(record)
    assert (ending.changes, ending.note) == (Changes.COMMITTED, None)
    assert repository.git("show", "codehornets/t1:mine.txt") == "1"
    if kind == "rebase":
        assert (repository.common / "rebase-merge").exists()


def test_a_full_disk_leaves_nothing_half_made(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A git that fails as the real one does on a full disk, in the middle of the checkout.
    real = bench.repository.safe.program
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nfor word; do if [ "$word" = reset ]; then\n'
        f'echo "error: unable to write file README: No space left on device" >&2; exit 128; fi; done\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setitem(bench.repository.environ, "PATH", f"{script.parent}:{os.environ['PATH']}")
    with pytest.raises(OSError, match="No space left"):
        bench.open()
    monkeypatch.setitem(bench.repository.environ, "PATH", os.environ["PATH"])
    assert (bench.repository.branches(), bench.repository.worktrees(), bench.book.names()) == ({"main"}, 1, [])
    assert bench.open().how == "made"
