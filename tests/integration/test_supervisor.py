"""The supervisor with stand-in workers: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from agent_bus.heartbeats import write_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now
from orchestrator_service.supervisor import BackOff, Child, ChildState, open_supervisor
from tests.waiting import wait_until

QUICK = BackOff(first_s=0.01, longest_s=0.02)

SLEEPS = "import time; time.sleep(300)"
"""Ends at SIGTERM."""

COUNTS_AND_FAILS = "import os; open('starts', 'a').write('x'); os._exit(7)"


def child_of(tmp_path: Path, code: str, name: str = "ann", **options: float) -> Child:
    return Child(
        name=name,
        command=[sys.executable, "-S", "-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"],
        environ={**os.environ, "SHUTDOWN_GRACE": "0"},
        heartbeat_file=WorkerLayout.under(tmp_path, name).heartbeat(name),
        **options,
    )


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(wait_until, condition, 10.0)


async def until_started(child: Child, times: int) -> None:
    await until(lambda: child.starts >= times and child.state is ChildState.RUNNING)


def test_the_wait_after_a_death_doubles_up_to_a_bound_and_is_never_longer() -> None:
    back_off = BackOff(first_s=1.0, longest_s=8.0, jitter=0.0)

    assert [back_off.delay_s(deaths) for deaths in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 8, 8]
    jittery = BackOff(first_s=1.0, longest_s=8.0, jitter=0.5)
    assert all(4 <= jittery.delay_s(9) <= 8 for _ in range(100))


async def test_a_worker_that_dies_is_started_again_and_it_is_said(tmp_path: Path) -> None:
    child = child_of(tmp_path, SLEEPS)
    said: list[str] = []

    async with open_supervisor([child], tell=said.append, back_off=QUICK):
        await until_started(child, 1)
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until_started(child, 2)
        assert child.pid != first

    assert [sentence.split(";")[0] for sentence in said] == ["ann was killed by SIGKILL"]


async def test_deaths_in_a_row_lengthen_the_wait_and_a_healthy_life_ends_the_row(tmp_path: Path) -> None:
    waits: list[str] = []
    child = child_of(tmp_path, COUNTS_AND_FAILS)
    # Whoever lives longer than no time at all is healthy here: each death is then the first of its row.
    healthy = BackOff(first_s=0.01, longest_s=10.0, jitter=0.0, healthy_after_s=0.0)

    async with open_supervisor([child], tell=waits.append, back_off=healthy):
        await until_started(child, 5)

    assert {sentence.split("; ")[1] for sentence in waits[:4]} == {"it is started again in 0.0 s."}


@pytest.mark.parametrize(("code", "state"), [(2, ChildState.REFUSED), (0, ChildState.ENDED)])
async def test_a_wrong_setting_and_a_wanted_end_are_not_started_again(
    tmp_path: Path, code: int, state: ChildState
) -> None:
    child = child_of(tmp_path, f"raise SystemExit({code})")
    said: list[str] = []

    async with open_supervisor([child], tell=said.append, back_off=QUICK) as supervisor:
        with anyio.fail_after(10):
            await supervisor.all_over.wait()

    assert (child.state, child.starts) == (state, 1)
    assert "is not started again" in said[0]


async def test_one_that_serves_the_others_is_not_waited_for(tmp_path: Path) -> None:
    ends = child_of(tmp_path, "raise SystemExit(0)", "ann")
    serves = child_of(tmp_path, SLEEPS, "orchestrator")
    serves.serves_others = True

    async with open_supervisor([ends, serves], tell=lambda _: None, back_off=QUICK) as supervisor:
        with anyio.fail_after(10):
            await supervisor.all_over.wait()
        assert serves.state is not ChildState.ENDED

    assert serves.state is ChildState.ENDED


async def test_a_setting_that_was_right_before_is_tried_again(tmp_path: Path) -> None:
    code = "import os\nfirst = not os.path.exists('starts')\nopen('starts', 'a')\nos._exit(1 if first else 2)"
    child = child_of(tmp_path, code)
    proven = BackOff(first_s=0.01, longest_s=0.02, proven_after_s=0.0)

    async with open_supervisor([child], tell=lambda _: None, back_off=proven):
        await until_started(child, 4)


async def test_leaving_stops_all_with_one_sigterm_each(tmp_path: Path) -> None:
    code = """
