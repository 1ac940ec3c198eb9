"""CPU time of what a worker starts, and the CPUs that it may use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker_service.cpu_use import AgentCpu, count_cpus

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
PARENT = """
import subprocess, sys
program = "import sys\\n" + sys.argv[1] + "print('burnt', flush=True); sys.stdin.read()"
subprocess.Popen([sys.executable, "-S", "-c", program]).wait()
"""


@contextmanager
def grandchild_that_burnt(seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A child whose own child has used that much and lives on until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", PARENT, BURN.format(seconds=seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "burnt\n"
        yield process
    finally:
        process.communicate()


def test_what_lives_below_counts_and_goes_on_counting_when_it_has_ended() -> None:
    cpu = AgentCpu()
    before = cpu.seconds()
    with grandchild_that_burnt(0.3):
        alive = cpu.seconds() - before
    ended = cpu.seconds() - before
    assert 0.25 <= alive <= ended < 5


def test_what_this_process_uses_itself_does_not_count() -> None:
    cpu = AgentCpu()
    before, own = cpu.seconds(), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    assert cpu.seconds() == before


def test_it_never_falls_where_a_process_is_lost_sight_of(tmp_path: Path) -> None:
    def show(ticks: int | None) -> None:
        thread = tmp_path / "self" / "task" / "1"
        thread.mkdir(parents=True, exist_ok=True)
        (thread / "children").write_text("" if ticks is None else "77 ")
        child = tmp_path / "77"
        (child / "task").mkdir(parents=True, exist_ok=True)
        (child / "stat").write_text(f"77 (a) b) S 1 1 1 0 -1 0 0 0 0 0 {ticks or 0} 100 100 100 20 0 1 0\n")

    cpu = AgentCpu(tmp_path)
    show(None)
    nothing = cpu.seconds()
    show(700)
    assert cpu.seconds() - nothing == pytest.approx(1000 / os.sysconf("SC_CLK_TCK"))
    most = cpu.seconds()
    show(None)
    assert cpu.seconds() == most


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
    ],
)
def test_a_containers_quota_is_what_may_be_used(tmp_path: Path, files: dict[str, str], cpus: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n"},
        {"cpu.max": "99900000 100000\n"},
        {"cpu.max": "nonsense\n"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_without_a_narrower_quota_the_machines_cpus_count(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_cpus(tmp_path) == len(os.sched_getaffinity(0))
