"""The Claude agent with a Claude Code that misbehaves in every way: the task fails with its reason, the worker goes on.

The real program is the acceptance tier's; here it is a script that does what the prompt says.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_bus.messages import Result, TaskStatus, WorkerStatus
from tests.integration.harness import REPOSITORY, Shop, fetch, quick_settings
from tests.waiting import async_wait_until
from worker_service.agents import claude_pool, claude_process
from worker_service.service import Worker, open_worker
from worker_service.settings import WorkerSettings

pytestmark = pytest.mark.timeout(60)

Settings = Callable[..., WorkerSettings]


class Fake:
    """What the fake processes have told, and how new ones are to begin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def log(self, what: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if what in (None, entry["what"])]

    def begin_with(self, how: str) -> None:
        (self.folder / "start").write_text(how)

    @property
    def hold_clear(self) -> Path:
        return self.folder / "hold-clear"

    def living(self) -> set[int]:
        return {entry["pid"] for entry in self.log("start") if Path(f"/proc/{entry['pid']}").exists()}


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "fake")


@pytest.fixture
def settings_of(shared: Path, tmp_path: Path, fake: Fake) -> Settings:
    """Makes the settings of a worker whose Claude Code is the script."""
    home = tmp_path / "home"
    home.mkdir()
    # The tests' own interpreter, whatever the PATH has.
    program = tmp_path / "claude"
    script = REPOSITORY / "tests" / "standin" / "fake_claude.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n')
    program.chmod(0o755)

    def make(**environ: str) -> WorkerSettings:
        usual = {
            "AGENT": "claude",
            "CLAUDE_CLI": str(program),
            "CLAUDE_FAKE_DIR": str(fake.folder),
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_API_KEY": "sk-dummy-for-tests",
            "WORKSPACE": str(tmp_path),
            "MAX_CONCURRENT": "2",
            "WARM_PROCESSES": "1",
        }
        return quick_settings(shared, **{**usual, **environ})

    return make


def kind(result: Result) -> str | None:
    return None if result.error is None else result.error.kind


async def check_goes_on(shop: Shop, fake: Fake, worker: Worker) -> None:
    """The next task is served, and no process is left that nobody counts."""
    shop.submit("next", "next")
    assert (await shop.async_result("next")).output == "did next"

    def is_settled() -> bool:
        counts = worker.agent.processes()
        return counts["starting"] == counts["busy"] == 0 and len(fake.living()) == sum(counts.values())

    await async_wait_until(is_settled, what="no process too many")


# -- one process


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ("die 5", "agent_died", "ended with exit code 5: segfault in the flux capacitor"),
        ("die 0", "agent_died", "ended with exit code 0"),
        ("kill", "agent_died", "was killed by signal 9"),
        ("garbage", "garbage", "prints no JSON"),
        ("broken", "garbage", "broken line"),
        ("long 50", "line_too_long", "more than 32 MiB"),
        ("bare", "protocol_error", "cannot be understood"),
    ],
)
async def test_a_turn_that_goes_wrong_fails_its_task_alone(
    shop: Shop, settings_of: Settings, fake: Fake, prompt: str, error: str, words: str
) -> None:
    async with open_worker(settings_of()) as worker:
        shop.submit("7", prompt)
        result = await shop.async_result("7", 20)
        assert (result.status, kind(result)) == (TaskStatus.FAILED, error)
        assert result.error is not None
        assert words in result.error.message
        assert result.session_id is not None
        if prompt.startswith("die"):
            assert result.output == "I have begun."
        await check_goes_on(shop, fake, worker)
    assert fake.living() == set()


async def test_a_long_line_that_is_not_too_long_is_taken(shop: Shop, settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of(TASK_TIMEOUT="2")) as worker:
        shop.submit("warm", "warm")
        await shop.async_result("warm")
        # It holds nothing that means anything, and the turn stays open.
        shop.submit("7", "hang 30")
        shop.submit("8", "x" * 1_000_000)
        assert (await shop.async_result("8")).output == "did " + "x" * 1_000_000
        await shop.async_result("7")
        await check_goes_on(shop, fake, worker)


