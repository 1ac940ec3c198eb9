"""`codehornets control` and `codehornets watch` with real workers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from agent_bus.layout import WorkerLayout
from tests.integration.harness import Shop, child_worker
from tests.integration.test_cli_live import Team, team
from tests.waiting import wait_until

__all__ = ["team"]

pytestmark = pytest.mark.timeout(90)


def test_each_command_is_answered(team: Team, shop: Shop, shared: Path) -> None:
    team.environ["SHARED_DIR"] = str(shared)
    with child_worker(shared, WORKER_MODE="hybrid", AGENT="command", AGENT_COMMAND="sleep 60") as worker:
        worker.port()
        status = team.run("control", "marie", "status")
        assert json.loads(status.stdout)["mode"] == "hybrid"
        paused = team.run("control", "marie", "pause")
        assert (paused.returncode, paused.stdout) == (0, "marie takes no new tasks until it is told to resume.\n")
        assert "paused" in team.run("status").stdout
        shop.submit("7")
        assert team.run("control", "marie", "cancel", "7").stdout == "marie cancels task 7, which was waiting.\n"
        unknown = team.run("control", "marie", "cancel", "8", "--json")
        assert unknown.returncode == 1
        assert json.loads(unknown.stdout)["answer"]["message"] == "no task 8 runs or waits here"
        assert team.run("control", "marie", "resume").returncode == 0
        wait_until(lambda: shop.result("7"))
        assert team.run("control", "marie", "shutdown").stdout.startswith("marie ends;")
        assert worker.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("marie", "dance"), "'dance' is no command; there are status, pause"),
        (("marie", "cancel"), "cancel needs the id of a task."),
        (("marie", "cancel", "../x"), "is no task id"),
        (("marie", "status", "7"), "status takes no task id."),
        (("nobody", "status"), "No worker 'nobody'"),
        (("marie", "status"), "marie does not listen on"),
    ],
)
def test_what_cannot_be_sent_is_told_in_a_sentence(
    team: Team, shop: Shop, shared: Path, arguments: tuple[str, ...], words: str
) -> None:
    team.environ["SHARED_DIR"] = str(shared)
    said = team.run("control", *arguments)
    assert said.returncode == 2
    assert words in said.stderr
    assert said.stderr.count("\n") == 1


def test_watch_shows_what_happens_from_now_on(team: Team, shop: Shop, shared: Path, layout: WorkerLayout) -> None:
    team.environ["SHARED_DIR"] = str(shared)
    with child_worker(shared, AGENT="command", AGENT_COMMAND="sh -c 'cat; exit 3'") as worker:
        worker.port()
        shop.submit("before", "the past")
        wait_until(lambda: shop.result("before"))
        with team.running("watch", "marie") as watching:
            watching.wait_for("Watching marie")
            shop.submit("7", "the present")
            watching.wait_for("task ended failed")
            watching.process.send_signal(signal.SIGINT)
            assert watching.process.wait(timeout=20) == 130
    text = watching.text
    assert "marie    7" in text
    assert "output the present" in text
    assert "the past" not in text


def test_watch_says_so_when_there_is_nothing_to_watch(team: Team) -> None:
    (team.folder / "shared").mkdir()
    assert "No worker has run on" in team.run("watch").stderr
