"""Any program as an agent, whatever it does with its streams, its exit and its children."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from agent_bus.messages import Result, TaskStatus
from tests.integration.harness import Shop, child_worker, quick_settings
from tests.waiting import async_wait_until, wait_until
from worker_service.agents.leashed_process import descendants_of
from worker_service.service import Worker, open_worker

Open = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def open_shell(shared: Path, tmp_path: Path) -> Open:
    """Opens a worker whose agent is a line of shell."""

    @asynccontextmanager
    async def open_(script: str, **environ: str) -> AsyncIterator[Worker]:
        command = shlex.join(["sh", "-c", script])
        environ = {"AGENT": "command", "AGENT_COMMAND": command, "WORKSPACE": str(tmp_path), **environ}
        async with open_worker(quick_settings(shared, **environ)) as worker:
            yield worker
            assert worker.agent.processes() == {"busy": 0}

    return open_


def gone(pid: str | int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def told_pids(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def kind(result: Result) -> str | None:
    return None if result.error is None else result.error.kind


async def test_the_prompt_goes_in_and_the_answer_comes_out(shop: Shop, open_shell: Open, tmp_path: Path) -> None:
    async with open_shell('tr a-z A-Z; echo; echo "$CODEHORNETS_TASK_ID"; pwd'):
        shop.submit("7", "say é")
        result = await shop.async_result("7")
    assert (result.status, result.exit_code, result.error) == (TaskStatus.COMPLETED, 0, None)
    assert result.output == result.stdout == f"SAY é\n7\n{tmp_path}\n"


async def test_a_failing_program_says_why(shop: Shop, open_shell: Open) -> None:
    async with open_shell("echo half; seq 20000 >&2; echo 'no such luck' >&2; exit 3"):
        shop.submit("7")
        result = await shop.async_result("7")
    assert (result.status, kind(result), result.exit_code, result.output) == (
        TaskStatus.FAILED,
        "exit_code",
        3,
        "half\n",
    )
    assert result.error is not None
    assert result.error.message == "sh ended with exit code 3: no such luck."
    assert result.stderr.endswith("20000\nno such luck\n")
    assert len(result.stderr) == 64 * 1024


async def test_a_killed_program_is_told_as_such(shop: Shop, open_shell: Open) -> None:
    async with open_shell("echo half; kill -9 $$"):
        shop.submit("7")
        result = await shop.async_result("7")
    assert (result.status, kind(result), result.exit_code) == (TaskStatus.FAILED, "agent_died", -9)
    assert result.output == "half\n"


async def test_a_program_that_is_not_there(shop: Shop, open_shell: Open) -> None:
    async with open_shell("", AGENT_COMMAND="/nowhere/program -x"):
        shop.submit("7")
        result = await shop.async_result("7")
    assert (result.status, result.exit_code) == (TaskStatus.FAILED, 127)
    assert result.error is not None
    assert "/nowhere/program cannot be started: No such file or directory" in result.error.message


async def test_a_workspace_that_is_not_there(shop: Shop, open_shell: Open) -> None:
    async with open_shell("echo fine"):
        shop.submit("7", workspace="/nowhere/else")
        result = await shop.async_result("7")
        assert (result.status, kind(result)) == (TaskStatus.FAILED, "agent_unavailable")
        shop.submit("8")
        assert (await shop.async_result("8")).output == "fine\n"


LEAVES = (
    "setsid sleep 1000 >/dev/null 2>&1 & echo $! >>pids; nohup sleep 1000 >/dev/null 2>&1 & echo $! >>pids; "
    "(sh -c 'sleep 1000 & echo $! >>pids'); echo begun; echo $$ >>pids; "
)


async def test_a_program_that_hangs_is_timed_out_with_its_family(shop: Shop, open_shell: Open, tmp_path: Path) -> None:
    async with open_shell(f"trap '' TERM; {LEAVES} sleep 1000", TASK_TIMEOUT="1.5"):
        shop.submit("7")
        result = await shop.async_result("7")
        pids = told_pids(tmp_path / "pids")
        assert (result.status, result.exit_code, result.output) == (TaskStatus.TIMED_OUT, 124, "begun\n")
        assert len(pids) == 4
        assert all(gone(pid) for pid in pids)


async def test_a_cancelled_program_is_gone_with_its_family(shop: Shop, open_shell: Open, tmp_path: Path) -> None:
    async with open_shell(f"{LEAVES} sleep 1000"):
        shop.submit("7")
        await async_wait_until(lambda: len(told_pids(tmp_path / "pids")) == 4)
        (shop.layout.tasks / "7.cancel").touch()
        result = await shop.async_result("7")
        assert (result.status, result.output) == (TaskStatus.CANCELLED, "begun\n")
        assert all(gone(pid) for pid in told_pids(tmp_path / "pids"))


async def test_what_a_program_leaves_behind_does_not_outlive_its_task(
    shop: Shop, open_shell: Open, tmp_path: Path
) -> None:
    # One of them holds the output open, which must hold up nobody.
    async with open_shell(f"{LEAVES} exit 0"):
        shop.submit("7")
        result = await shop.async_result("7")
        assert (result.status, result.output) == (TaskStatus.COMPLETED, "begun\n")
        pids = told_pids(tmp_path / "pids")
        assert len(pids) == 4
        assert all(gone(pid) for pid in pids)


async def test_50_mb_of_output_are_too_much(shop: Shop, open_shell: Open) -> None:
    async with open_shell("head -c 52428800 /dev/zero | tr '\\0' x; sleep 1000"):
        shop.submit("7")
        result = await shop.async_result("7", 20)
        assert (result.status, kind(result)) == (TaskStatus.FAILED, "output_too_large")
        assert result.error is not None
        assert "16 MiB" in result.error.message
        assert result.output == "x" * 16 * 1024 * 1024


async def test_output_that_is_no_text(shop: Shop, open_shell: Open) -> None:
    async with open_shell("printf '\\377\\376\\000\\303'; printf '\\377' >&2"):
        shop.submit("7")
        result = await shop.async_result("7")
    assert (result.status, result.output) == (TaskStatus.COMPLETED, "\ufffd\ufffd\0\ufffd")
    assert result.stderr == "\ufffd"


@pytest.mark.parametrize("script", ["echo done", "exec 0<&-; echo done", "echo done; exec sleep 1000 >&-"])
async def test_a_large_prompt_that_nobody_reads(shop: Shop, open_shell: Open, script: str) -> None:
    environ = {"MAX_TRIGGER_BYTES": "10000000"}
    if "1000" in script:
        environ["TASK_TIMEOUT"] = "1.5"
    async with open_shell(script, **environ):
        shop.submit("7", "x" * 5_000_000)
        result = await shop.async_result("7")
        assert result.output == "done\n"
        assert result.status is (TaskStatus.TIMED_OUT if "1000" in script else TaskStatus.COMPLETED)


async def test_a_large_prompt_comes_through_whole(shop: Shop, open_shell: Open) -> None:
    async with open_shell("wc -c", MAX_TRIGGER_BYTES="10000000"):
        shop.submit("7", "x" * 5_000_000)
        assert (await shop.async_result("7")).output.strip() == "5000000"


def test_a_worker_killed_with_9_leaves_no_process(shared: Path, shop: Shop, tmp_path: Path) -> None:
    command = shlex.join(["sh", "-c", f"trap '' TERM; {LEAVES} sleep 1000"])
    with child_worker(shared, AGENT="command", AGENT_COMMAND=command, WORKSPACE=str(tmp_path)) as worker:
        worker.port()
        shop.submit("7")
        wait_until(lambda: len(told_pids(tmp_path / "pids")) == 4)
        family = descendants_of(worker.pid)
        assert len(family) >= 5
        worker.kill()
        # The leash's own end is reaped by whoever adopts it.
        wait_until(lambda: all(gone(pid) for pid in told_pids(tmp_path / "pids")))
        wait_until(lambda: all(gone(pid) or _is_zombie(pid) for pid in family))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