@pytest.mark.parametrize("prompt", ["hang", "deaf"])
async def test_a_turn_that_hangs_times_out(
    shop: Shop, settings_of: Settings, fake: Fake, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setattr(claude_process, "INTERRUPT_TIMEOUT_S", 0.3)
    async with open_worker(settings_of()) as worker:
        shop.submit("warm", "warm")
        await shop.async_result("warm")
        shop.submit("7", prompt, timeout=1)
        result = await shop.async_result("7")
        assert (result.status, kind(result), result.output) == (TaskStatus.TIMED_OUT, "timeout", "I have begun.")
        # Only an orderly end tells the cost.
        assert result.cost_usd == (pytest.approx(0.01) if prompt == "hang" else None)
        await check_goes_on(shop, fake, worker)
    assert fake.living() == set()


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("exit", "agent_died", "ended with exit code 9: cannot find my own feet"),
        ("hang", "agent_hangs", "did not answer within 0.5 s"),
        ("garbage", "garbage", "prints no JSON"),
    ],
)
async def test_a_process_that_does_not_begin(
    shop: Shop,
    settings_of: Settings,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    error: str,
    words: str,
) -> None:
    # Only the one that hangs is waited for to the end; the others may be slow, on a busy machine.
    monkeypatch.setattr(claude_process, "CONNECT_TIMEOUT_S", 0.5 if how == "hang" else 10.0)
    fake.begin_with(how)
    async with open_worker(settings_of(WARM_PROCESSES="0")) as worker:
        shop.submit("7", "hello")
        result = await shop.async_result("7")
        assert (result.status, kind(result)) == (TaskStatus.FAILED, error)
        assert result.error is not None
        assert words in result.error.message
        assert fake.living() == set()
        monkeypatch.setattr(claude_process, "CONNECT_TIMEOUT_S", 10.0)
        fake.begin_with("")
        await check_goes_on(shop, fake, worker)


async def test_a_running_task_is_cancelled_in_good_order(shop: Shop, settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of()) as worker:
        shop.submit("7", "hang")
        await async_wait_until(lambda: fake.log("prompt"))
        (shop.layout.tasks / "7.cancel").touch()
        result = await shop.async_result("7")
        assert (result.status, result.cost_usd) == (TaskStatus.CANCELLED, pytest.approx(0.01))
        await check_goes_on(shop, fake, worker)


# -- limits


@pytest.mark.parametrize("unit", ["s", "ms"])
async def test_a_usage_limit_parks_the_task_for_all_and_it_goes_on_at_the_reset(
    shop: Shop, settings_of: Settings, fake: Fake, shared: Path, unit: str
) -> None:
    second = quick_settings(shared, **environ_of(settings_of(), WORKER_NAME="anga"))
    async with open_worker(settings_of()) as worker, open_worker(second) as other:
        shop.submit("7", f"limit five_hour 2 {unit}")
        await async_wait_until(lambda: worker.dispatcher.parked() is not None, what="the closed gate")
        notice = worker.dispatcher.parked()
        assert notice is not None
        assert (notice.kind, notice.worker) == ("five_hour", "marie")
        assert len(list(shop.layout.gates.glob("*.json"))) == 1
        assert other.dispatcher.parked() == notice
        for parked in (worker, other):
            status, text = await fetch(parked.http_port, "/readyz")
            assert (status, "five hour limit" in text) == (503, True)
        await async_wait_until(lambda: not worker.dispatcher.current_tasks)
        assert worker.pulse.status is WorkerStatus.PAUSED
        assert shop.result("7") is None
        # Before the reset nobody begins anything.
        theirs = Shop(second.layout)
        theirs.submit("8", "theirs")
        result = await shop.async_result("7")
        assert (await theirs.async_result("8")).completed_at >= notice.until
        assert result.completed_at >= notice.until
        assert (result.status, result.attempts) == (TaskStatus.COMPLETED, 1)
        ours = [entry for entry in fake.log("prompt") if entry["prompt"] != "theirs"]
        assert len({entry["session"] for entry in ours}) == 1
        assert len(ours) == 2
        assert ours[1]["prompt"].startswith("You were interrupted")
        assert result.session_id == ours[0]["session"]
        assert worker.dispatcher.parked() is None
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200


def environ_of(settings: WorkerSettings, **changes: str) -> dict[str, str]:
    return {
        **settings.agent_environment,
        "AGENT": "claude",
        "CLAUDE_CLI": str(settings.claude.cli),
        "WORKSPACE": str(settings.workspace),
        "WARM_PROCESSES": "1",
        "MAX_CONCURRENT": "2",
        **changes,
    }


async def test_with_overage_allowed_a_limit_holds_nobody_up(shop: Shop, settings_of: Settings) -> None:
    async with open_worker(settings_of()) as worker:
        shop.submit("7", "limit five_hour 100 s allowed")
        result = await shop.async_result("7")
        assert (result.status, result.output) == (TaskStatus.COMPLETED, "paid for")
        assert worker.dispatcher.parked() is None
    assert not shop.layout.gates.exists()


