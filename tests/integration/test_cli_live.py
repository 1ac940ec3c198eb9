"""The real command with real workers and the echo agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from tests.integration.test_supervisor import is_running
from tests.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from orchestrator_service.cli import main; main()"]

TEAM = """
[orchestrator]
http_port = 0
[workers.ann]
role = "first"
[workers.bob]
"""


@dataclass(frozen=True)
class Team:
    """A team file in a folder of its own, and the command run there."""

    folder: Path
    environ: dict[str, str]

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    def layout(self, worker: str) -> WorkerLayout:
        return WorkerLayout.under(self.shared, worker)

    def run(self, *arguments: str, stdin: str = "", timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @contextmanager
    def running(self, *arguments: str) -> Iterator[Running]:
        """Start the command and end it, in whatever way it is left."""
        output = self.folder / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=self.folder, env=self.environ, stdout=stream, stderr=stream
            )
        try:
            yield Running(process, output)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=40)

    @contextmanager
    def up(self, *arguments: str) -> Iterator[Running]:
        """Start the team and wait until it says that it is ready."""
        with self.running("up", *arguments) as running:
            running.wait_for("See them work")
            yield running

    def pid(self, worker: str) -> int:
        beat = read_heartbeat(self.layout(worker).heartbeat(worker))
        assert beat is not None
        return beat.pid


@dataclass(frozen=True)
class Running:
    """A command that runs, and the file that it writes to."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        def there() -> bool:
            assert self.process.poll() is None or text in self.text, self.text
            return text in self.text

        wait_until(there, 40)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """A team of ann and bob with the echo agent."""
    (tmp_path / "team.toml").write_text(TEAM)
    dropped = ("SHARED_DIR", "WORKER_", "REDIS_", "ANTHROPIC_", "CLAUDE_", "MODEL", "OUTPUT_STYLE")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environ |= {"AGENT": "echo", "PYTHONPATH": str(CHECKOUT), "SHUTDOWN_GRACE": "2", "HOME": str(tmp_path)}
    return Team(tmp_path, environ)


def test_up_says_where_things_are_and_ctrl_c_leaves_nothing_behind(team: Team) -> None:
    with team.up() as running:
        text = running.text
        assert "2 of 2 workers ready" in text
        assert re.search(r"ann +first +agent echo +http://127\.0\.0\.1:\d+/readyz", text)
        assert f"Shared directory: {team.shared}" in text
        assert "echo agent stands in for Claude, since no credentials were found, at ann, bob" in text
        pids = [team.pid("ann"), team.pid("bob")]
        assert all(map(is_running, pids))

        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=30) == 0

    assert "All workers have stopped." in running.text
    assert not any(map(is_running, pids))
    status = json.loads(team.run("status", "--json").stdout)
    assert {state["worker"]: state["status"] for state in status} == {"ann": "stopped", "bob": "stopped"}


def test_one_task_and_done(team: Team) -> None:
    done = team.run("up", "--task", "bob: say this", "--once", timeout_s=50)

    assert done.returncode == 0, done.stderr
    assert "\nsay this\n" in done.stdout
    [result] = team.layout("bob").results.glob("*.json")
    assert json.loads(result.read_bytes())["output"] == "say this"


def test_a_whole_life_from_submit_to_result(team: Team) -> None:
    with team.up():
        waited = team.run("submit", "ann", "-", "--wait", stdin="one\ntwo")
        assert (waited.returncode, waited.stdout) == (0, "one\ntwo\n")

        handed_in = team.run("submit", "bob", "later", "--json")
        task_id = json.loads(handed_in.stdout)["task_id"]
        result = team.run("result", task_id, "--wait", "--json")
        assert json.loads(result.stdout)["output"] == "later"
        assert team.run("cancel", task_id).returncode == 2

        refused = team.run("submit", "ann", "--file", "-", stdin="x" * 2_000_000)
        assert (refused.returncode, "at most 900000 characters" in refused.stderr) == (2, True)
        too_long = team.run("submit", "ann", "--file", "-", "--wait", "--via", "file", stdin="x" * 2_000_000)
        assert too_long.returncode == 1
        assert "was set aside: it has 2,000," in too_long.stderr

        status = team.run("status")
        assert re.search(r"ann +idle +\d+ s +0/10", status.stdout)
        log = team.run("logs", "bob")
        assert f"task {task_id} completed" in log.stdout
        assert team.run("dead-letters").stdout.count("too large") == 1


