"""The leash: what it holds ends with it, and otherwise nobody notices that it is there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from tests.integration.harness import REPOSITORY
from tests.waiting import async_wait_until, wait_until
from worker_service.agents.leashed_process import LEASH, descendants_of, start_leashed

Leash = Callable[..., "subprocess.Popen[bytes]"]

# Everyone that a shell command may leave behind: in a session of its own, deaf to SIGHUP, forked twice.
FAMILY = """
quiet="</dev/null >/dev/null 2>&1"
eval "setsid sleep 1000 $quiet &"; echo $!
eval "nohup sleep 1000 $quiet &"; echo $!
setsid sh -c "sleep 1000 $quiet & echo \\$!"
(sh -c "sleep 1000 $quiet & echo \\$!")
echo $$
echo ready
"""
WAITS = FAMILY + "exec sleep 1000"
DEAF_AND_WAITS = "trap '' TERM HUP INT\n" + FAMILY + "while :; do sleep 1000; done"

OWNER = """
import os, sys, anyio
from pathlib import Path
from worker_service.agents.leashed_process import start_leashed
async def main():
    process = await start_leashed(["sh", "-c", sys.argv[1]], environment=dict(os.environ), directory=Path("/"))
    print(process.pid, flush=True)
    async for chunk in process.stdout:
        sys.stdout.write(chunk.decode()); sys.stdout.flush()
anyio.run(main)
"""


@pytest.fixture
def leash() -> Iterator[Leash]:
    """Puts programs on a leash whose owner is this process."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def members(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the process ids that the family's shell tells."""
    assert process.stdout is not None
    told: list[int] = []
    for line in iter(process.stdout.readline, b"ready\n"):
        assert line, "it ended before it was ready"
        told.append(int(line))
    assert len(told) == 5
    assert all(is_there(pid) for pid in told)
    return told


def is_there(pid: int) -> bool:
    # An orphan is reaped by whoever adopts it, which may take its time: a zombie is gone.
    try:
        return state_of(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(pids: list[int]) -> bool:
    return not any(is_there(pid) for pid in pids)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -KILL $$", -signal.SIGKILL),
        ("kill -SEGV $$", -signal.SIGSEGV),
        ("kill -USR1 $$", -signal.SIGUSR1),
        ("kill -PIPE $$", -signal.SIGPIPE),
    ],
)
def test_the_end_of_the_agent_is_the_end_of_the_leash(leash: Leash, script: str, code: int) -> None:
    # A crash on purpose shall leave no core file about.
    assert leash("sh", "-c", f"ulimit -c 0; {script}").wait(10) == code


def test_what_the_agent_leaves_behind_goes_when_it_ends_by_itself(leash: Leash) -> None:
    process = leash("sh", "-c", FAMILY)
    assert process.stdout is not None
    pids = [int(line) for line in iter(process.stdout.readline, b"ready\n")]
    assert process.wait(10) == 0
    assert all_gone(pids)


@pytest.mark.parametrize("script", [WAITS, DEAF_AND_WAITS], ids=["polite", "deaf"])
async def test_nothing_is_left_after_aclose(script: str) -> None:
    process = await start_leashed(["sh", "-c", script], environment=dict(os.environ), directory=Path("/"))
    said = b""
    while b"ready" not in said:
        said += await process.stdout.receive()
    pids = [int(word) for word in said.split()[:-1]]
    assert len(process.descendants()) >= 5
    await process.aclose()
    assert all_gone(pids)
    await process.aclose()


async def test_nothing_is_left_when_aclose_is_cancelled() -> None:
    process = await start_leashed(["sh", "-c", WAITS], environment=dict(os.environ), directory=Path("/"))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await process.aclose()
    assert process.exit_code is not None
    await async_wait_until(lambda: descendants_of(process.pid) == frozenset())


@pytest.mark.parametrize("turns", range(8))
async def test_nothing_is_left_of_a_start_that_is_cancelled(turns: int) -> None:
    children, files = descendants_of(os.getpid()), len(os.listdir("/proc/self/fd"))
    begun = []
    async with anyio.create_task_group() as group:

        async def begin() -> None:
            begun.append(await start_leashed(["sleep", "1000"], environment={}, directory=Path("/")))
            await anyio.sleep_forever()

        group.start_soon(begin)
        for _ in range(turns):
            await asyncio.sleep(0)
        group.cancel_scope.cancel()
    for process in begun:
        await process.aclose()
    # At once: a loop that ends here would never hear of the process again.
    assert descendants_of(os.getpid()) == children
    await async_wait_until(lambda: len(os.listdir("/proc/self/fd")) == files)