# -- the pool


def warm(worker: Worker) -> int:
    counts = worker.agent.processes()
    return counts.get("warm", 0) + counts.get("frozen", 0)


async def test_the_warm_ones_are_kept_and_a_dead_one_is_replaced(settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of(WARM_PROCESSES="2")) as worker:
        await async_wait_until(lambda: warm(worker) == 2)
        first = fake.living()
        assert len(first) == 2
        os.kill(first.pop(), signal.SIGKILL)
        await async_wait_until(lambda: len(fake.log("start")) == 3 and warm(worker) == 2)
        await async_wait_until(lambda: len(fake.living()) == 2)
        assert worker.agent.statement() is None
    assert fake.living() == set()


async def test_a_frozen_one_that_dies_is_replaced(settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of()) as worker:
        await async_wait_until(lambda: worker.agent.processes().get("frozen") == 1)
        os.kill(fake.living().pop(), signal.SIGKILL)
        await async_wait_until(lambda: len(fake.log("start")) == 2 and warm(worker) == 1)


async def test_a_process_is_used_again_after_a_clear(shop: Shop, settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of(MAX_CONCURRENT="1")) as worker:
        await async_wait_until(lambda: warm(worker) == 1)
        for number in range(4):
            shop.submit(str(number), f"task {number}")
            await shop.async_result(str(number))
    prompts = fake.log("prompt")
    assert len({entry["pid"] for entry in prompts}) == 1
    assert len({entry["session"] for entry in prompts}) == 4
    assert len(fake.log("start")) == 1, "no more processes than there are slots"
    assert fake.living() == set()


@pytest.mark.parametrize("prompt", ["background", "leave"])
async def test_a_process_with_something_of_its_task_alive_is_not_used_again(
    shop: Shop, settings_of: Settings, fake: Fake, prompt: str
) -> None:
    async with open_worker(settings_of(MAX_CONCURRENT="1")) as worker:
        await async_wait_until(lambda: warm(worker) == 1)
        shop.submit("7", prompt)
        result = await shop.async_result("7")
        assert result.status is TaskStatus.COMPLETED
        await check_goes_on(shop, fake, worker)
        first, second = fake.log("prompt")
        assert first["pid"] != second["pid"]
        if prompt == "leave":
            await async_wait_until(lambda: not Path(f"/proc/{result.output}").exists(), what="its end")


async def test_a_process_that_cannot_be_cleared_is_not_used(shop: Shop, settings_of: Settings, fake: Fake) -> None:
    fake.begin_with("unclearable")
    async with open_worker(settings_of()) as worker:
        await async_wait_until(lambda: worker.agent.statement() is not None)
        assert "did not take its first command" in (worker.agent.statement() or "")
        # A task starts one for itself.
        shop.submit("7", "hello")
        assert (await shop.async_result("7")).output == "did hello"
        await async_wait_until(lambda: fake.living() == set())


async def test_the_process_of_a_session_is_kept_for_it(shop: Shop, settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of()) as worker:
        for number in range(3):
            shop.submit(f"s{number}", f"word {number}", session="talk")
            await shop.async_result(f"s{number}")
            shop.submit(f"o{number}", f"other {number}")
            await shop.async_result(f"o{number}")
        talk = [entry for entry in fake.log("prompt") if entry["prompt"].startswith("word")]
        others = [entry for entry in fake.log("prompt") if entry["prompt"].startswith("other")]
        assert len({(entry["pid"], entry["session"]) for entry in talk}) == 1
        assert talk[0]["pid"] not in {entry["pid"] for entry in others}
        # Its process is gone: the conversation goes on in another one.
        # How many rest beside it depends on how fast one is cleared: up to the number of slots are kept for a while.
        await async_wait_until(
            lambda: not worker.agent.processes()["starting"] and not worker.agent.processes()["busy"]
        )
        resting = warm(worker)
        os.kill(talk[0]["pid"], signal.SIGKILL)
        await async_wait_until(lambda: warm(worker) == resting - 1, what="the worker's notice of it")
        shop.submit("s3", "word 3", session="talk")
        assert (await shop.async_result("s3")).session_id == talk[0]["session"]
        assert [entry["session"] for entry in fake.log("start") if entry["resumed"]] == [talk[0]["session"]]
        await check_goes_on(shop, fake, worker)


async def test_no_more_session_processes_are_kept_than_there_are_slots(
    shop: Shop, settings_of: Settings, fake: Fake
) -> None:
    async with open_worker(settings_of(WARM_PROCESSES="0", MAX_CONCURRENT="2")) as worker:
        for number in range(4):
            shop.submit(str(number), "hello", session=f"session {number}")
            await shop.async_result(str(number))
        await async_wait_until(lambda: len(fake.living()) == 2)
        assert warm(worker) == 2


