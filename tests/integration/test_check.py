"""`codehornets check` with real workers: all well in every mode, and each thing broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent_bus.pipes import open_for_reading
from orchestrator_service import cli
from tests.integration.harness import ChildWorker, Shop, child_worker
from tests.integration.orchestrator_process import processes
from tests.mounts import SmallDisk
from tests.redis_server import running_redis
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(90)

PIPED = ("hooks", "hybrid")
USUAL = ["heartbeat", "process", "directories", "/healthz", "/readyz", "trigger", "latency", "log"]
OF_PIPES = ["hook rules", "pipes", "round trip"]


class Checker:
    """Runs the command on one shared directory, in this process."""

    def __init__(self, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._shared = shared
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Return the exit code and the lines of both outputs."""
        self._capsys.readouterr()
        code = cli.run(["check", "--shared-dir", str(self._shared), *arguments])
        said = self._capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    def json(self, *arguments: str) -> dict[str, dict[str, object]]:
        """Return the findings of one worker by what was looked at."""
        _, lines = self.run("--json", *arguments)
        told = json.loads("\n".join(lines))
        return {check["subject"]: check for check in told["checks"]}


@pytest.fixture
def check(shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Checker:
    for name in ("SHARED_DIR", "REDIS_URL", "REDIS_URL_FILE"):
        monkeypatch.delenv(name, raising=False)
    return Checker(shared, capsys)


@pytest.fixture
def hybrid(shared: Path) -> Iterator[ChildWorker]:
    """A worker with all that can be broken, whose heartbeat is soon stale."""
    with child_worker(shared, WORKER_MODE="hybrid", HEARTBEAT_INTERVAL="0.5") as worker:
        worker.port()
        yield worker


def failures(lines: list[str]) -> dict[str, str]:
    """Return the lines that failed, by what was looked at."""
    marked = [line.removeprefix("✗ FAIL: marie: ") for line in lines if line.startswith("✗ FAIL: marie: ")]
    return {line.partition(": ")[0]: line for line in marked}


@pytest.mark.parametrize("mode", ["polling", "event-driven", "hooks", "hybrid"])
def test_a_sound_worker_passes_in_every_mode(mode: str, shared: Path, shop: Shop, check: Checker) -> None:
    with child_worker(shared, WORKER_MODE=mode, POLL_INTERVAL="0.05") as worker:
        worker.port()
        code, lines = check.run("marie", "--task", "--triggers", "3")
    subjects = [line.split(": ")[2] for line in lines if line.startswith("✓ PASS: marie: ")]
    assert sorted(subjects) == sorted([*USUAL, "task", *(OF_PIPES if mode in PIPED else [])]), lines
    assert code == 0
    assert [f"Passed: {len(subjects)}", "Failed: 0"] == [line for line in lines if line[:6] in ("Passed", "Failed")]
    bell = "a look every 0.05 s" if mode == "polling" else "inotify"
    assert any(f"published and counted, by {bell}" in line for line in lines)
    # The triggers were events, and the one task has its result: nothing of the check is left.
    assert len(shop.result_ids()) == 1
    assert list(shop.layout.triggers.glob("*field-check*")) == []
    assert shop.letters() == []


def test_nothing_that_runs_is_a_mistake_of_whoever_asked(check: Checker, shop: Shop) -> None:
    assert check.run()[0] == 2
    assert check.run("nobody")[0] == 2
    assert check.run("--triggers", "-1")[0] == 2
    assert check.run("--max-latency", "0")[0] == 2
    code, lines = check.run("marie", "--triggers", "0")
    assert code == 1
    assert "there is none in" in failures(lines)["heartbeat"]
    assert "codehornets up" in failures(lines)["heartbeat"]


def test_a_dead_worker_fails_and_gets_no_trigger(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    hybrid.kill()
    path = shop.layout.heartbeat("marie")
    stale = json.loads(path.read_text()) | {"timestamp": "2020-01-01T00:00:00Z"}
    path.write_text(json.dumps(stale))
    code, lines = check.run("--task")
    broken = failures(lines)
    assert code == 1
    assert "allowed are 1.5" in broken["heartbeat"]
    assert f"{hybrid.pid} is not there (start it" in broken["process"]
    assert {"/healthz", "/readyz"} <= set(broken)
    left = [line for line in lines if line.startswith("- LEFT OUT: ")]
    assert [line.split(": ")[2] for line in left] == ["round trip", "trigger", "latency", "task"]
    assert f"Left out: {len(left)}" in lines
    assert list(shop.layout.triggers.glob("*.trigger")) == []


def test_a_held_worker_is_told_from_a_dead_one(hybrid: ChildWorker, check: Checker) -> None:
    hybrid.send(signal.SIGSTOP)
    wait_until(lambda: " T " in Path(f"/proc/{hybrid.pid}/stat").read_text())
    code, lines = check.run("marie")
    assert code == 1
    assert f"{hybrid.pid} is stopped (SIGSTOP) (`kill -CONT {hybrid.pid}`)" in failures(lines)["process"]
    assert "/healthz" in failures(lines)
    hybrid.send(signal.SIGCONT)
    wait_until(lambda: check.run("marie")[0] == 0, 20)


def test_a_pipe_that_is_a_file_fails(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    pipe = shop.layout.control_pipe("marie")
    pipe.unlink()
    pipe.write_text("")
    code, lines = check.run("marie", "--triggers", "1")
    assert code == 1
    assert list(failures(lines)) == ["pipes"]
    assert f"{pipe} is no named pipe (`rm {pipe}`;" in failures(lines)["pipes"]
    # The mend that it names is one.
    pipe.unlink()
    wait_until(lambda: check.run("marie", "--triggers", "0")[0] == 0, 20)


def test_wrong_rules_fail_with_the_field(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    rules = shop.layout.hooks_config / "marie-hooks.json"
    rules.parent.mkdir(exist_ok=True)
    rules.write_text('[{"name": "x", "event": "Stop", "action": {"type": "log", "path": "/etc/passwd"}}]')
    code, lines = check.run("marie", "--triggers", "0")
    assert code == 1
    assert list(failures(lines)) == ["hook rules"]
    assert "rule 'x', action.path is '/etc/passwd'" in failures(lines)["hook rules"]
    rules.unlink()
    rules.mkdir()
    assert "cannot be read" in failures(check.run("marie", "--triggers", "0")[1])["hook rules"]


def test_the_rules_and_places_of_its_own_environment_count(shared: Path, tmp_path: Path, check: Checker) -> None:
    rules, logs = tmp_path / "rules.json", tmp_path / "logs"
    rules.write_text("[]")
    settings = {"WORKER_MODE": "hooks", "HOOKS_CONFIG": str(rules), "LOG_DIR": str(logs), "LOG_LEVEL": "WARNING"}
    with child_worker(shared, **settings) as worker:
        worker.port()
        rules.write_text("nonsense")
        # What is logged begins with a warning; without one there is no log, and nothing wrong.
        found = check.json("marie", "--triggers", "0")
        assert found["log"]["grade"] == "note"
        assert str(logs) in str(found["log"]["text"])
        assert str(rules) in str(found["hook rules"]["text"])
        assert found["hook rules"]["grade"] == "broken"


def test_a_missing_directory_fails_with_its_mend(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    shutil.rmtree(shop.layout.results)
    code, lines = check.run("marie", "--triggers", "0")
    assert code == 1
    assert f"{shop.layout.results} is not there (`mkdir -p {shop.layout.results}`" in failures(lines)["directories"]


def test_a_directory_that_is_not_writable_fails(
    shop: Shop, small_disk: Callable[[Path, int], SmallDisk], hybrid: ChildWorker, check: Checker
) -> None:
    for place in (shop.layout.results, shop.layout.triggers):
        small_disk(place, 65_536)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    code, lines = check.run("marie", "--triggers", "1")
    broken = failures(lines)
    assert code == 1
    assert f"is not writable for user id {os.geteuid()} (mend its owner or mode" in broken["directories"]
    assert "takes no file: Read-only file system" in broken["trigger"]


def test_a_log_that_is_gone_or_torn_fails(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    log = shop.layout.log("marie")
    whole = log.read_bytes()
    log.write_bytes(whole + b"what is this\n")
    assert "has a line that is no JSON: what is this" in failures(check.run("marie", "--triggers", "0")[1])["log"]
    log.unlink()
    assert f"there is no {log}" in failures(check.run("marie", "--triggers", "0")[1])["log"]


def test_a_paused_worker_works(hybrid: ChildWorker, check: Checker) -> None:
    assert cli.run(["control", "marie", "pause", "--shared-dir", str(hybrid._layout.shared)]) == 0
    found = check.json("marie", "--triggers", "1")
    assert found["heartbeat"]["grade"] == "note"
    assert found["trigger"]["grade"] == "good"
    # It would take no task now, and says why.
    assert found["/readyz"]["grade"] == "broken"


def test_the_latency_is_judged_by_a_bound_of_ones_own(hybrid: ChildWorker, check: Checker) -> None:
    found = check.json("marie", "--triggers", "2", "--max-latency", "0.001")
    latency = found["latency"]
    assert latency["grade"] == "broken"
    assert "the median may be 0.001 ms" in str(latency["text"])
    figures = latency["figures"]
    assert isinstance(figures, dict)
    assert figures["triggers"] == 2
    assert 0 < figures["minimum_ms"] <= figures["median_ms"] <= figures["maximum_ms"]


def test_the_check_takes_no_event_from_a_reader(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    reader = open_for_reading(shop.layout.status_pipe("marie"))
    try:
        shop.submit("7")
        wait_until(lambda: shop.result("7"))
        code, lines = check.run("marie", "--triggers", "1")
        assert code == 0, lines
        told: list[dict[str, Any]] = []

        def both_triggers_told() -> bool:
            with suppress(BlockingIOError):
                told.extend(json.loads(line) for line in os.read(reader, 65_536).splitlines())
            return sum(event["event"] == "trigger" for event in told) == 2

        # The worker answers the check before it tells others.
        wait_until(both_triggers_told)
    finally:
        os.close(reader)
    events = [event["event"] for event in told if event.get("task_id") == "7"]
    assert events[0] == "task_started", told
    assert events[-1] == "task_ended", told


def test_processes_and_ports_of_another_host_are_left_out(shop: Shop, hybrid: ChildWorker, check: Checker) -> None:
    found = check.json("marie", "--triggers", "0", "--no-process")
    assert found["process"]["grade"] == "left out"
    assert found["/healthz"]["grade"] == "good"
    hybrid.kill()
    path = shop.layout.heartbeat("marie")
    told = json.loads(path.read_text())
    elsewhere = {"instance": f"elsewhere-{told['pid']}-1", "timestamp": "2020-01-01T00:00:00Z"}
    path.write_text(json.dumps(told | elsewhere))
    left = {name: one["text"] for name, one in check.json("marie").items() if one["grade"] == "left out"}
    assert {"process", "/healthz", "/readyz"} <= set(left)
    assert "it runs elsewhere, as elsewhere-" in str(left["process"])


def test_a_worker_that_redis_alone_wakes_is_rung_for(shared: Path, tmp_path: Path, check: Checker) -> None:
    with (
        running_redis(tmp_path / "redis") as server,
        child_worker(shared, ACTIVATION_MODE="redis", REDIS_URL=server.url, RESCAN_INTERVAL="1") as worker,
    ):
        worker.port()
        code, lines = check.run("marie", "--triggers", "2", "--redis", server.url)
        assert code == 0, lines
        assert any("2 triggers by Redis messages" in line for line in lines)
        found = check.json("marie", "--triggers", "2")
        assert "a look every 1 s" in str(found["trigger"]["text"])
        assert found["latency"]["grade"] == "left out"


def test_the_orchestrator_is_checked_with_the_team(shared: Path, check: Checker) -> None:
    with processes(shared) as started:
        orchestrator = started.orchestrator(LOG_LEVEL="INFO")
        worker = started.worker("anga", LOG_LEVEL="INFO")
        worker.ready()
        with orchestrator.client():
            pass
        code, lines = check.run("--triggers", "1")
        assert code == 0, lines
        mine = [line.split(": ")[2] for line in lines if line.startswith("✓ PASS: orchestrator: ")]
        assert mine == ["heartbeat", "process", "/healthz", "/readyz", "log"]
        orchestrator.kill()
        code, lines = check.run("orchestrator")
        assert code == 1
        assert any(line.startswith("✗ FAIL: orchestrator: process: ") for line in lines)