import signal, sys, time
def end(*_):
    open(f"{sys.argv[0]}{__import__('os').getpid()}", "a").write("TERM")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, end)
open("up", "a").write("x")
time.sleep(300)
"""
    children = [child_of(tmp_path, code, name) for name in ("ann", "bob")]

    async with open_supervisor(children, tell=lambda _: None, back_off=QUICK):
        await until(lambda: (tmp_path / "up").exists() and (tmp_path / "up").read_text() == "xx")
        pids = [child.pid for child in children]

    assert [(tmp_path / f"-c{pid}").read_text() for pid in pids] == ["TERM", "TERM"]
    assert [child.state for child in children] == [ChildState.ENDED, ChildState.ENDED]


async def test_a_worker_that_will_not_stop_is_killed_with_its_whole_session(tmp_path: Path) -> None:
    code = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "300"])
open("below.tmp", "w").write(str(below.pid))
os.rename("below.tmp", "below")
time.sleep(300)
"""
    child = child_of(tmp_path, code, agent_end_s=0.1)
    said: list[str] = []

    async with open_supervisor([child], tell=said.append, back_off=QUICK):
        await until((tmp_path / "below").exists)

    assert child.pid is not None
    assert not is_running(child.pid)
    wait_until(lambda: not is_running(int((tmp_path / "below").read_text())), 10)
    assert said == ["ann did not stop within 0.1 s and is killed."]


async def test_a_worker_that_waits_to_be_started_again_does_not_hold_up_the_end(tmp_path: Path) -> None:
    child = child_of(tmp_path, COUNTS_AND_FAILS)

    with anyio.fail_after(10):
        async with open_supervisor([child], tell=lambda _: None, back_off=BackOff(first_s=300)):
            await until(lambda: child.state is ChildState.WAITING)


def test_workers_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    program = f"""
import anyio, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from orchestrator_service.supervisor import open_supervisor
from tests.integration.test_supervisor import SLEEPS, child_of, until_started

async def main():
    child = child_of(Path({str(tmp_path)!r}), SLEEPS)
    async with open_supervisor([child], tell=print):
        await until_started(child, 1)
        print(child.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert is_running(pid)
        supervisor.kill()

    wait_until(lambda: not is_running(pid), 10)


async def test_ready_are_those_whose_own_process_beats(tmp_path: Path) -> None:
    beats, silent, refused = (
        child_of(tmp_path, SLEEPS, "ann"),
        child_of(tmp_path, SLEEPS, "bob"),
        child_of(tmp_path, "raise SystemExit(2)", "cid"),
    )

    def beat(child: Child, pid: int | None) -> None:
        path = child.heartbeat_file
        path.parent.mkdir(exist_ok=True)
        fields = {"worker": child.name, "instance": "i", "mode": "polling", "version": "1", "pid": pid}
        write_heartbeat(path, Heartbeat.model_validate({**fields, "timestamp": utc_now(), "status": WorkerStatus.IDLE}))

    async with open_supervisor([beats, silent, refused], tell=lambda _: None, back_off=QUICK) as supervisor:
        await until_started(beats, 1)
        # The heartbeat of an earlier process says nothing about this one.
        beat(silent, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, beat, beats, beats.pid)
            ready = await supervisor.wait_until_ready(["ann", "cid"], within_s=10)
        assert list(ready) == ["ann"]
        assert await supervisor.wait_until_ready(["bob"], within_s=0.1) == {}