def test_a_killed_worker_comes_back_and_its_queue_goes_on(team: Team) -> None:
    with team.up() as running:
        first = team.pid("ann")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: team.pid("ann") != first, 30)
        assert "ann was killed by SIGKILL; it is started again in" in running.text

        assert team.run("submit", "ann", "still there?", "--wait").stdout == "still there?\n"


def test_workers_stop_when_the_supervisor_is_killed(team: Team) -> None:
    with team.up() as running:
        pids = [team.pid("ann"), team.pid("bob")]
        running.process.kill()
        running.process.wait(timeout=10)

        wait_until(lambda: not any(map(is_running, pids)), 20)


def test_a_worker_with_a_wrong_setting_is_told_and_the_others_serve(team: Team) -> None:
    (team.folder / "team.toml").write_text(TEAM + 'environment = { POLL_INTERVAL = "soon" }')

    with team.up() as running:
        assert "POLL_INTERVAL is 'soon'; allowed is" in running.text
        assert "bob has a wrong setting, see its line above; it is not started again." in running.text
        assert "1 of 2 workers ready" in running.text
        assert team.run("submit", "ann", "hello", "--wait").stdout == "hello\n"


def test_up_ends_with_2_when_no_worker_has_right_settings(team: Team) -> None:
    team.environ["POLL_INTERVAL"] = "soon"

    assert team.run("up", timeout_s=50).returncode == 2


def test_a_task_for_a_worker_that_is_not_ready_fails_the_run(team: Team) -> None:
    (team.folder / "team.toml").write_text(TEAM + 'environment = { POLL_INTERVAL = "soon" }')

    done = team.run("up", "--task", "bob: x", "--once", timeout_s=50)

    assert done.returncode == 1
    assert "The task was not given, since bob is not ready." in done.stdout


def test_one_worker_alone_in_the_foreground(team: Team) -> None:
    with team.running("worker", "ann") as running:
        running.wait_for("ready: event-driven mode")
        # The command became the worker: a container's signals reach it.
        assert team.pid("ann") == running.process.pid
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=20) == 0


def test_logs_follow_across_a_rotation(team: Team, tmp_path: Path) -> None:
    log = team.layout("ann").log("ann")
    team.layout("ann").triggers.mkdir(parents=True)
    log.parent.mkdir(parents=True)
    log.write_text('{"message": "one"}\n')

    with team.running("logs", "ann", "-f", "--json") as running:
        running.wait_for("one")
        with log.open("a") as stream:
            stream.write('{"message": "two"}\n{"message": "th')
        running.wait_for("two")
        with log.open("a") as stream:
            stream.write('ree"}\n')
        log.rename(log.with_name(f"{log.name}.1"))
        log.write_text('{"message": "four"}\n')
        running.wait_for("four")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=10) == 130

    assert [json.loads(line)["message"] for line in running.text.splitlines()] == ["one", "two", "three", "four"]


def _until_waiting(team: Team) -> Callable[[], bool]:
    return lambda: any(team.layout("ann").triggers.glob("task-t1.trigger"))


def test_ctrl_c_while_waiting_leaves_the_task_and_ends_with_130(team: Team) -> None:
    team.layout("ann").triggers.mkdir(parents=True)

    with team.running("submit", "ann", "x", "--id", "t1", "--wait") as running:
        wait_until(_until_waiting(team), 20)
        running.wait_for("ann does not run now")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=10) == 130

    assert "Traceback" not in running.text
    assert _until_waiting(team)()


def test_a_reader_that_leaves_ends_the_command_without_a_word(team: Team) -> None:
    log = team.layout("ann").log("ann")
    team.layout("ann").triggers.mkdir(parents=True)
    log.parent.mkdir(parents=True)
    log.write_text('{"message": "line"}\n' * 50_000)

    with subprocess.Popen(
        [*COMMAND, "logs", "ann", "-n", "50000"],
        cwd=team.folder,
        env=team.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=20) == 141


def test_a_team_goes_on_when_nobody_reads_what_it_says_any_more(team: Team) -> None:
    with subprocess.Popen(
        [*COMMAND, "up"], cwd=team.folder, env=team.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        wait_until(lambda: "ann" in team.run("status").stdout, 30)
        assert team.run("submit", "ann", "still?", "--wait").stdout == "still?\n"
        process.send_signal(signal.SIGTERM)
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(timeout=30) == 0
