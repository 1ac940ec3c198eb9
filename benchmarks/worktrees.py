"""What a worktree per task costs: to make one, to end it, and the first turn of a Claude process that starts in it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claude import claude_environment, open_api, seen_by, wait_for_results
from benchmarks.rig import DISK, MEMORY, Percentiles, open_bench_worker, open_rig, say
from benchmarks.table import Row, Scale
from service_kit.git.command import Git, find_git
from service_kit.git.repository import look_at
from service_kit.worktrees.ending import end_worktree
from service_kit.worktrees.making import Wish, open_worktree
from service_kit.worktrees.records import RecordBook

FILES = 4000
"""The repository's; about 2 KB each, in folders of a hundred."""


@dataclass(frozen=True)
class Costs:
    """Milliseconds, for a repository of `FILES` files."""

    made: Percentiles
    committed: Percentiles
    removed: Percentiles


def _repository(top: Path, home: Path, files: int) -> None:
    for number in range(files):
        path = top / f"folder{number // 100:03}" / f"file{number:05}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"line = {number}\n" * 120)
    environ = {"PATH": os.environ["PATH"], "HOME": str(home)}
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *command], cwd=top, env=environ, check=True)


def costs(samples: int) -> Costs:
    """Make, change and end worktrees one after the other, on a disk."""
    say(f"{samples} worktrees of a repository of {FILES} files")
    made, committed, removed = [], [], []
    with tempfile.TemporaryDirectory(prefix="codehornets-bench-", dir=DISK) as folder:
        place = Path(folder)
        top = place / "repo"
        top.mkdir()
        _repository(top, place, FILES)
        environ = {"PATH": os.environ["PATH"], "HOME": folder}
        program = find_git(environ)
        if program is None:
            raise RuntimeError("git is not installed")
        git, book = Git(program, environ), RecordBook(place / "records")
        for number in range(2 * samples):
            name = f"t{number}"
            wish = Wish(name=name, key=f"task:{name}", worker="bench", task_id=name)
            with book.hold(name):
                began = time.perf_counter()
                opened = open_worktree(book, place / "worktrees", wish, name, look_at(git, top), git)
                made.append(1000 * (time.perf_counter() - began))
                if opened is None:
                    raise RuntimeError(f"the name {name} is taken")
                changes = number % 2 == 0
                if changes:
                    (opened.record.path / "folder000" / "file00000.py").write_text("changed = True\n")
                began = time.perf_counter()
                end_worktree(book, opened.record, git, title="Change it", body="", keep=False)
                (committed if changes else removed).append(1000 * (time.perf_counter() - began))
    return Costs(Percentiles.of(made), Percentiles.of(committed), Percentiles.of(removed))


def first_turn(samples: int, files: int, *, in_worktrees: bool) -> Percentiles:
    """Time a trigger renamed into place until the model's API has the request, in a git workspace."""
    say(f"latency of {samples} Claude tasks {'in worktrees' if in_worktrees else 'in the workspace'}, {files} files")
    with open_api() as url, open_rig(MEMORY, 1) as rig:
        environ = claude_environment(rig, url) | {"WORKTREES": "on" if in_worktrees else "off"}
        _repository(Path(environ["WORKSPACE"]), Path(environ["HOME"]), files)
        with open_bench_worker(rig, module="worker_service", WARM_PROCESSES="2", MAX_CONCURRENT="4", **environ):
            sent: dict[str, int] = {}
            for number in range(900, 1000 + samples):
                if 902 <= number < 1000:
                    continue
                staged, target = rig.stage(number, f"prompt-{number}")
                sent[f"prompt-{number}"] = time.monotonic_ns()
                staged.rename(target)
                wait_for_results(rig, range(number, number + 1), 60)
                time.sleep(0.3)
            arrived = {seen["prompt"]: seen["at_ns"] for seen in seen_by(url)}
    times = [(arrived[prompt] - at_ns) / 1e6 for prompt, at_ns in sent.items() if prompt not in _WARM_UP]
    return Percentiles.of(times)


_WARM_UP = ("prompt-900", "prompt-901")


def measure_worktrees(scale: Scale) -> list[Row]:
    """Measure worktrees alone, and with the real Claude Code CLI."""
    found = costs(scale.cold_samples)
    usual = first_turn(scale.cold_samples, FILES, in_worktrees=False)
    apart = first_turn(scale.cold_samples, FILES, in_worktrees=True)
    ends = f"p50 {found.committed.p50_ms:.0f} ms with a commit, {found.removed.p50_ms:.0f} ms unchanged and removed"
    return [
        Row(
            f"a worktree for a task, repository of {FILES:,} files, on a disk",
            "",
            f"p50 {found.made.p50_ms:.0f} ms, p99 {found.made.p99_ms:.0f} ms",
            None,
        ),
        Row("… its end", "", ends, None),
        Row(
            "Claude in a worktree of its own, trigger in place → the API has the request",
            "",
            f"p50 {apart.p50_ms:.0f} ms, against {usual.p50_ms:.0f} ms of a warm process in the workspace",
            None,
        ),
    ]
