"""A repository whose configuration an agent wrote: the service's own git runs no program of its choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.worktree_bench import Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, README="hello\n", **{".gitattributes": "README filter=evil\nother.txt ident\n"})


def _program(place: Path, name: str) -> tuple[Path, Path]:
    """Return a program, and the file that is there once it was run."""
    proof = place / f"{name}.ran"
    program = place / f"{name}.sh"
    program.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    program.chmod(0o755)
    return program, proof


def _hooks(bench: Bench, program: Path) -> None:
    folder = bench.repository.common / "hooks"
    folder.mkdir(exist_ok=True)
    names = "post-checkout reference-transaction pre-commit commit-msg post-commit prepare-commit-msg post-index-change"
    for name in names.split():
        (folder / name).write_text(program.read_text())
        (folder / name).chmod(0o755)


def _other_hooks(bench: Bench, program: Path) -> None:
    _hooks(bench, program)
    (bench.repository.common / "hooks").rename(bench.repository.top.parent / "hooks")
    bench.repository.git("config", "core.hooksPath", str(bench.repository.top.parent / "hooks"))


def _setting(*names: str) -> Callable[[Bench, Path], None]:
    def plant(bench: Bench, program: Path) -> None:
        for name in names:
            bench.repository.git("config", name, str(program))

    return plant


def _filter_of_a_branch(bench: Bench, program: Path) -> None:
    # Configured for the task's branch alone: in the workspace it is not to be seen.
    included = bench.repository.top.parent / "included"
    included.write_text(f'[filter "evil"]\n\tsmudge = {program}\n\tclean = {program}\n\tprocess = {program}\n')
    bench.repository.git("config", "includeIf.onbranch:codehornets/**.path", str(included))


def _signing(bench: Bench, program: Path) -> None:
    bench.repository.git("config", "commit.gpgSign", "true")
    bench.repository.git("config", "gpg.program", str(program))


PLANTS: dict[str, Callable[[Bench, Path], None]] = {
    "hooks": _hooks,
    "another directory of hooks": _other_hooks,
    "fsmonitor": _setting("core.fsmonitor"),
    "filter": _setting("filter.evil.smudge", "filter.evil.clean"),
    "filter process": _setting("filter.evil.process"),
    "filter of a branch": _filter_of_a_branch,
    "signing": _signing,
    "editor": _setting("core.editor", "core.pager", "core.askPass", "diff.external", "credential.helper"),
}
SEEN_BY_GIT = {"hooks", "another directory of hooks", "fsmonitor", "filter", "filter process", "filter of a branch"}


@pytest.mark.parametrize("kind", PLANTS)
def test_nothing_that_the_configuration_names_is_run(bench: Bench, tmp_path: Path, kind: str) -> None:
    program, proof = _program(tmp_path, "evil")
    PLANTS[kind](bench, program)
    record = bench.open().record
    (record.path / "new.txt").write_text("1")
    ending = bench.end(record)
    assert ending.commit is not None
    bench.repository.git("-c", "core.hooksPath=/dev/null", "update-ref", "refs/heads/main", ending.commit)
    assert bench.prune()["t1"].is_removed
    assert not proof.exists()


@pytest.mark.parametrize("kind", sorted(SEEN_BY_GIT))
def test_plain_git_would_have_run_it(bench: Bench, tmp_path: Path, kind: str) -> None:
    program, proof = _program(tmp_path, "evil")
    PLANTS[kind](bench, program)
    bench.repository.git("worktree", "add", "-b", "codehornets/x", str(tmp_path / "x"), ok=False)
    bench.repository.git("status", ok=False)
    assert proof.exists()


def test_a_file_of_such_a_filter_is_not_stored(bench: Bench, tmp_path: Path) -> None:
    program, proof = _program(tmp_path, "evil")
    PLANTS["filter"](bench, program)
    record = bench.open().record
    (record.path / "README").write_text("changed\n")
    ending = bench.end(record)
    assert ending.note is not None and "goes through the filter 'evil'" in ending.note
    assert not bench.prune()["t1"].is_removed
    assert not proof.exists()


def test_no_variable_leads_git_elsewhere(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setitem(bench.repository.environ, "GIT_INDEX_FILE", str(tmp_path / "index"))
    assert bench.open().how == "made"


def test_what_is_hidden_from_the_status_is_not_removed(bench: Bench) -> None:
    record = bench.open().record
    bench.git(record, "update-index", "--assume-unchanged", ".gitattributes")
    (record.path / ".gitattributes").write_text("hidden work\n")
    bench.repository.git("config", "status.showUntrackedFiles", "no")
    ending = bench.end(record)
    assert ending.note == "'.gitattributes' is marked as unchanged in the index"
    assert not bench.prune()["t1"].is_removed
    assert (record.path / ".gitattributes").read_text() == "hidden work\n"


def test_a_link_in_place_of_the_worktree_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    record = bench.open().record
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a").write_text("1")
    record.path.rename(tmp_path / "moved")
    record.path.symlink_to(precious)
    bench.end(record)
    bench.prune()
    bench.book.write(record.model_copy(update={"made": False}))
    bench.prune()
    assert (precious / "a").exists()