async def test_failed_starts_back_off_and_are_shown(
    shop: Shop, settings_of: Settings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_pool, "_RESTART_S", (0.1, 0.3, 1000.0))
    fake.begin_with("exit")
    async with open_worker(settings_of()) as worker:
        await async_wait_until(lambda: len(fake.log("start")) == 3)
        status, text = await fetch(worker.http_port, "/readyz")
        assert status == 503
        assert "FAIL agent: The Claude process ended with exit code 9: cannot find my own feet." in text
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        await async_wait_until(lambda: worker.agent.processes()["starting"] == 0)
        assert worker.agent.statement() is not None
        # The third pause is long: no fourth start comes by itself, and a task is not made to wait for one.
        shop.submit("7", "hello")
        assert kind(await shop.async_result("7")) == "agent_died"
        assert len(fake.log("start")) == 4
        fake.begin_with("")
        shop.submit("8", "hello")
        assert (await shop.async_result("8")).status is TaskStatus.COMPLETED
        # What works for a task works for the warm ones.
        await async_wait_until(lambda: worker.agent.statement() is None)
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200


async def test_a_task_waits_for_a_process_that_is_being_cleared(shop: Shop, settings_of: Settings, fake: Fake) -> None:
    async with open_worker(settings_of(MAX_CONCURRENT="1")) as worker:
        await async_wait_until(lambda: warm(worker) == 1)
        fake.hold_clear.touch()
        shop.submit("7", "first")
        await shop.async_result("7")
        shop.submit("8", "second")
        await async_wait_until(lambda: worker.dispatcher.current_tasks == ["8"])
        await anyio.wait_all_tasks_blocked()
        assert len(fake.log("prompt")) == 1
        fake.hold_clear.unlink()
        await shop.async_result("8")
    assert len(fake.log("start")) == 1


async def test_a_task_cancelled_while_it_waits_for_a_process_leaks_none(
    shop: Shop, settings_of: Settings, fake: Fake
) -> None:
    async with open_worker(settings_of(MAX_CONCURRENT="1")) as worker:
        await async_wait_until(lambda: warm(worker) == 1)
        fake.hold_clear.touch()
        shop.submit("7", "first")
        await shop.async_result("7")
        shop.submit("8", "second")
        await async_wait_until(lambda: worker.dispatcher.current_tasks == ["8"])
        (shop.layout.tasks / "8.cancel").touch()
        assert (await shop.async_result("8")).status is TaskStatus.CANCELLED
        fake.hold_clear.unlink()
        await async_wait_until(lambda: warm(worker) == 1)
        await check_goes_on(shop, fake, worker)
        assert len(fake.log("start")) == 1
    assert fake.living() == set()


@pytest.mark.parametrize("served", [False, True])
async def test_a_worker_that_ends_while_a_process_is_cleared_closes_it(
    shop: Shop, settings_of: Settings, fake: Fake, served: bool
) -> None:
    if not served:
        fake.hold_clear.touch()
    async with open_worker(settings_of(MAX_CONCURRENT="1")) as worker:
        if served:
            await async_wait_until(lambda: warm(worker) == 1)
            fake.hold_clear.touch()
            shop.submit("7", "first")
            await shop.async_result("7")
        await async_wait_until(lambda: len(fake.log("clear")) == 1 + served)
    assert fake.living() == set()
    # A stream that nobody closed says so when it is collected, and a warning is an error.
    gc.collect()


async def test_a_task_cancelled_while_its_process_starts_leaks_none(
    shop: Shop, settings_of: Settings, fake: Fake
) -> None:
    fake.begin_with("hang")
    async with open_worker(settings_of(WARM_PROCESSES="0")) as worker:
        shop.submit("7", "hello")
        await async_wait_until(lambda: fake.log("start"))
        (shop.layout.tasks / "7.cancel").touch()
        assert (await shop.async_result("7")).status is TaskStatus.CANCELLED
        await async_wait_until(lambda: fake.living() == set())
        fake.begin_with("")
        await check_goes_on(shop, fake, worker)


async def test_a_worker_that_stops_while_processes_start_leaves_none(settings_of: Settings, fake: Fake) -> None:
    fake.begin_with("hang")
    async with open_worker(settings_of(WARM_PROCESSES="2", SHUTDOWN_GRACE="0")):
        await async_wait_until(lambda: fake.log("start"))
    assert fake.living() == set()