def test_sigterm_asks_first(leash: Leash) -> None:
    process = leash("sh", "-c", "trap 'echo goodbye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert (process.stdout.readline(), process.wait(10)) == (b"goodbye\n", 3)


def test_after_sigterm_nothing_is_left(leash: Leash) -> None:
    process = leash("sh", "-c", WAITS)
    pids = members(process)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert all_gone(pids)


def test_who_is_deaf_to_sigterm_is_killed_after_a_moment(leash: Leash) -> None:
    process = leash("sh", "-c", DEAF_AND_WAITS)
    pids = members(process)
    process.terminate()
    # A second word ends the moment of grace.
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == -signal.SIGKILL
    assert all_gone(pids)


@pytest.mark.parametrize("script", [WAITS, DEAF_AND_WAITS], ids=["polite", "deaf"])
def test_kill_9_of_the_owner_ends_them_all(script: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        assert owner.stdout is not None
        leash_pid = int(owner.stdout.readline())
        pids = members(owner)
        owner.kill()
        owner.wait(10)
        wait_until(lambda: all_gone([leash_pid, *pids]), what="the end of leash and family")
    finally:
        owner.kill()
        owner.communicate()


def test_kill_9_of_a_frozen_familys_owner_ends_them_all() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, WAITS],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        assert owner.stdout is not None
        leash_pid = int(owner.stdout.readline())
        pids = members(owner)
        os.kill(leash_pid, signal.SIGTSTP)
        wait_until(lambda: state_of(pids[-1]) == "T")
        owner.kill()
        owner.wait(10)
        wait_until(lambda: all_gone([leash_pid, *pids]), what="the end of leash and family")
    finally:
        owner.kill()
        owner.communicate()


def test_kill_9_of_the_leash_itself_takes_the_agent_along(leash: Leash) -> None:
    process = leash("sh", "-c", "echo $$; exec sleep 1000")
    assert process.stdout is not None
    agent = int(process.stdout.readline())
    process.kill()
    process.wait(10)
    wait_until(lambda: not is_there(agent), what="the agent's end")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_frozen_family_is_ended_too(leash: Leash, number: signal.Signals) -> None:
    process = leash("sh", "-c", WAITS)
    pids = members(process)
    process.send_signal(signal.SIGTSTP)
    wait_until(lambda: state_of(pids[-1]) == "T", what="frozen")
    process.send_signal(number)
    process.wait(10)
    assert all_gone(pids)


def test_freezing_stops_and_thawing_lets_go_on(leash: Leash) -> None:
    process = leash("sh", "-c", "echo $$; exec cat")
    assert process.stdout is not None
    assert process.stdin is not None
    agent = int(process.stdout.readline())
    for _ in range(3):
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state_of(agent) == "T", what="frozen")
        process.stdin.write(b"hello\n")
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == b"hello\n"
    process.stdin.close()
    assert process.wait(10) == 0


def test_the_leash_holds_no_end_of_the_agents_pipes(leash: Leash) -> None:
    process = leash("sh", "-c", "exec 0<&- 1>&- 2>&-; exec sleep 1000 </dev/null >/dev/null 2>&1")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read() == b""
    assert process.stderr.read() == b""
    with pytest.raises(BrokenPipeError):
        process.stdin.write(b"x")
    assert process.poll() is None


def test_the_end_of_the_input_reaches_the_agent(leash: Leash) -> None:
    process = leash("wc", "-c")
    assert process.communicate(b"x" * 200_000, timeout=10)[0].strip() == b"200000"


@pytest.mark.parametrize("name", ["/nowhere/program", "no-such-program", "/etc/passwd"])
def test_a_program_that_cannot_be_started_is_told(leash: Leash, name: str) -> None:
    process = leash(name, "argument")
    said = process.communicate(timeout=10)[1].decode()
    assert process.returncode == 127
    assert said.startswith(f"{name} cannot be started: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "environment", [{}, {"PATH": "/usr/bin:/bin", "A": "b=c\n"}, {"LANG": "C"}], ids=["none", "two", "C locale"]
)
def test_the_environment_is_what_was_given(leash: Leash, environment: dict[str, str]) -> None:
    program = "/usr/bin/env"
    said = leash(program, "-0", environment=environment).communicate(timeout=10)[0].decode()
    assert dict(entry.split("=", 1) for entry in said.split("\0") if entry) == environment


@pytest.mark.parametrize("ignored", [(), (signal.SIGINT, signal.SIGQUIT)], ids=["none", "as in the background"])
def test_the_agent_starts_with_no_signal_blocked_or_ignored(leash: Leash, ignored: tuple[signal.Signals, ...]) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    process = leash("cat", "/proc/self/status")
    for number, handler in before.items():
        signal.signal(number, handler)
    said = process.communicate(timeout=10)[0].decode()
    masks = dict(line.split(":\t") for line in said.splitlines() if line.startswith(("SigBlk", "SigIgn")))
    # Signals 32 and 33 are the C library's own; whoever runs the tests may hand them down ignored.
    of_programs = (1 << 31) - 1
    assert {name: int(mask, 16) & of_programs for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}


async def test_a_working_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        await start_leashed(["true"], environment={}, directory=tmp_path / "nowhere")
