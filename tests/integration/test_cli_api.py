"""The command line with a real orchestrator and real workers, and what it does where the API is away."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from orchestrator_service import cli
from orchestrator_service.cli.completion import complete_task, complete_worker
from orchestrator_service.settings import orchestrator_heartbeat
from tests.integration.api_stub import Stub, running_stub, tell_of
from tests.integration.test_cli_live import CHECKOUT, COMMAND, Running, Team
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

TEAM = """
[orchestrator]
http_port = 0
[workers.ann]
role = "first"
skills = ["dance"]
[workers.bob]
role = "marketing"
agent = "command"
agent_command = "sh -c 'read line; case $line in fail*) exit 3;; sleep*) sleep 60;; *) echo done: $line;; esac'"
"""

GRAPH = """
tasks:
  plan: {description: Plan it., role: first}
  write: {description: "Write {{results.plan.output}}", dependencies: [plan], worker: bob}
"""

Run = Callable[..., int]


def clean_environment(home: Path) -> dict[str, str]:
    dropped = (
        "SHARED_DIR",
        "WORKER_",
        "REDIS_",
        "ANTHROPIC_",
        "CLAUDE_",
        "MODEL",
        "OUTPUT_STYLE",
        "API_",
        "CODEHORNETS",
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return environ | {"AGENT": "echo", "PYTHONPATH": str(CHECKOUT), "SHUTDOWN_GRACE": "1", "HOME": str(home)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Team, Running]]:
    """A team that runs for all tests of this module."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "team.toml").write_text(TEAM)
    team = Team(folder, clean_environment(folder))
    with team.up() as running:
        yield team, running


@pytest.fixture
def here(served: tuple[Team, Running], monkeypatch: pytest.MonkeyPatch) -> Team:
    """The team, with this process in its folder."""
    team, _ = served
    monkeypatch.chdir(team.folder)
    for name in ("SHARED_DIR", "REDIS_URL", "REDIS_URL_FILE", "API_TOKEN", "API_TOKEN_FILE", "CODEHORNETS_URL"):
        monkeypatch.delenv(name, raising=False)
    return team


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was printed to stdout since the last time."""
    return lambda: capsys.readouterr().out


def test_up_tells_of_the_orchestrator_and_status_does_too(
    served: tuple[Team, Running], here: Team, output: Callable[[], str]
) -> None:
    beat = read_heartbeat(orchestrator_heartbeat(here.shared))
    assert beat is not None
    assert f"Dashboard: http://127.0.0.1:{beat.http_port}" in served[1].text
    assert "2 of 2 workers ready" in served[1].text

    assert cli.run(["status"]) == 0

    assert f"The orchestrator is up: http://127.0.0.1:{beat.http_port}" in output()
    assert cli.run(["status", "--json"]) == 0
    assert [worker["worker"] for worker in json.loads(output())] == ["ann", "bob"]


def test_a_task_by_role_is_waited_for_and_told_of(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["submit", "--role", "First", "Say hello", "--id", "role-1", "--title", "A greeting", "--wait"]) == 0
    assert output() == "Say hello\n"
    assert cli.run(["result", "role-1"]) == 0
    assert output() == "Say hello\n"

    assert cli.run(["task", "role-1"]) == 0
    told = output()
    assert "title     A greeting\nstate     completed\nfor       any first\n" in told
    assert [line.partition("  ")[2] for line in told.splitlines()[-6:]] == [
        "handed in",
        "ready",
        "try 1: sent to ann by file",
        "try 1: begun",
        "try 1: completed",
        "completed",
    ]
    assert cli.run(["task", "role-1", "--json"]) == 0
    assert json.loads(output())["runs"][0]["worker"] == "ann"
    assert cli.run(["logs", "--task", "role-1"]) == 0
    assert "task ended" in output()


def test_the_exit_codes_are_those_of_the_files(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["submit", "bob", "fail", "--id", "bad", "--wait"]) == 1
    assert cli.run(["submit", "bob", "sleep", "--timeout", "0.3", "--wait"]) == 3
    assert cli.run(["submit", "bob", "x", "--id", "late", "--not-before", "+1h", "--wait-timeout", "0.2"]) == 5
    assert cli.run(["result", "late"]) == 5
    assert cli.run(["cancel", "late"]) == 0
    assert cli.run(["result", "late", "--wait"]) == 4
    assert cli.run(["cancel", "late"]) == 2
    assert cli.run(["submit", "bob", "x", "--id", "late"]) == 2
    assert "Task late is cancelled." in output()


def test_what_failed_is_tried_again(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["submit", "bob", "fail", "--id", "again", "--wait"]) == 1
    assert cli.run(["retry", "again"]) == 0
    assert cli.run(["result", "again", "--wait"]) == 1
    assert cli.run(["task", "again", "--json"]) == 0
    assert [run["wire_id"] for run in json.loads(output().partition("\n")[2])["runs"]] == ["again", "again+2"]


def test_a_task_waits_for_another_and_the_list_says_so(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["submit", "ann", "x", "--id", "base", "--not-before", "+1h"]) == 0
    assert cli.run(["submit", "ann", "y", "--id", "above", "--depends-on", "base"]) == 0
    output()

    assert cli.run(["tasks", "--state", "blocked", "--state", "scheduled"]) == 0
    listed = output()
    assert "above" in listed and "base" in listed
    assert cli.run(["tasks", "--state", "blocked", "--json"]) == 0
    page = json.loads(output())
    assert [(task["task_id"], task["waits_for"]["kind"]) for task in page["tasks"]] == [("above", "dependencies")]
    assert page["more"] is False
    assert cli.run(["cancel", "base"]) == 0
    assert cli.run(["result", "above", "--wait"]) == 1


def test_all_pages_and_no_more(here: Team, output: Callable[[], str]) -> None:
    for number in range(3):
        assert cli.run(["submit", "ann", "x", "--id", f"page-{number}"]) == 0
    output()
    assert cli.run(["tasks", "--limit", "2", "--worker", "ann"]) == 0
    assert "There are more than these 2" in output()
    assert cli.run(["tasks", "--limit", "2", "--all", "--json"]) == 0
    assert len(json.loads(output())["tasks"]) >= 3


def test_a_graph_is_handed_in_and_waited_for(here: Team, output: Callable[[], str]) -> None:
    (here.folder / "graph.yaml").write_text(GRAPH)
    assert cli.run(["graph", "graph.yaml", "--wait"]) == 0
    assert output().count("completed") == 2

    assert cli.run(["graph", "graph.yaml", "--json"]) == 0
    graph_id = json.loads(output())["graph_id"]
    assert cli.run(["result", f"{graph_id}.write", "--wait"]) == 0
    assert output() == "done: Write Plan it.\n\n"

    (here.folder / "bad.yaml").write_text(
        GRAPH.replace("Plan it.", "x").replace("role: first", "worker: bob").replace("x,", "fail,")
    )
    assert cli.run(["graph", "bad.yaml", "--wait", "--json"]) == 1
    assert [task["state"] for task in json.loads(output())["tasks"]] == ["failed", "failed"]

    (here.folder / "cycle.yaml").write_text("tasks: {a: {description: x, dependencies: [a]}}")
    assert cli.run(["graph", "cycle.yaml"]) == 2


def test_a_worker_is_held_and_let_go(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["pause", "ann"]) == 0
    assert output().startswith("ann gets no new tasks from the orchestrator until it is resumed")
    assert cli.run(["submit", "ann", "x", "--id", "held", "--wait-timeout", "0.2"]) == 5
    assert cli.run(["resume", "ann", "--json"]) == 0
    assert json.loads(output())["worker"]["paused"] is False
    assert cli.run(["result", "held", "--wait"]) == 0
    assert cli.run(["pause", "nobody"]) == 2


def test_schedules_come_and_go(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["schedules", "add", "daily", "0 8 * * *", "Good morning", "--worker", "ann"]) == 0
    assert cli.run(["schedules", "pause", "daily"]) == 0
    output()
    assert cli.run(["schedules"]) == 0
    assert "daily" in (listed := output()) and "paused" in listed
    assert cli.run(["schedules", "resume", "daily"]) == 0
    assert cli.run(["schedules", "remove", "daily"]) == 0
    output()
    assert cli.run(["schedules", "list", "--json"]) == 0
    assert json.loads(output()) == []
    assert cli.run(["schedules", "add", "daily", "nonsense", "x"]) == 2
    assert cli.run(["schedules", "add", "daily", "0 8 * * *", "x", "--overlap", "maybe"]) == 2


def test_the_rest_of_the_questions(here: Team, output: Callable[[], str]) -> None:
    assert cli.run(["budget"]) == 0
    assert "no limit" in output()
    assert cli.run(["goals"]) == 0
    assert "There is no goal yet" in output()
    assert cli.run(["top"]) == 0
    assert "At work" in (shown := output()) and "bob" in shown
    assert cli.run(["top", "--json"]) == 0
    assert [worker["name"] for worker in json.loads(output())["workers"]] == ["ann", "bob"]
    assert cli.run(["logs", "orchestrator"]) == 0
    assert "ready" in output()
    assert cli.run(["doctor", "--json"]) == 0
    subjects = [finding["subject"] for finding in json.loads(output())]
    assert "orchestrator" in subjects and "rule" in subjects


def test_a_shell_completes_names_and_ids(here: Team) -> None:
    assert cli.run(["submit", "ann", "x", "--id", "complete-me", "--wait"]) == 0
    assert complete_worker("b") == ["bob"]
    assert complete_task("complete-") == ["complete-me"]
    environ = {"_CODEHORNETS_COMPLETE": "complete_bash", "COMP_WORDS": "codehornets pause a", "COMP_CWORD": "2"}
    asked = Team(here.folder, here.environ | environ).run()
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "ann\n", "")
    assert "_CODEHORNETS_COMPLETE" in here.run("--show-completion", "bash").stdout


def test_watch_and_a_followed_log_end_with_what_they_watch(here: Team) -> None:
    assert cli.run(["submit", "ann", "x", "--id", "followed", "--not-before", "+1h"]) == 0
    with here.running("logs", "--task", "followed", "-f") as following:
        following.wait_for("task submitted")
        watched = Team(here.folder / "shared", here.environ | {"SHARED_DIR": str(here.shared)})
        with watched.running("watch", "--json") as watching:
            watching.wait_for("Watching all workers by http://127.0.0.1")
            assert cli.run(["cancel", "followed"]) == 0
            watching.wait_for('"task_ended"')
            watching.process.send_signal(signal.SIGINT)
            assert watching.process.wait(timeout=20) == 130
        assert following.process.wait(timeout=20) == 0
    assert "task ended" in following.text


def test_waiting_outlives_an_orchestrator_that_is_killed(served: tuple[Team, Running], here: Team) -> None:
    beat = read_heartbeat(orchestrator_heartbeat(here.shared))
    assert beat is not None
    assert cli.run(["submit", "ann", "still here", "--id", "survivor", "--not-before", "+3s"]) == 0
    waiting_place = Team(here.folder / "shared", here.environ | {"SHARED_DIR": str(here.shared)})
    with waiting_place.running("result", "survivor", "--wait") as waiting:
        os.kill(beat.pid, signal.SIGKILL)
        waiting.wait_for("still here")
        assert waiting.process.wait(timeout=20) == 0
    assert "orchestrator was killed by SIGKILL" in served[1].text


class Terminal:
    """A command that runs on a terminal, and what it shows there."""

    def __init__(self, team: Team, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        environ = team.environ | {"TERM": "xterm", "SHARED_DIR": str(team.shared), "COLUMNS": "120", "LINES": "40"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=team.folder, env=environ, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def wait_for(self, text: str) -> None:
        def there() -> bool:
            while select.select([self._master], [], [], 0)[0]:
                try:
                    self.shown += os.read(self._master, 65_536).decode(errors="replace")
                except OSError:
                    break
            return text in self.shown

        wait_until(there, 30)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)


def test_ctrl_c_ends_a_waiting_that_shows_itself_at_once(here: Team) -> None:
    assert cli.run(["submit", "ann", "x", "--id", "not-yet", "--not-before", "+1h"]) == 0
    with Terminal(here, "result", "not-yet", "--wait") as terminal:
        terminal.wait_for("task submitted")
        terminal.process.send_signal(signal.SIGINT)
        # The question itself would wait for half a minute.
        assert terminal.process.wait(timeout=15) == 130
    assert cli.run(["cancel", "not-yet"]) == 0


def test_top_shows_what_happens_until_q(here: Team) -> None:
    with Terminal(here, "top") as terminal:
        terminal.wait_for("Ended last")
        assert cli.run(["submit", "ann", "x", "--title", "Seen in top"]) == 0
        terminal.wait_for("Seen in top")
        terminal.type(b"q")
        assert terminal.process.wait(timeout=15) == 0


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as stub:
        yield stub


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerLayout:
    """A shared directory with worker marie, without any process."""
    monkeypatch.chdir(tmp_path)
    for name in ("SHARED_DIR", "REDIS_URL", "REDIS_URL_FILE", "API_TOKEN", "API_TOKEN_FILE", "CODEHORNETS_URL"):
        monkeypatch.delenv(name, raising=False)
    layout = WorkerLayout.under(tmp_path / "shared", "marie")
    for path in (layout.triggers, layout.tasks, layout.results, layout.heartbeats):
        path.mkdir(parents=True)
    return layout


def test_a_discovered_api_that_is_away_is_done_without(alone: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    tell_of(alone.shared, free_port())

    assert cli.run(["submit", "marie", "x", "--id", "t1"]) == 0

    said = capsys.readouterr()
    assert said.out == "t1\n"
    assert "does not answer" in said.err and "going on without it" in said.err
    assert (alone.triggers / "task-t1.trigger").exists()
    assert cli.run(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(task["task_id"], task["state"]) for task in listed["tasks"]] == [("t1", "waiting")]


@pytest.mark.parametrize("option", [True, False])
def test_a_named_api_that_is_away_is_an_error(
    alone: WorkerLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: bool
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    if not option:
        monkeypatch.setenv("CODEHORNETS_URL", url)

    assert cli.run(["submit", "marie", "x", *(["--api", url] if option else [])]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"The API at {url} does not answer" in error
    assert list(alone.triggers.iterdir()) == []


@pytest.mark.parametrize(
    "stale",
    [{"status": "stopped"}, {"timestamp": "2020-01-01T00:00:00Z"}, {"component": "watcher"}, {"http_port": None}],
)
def test_a_heartbeat_that_says_nothing_is_not_asked(
    alone: WorkerLayout, capsys: pytest.CaptureFixture[str], stub: Stub, stale: dict[str, object]
) -> None:
    tell_of(alone.shared, stub.port, **stale)
    assert cli.run(["submit", "marie", "x"]) == 0
    assert stub.asked == []
    assert cli.run(["goal", "x"]) == 2
    assert "`goal` needs the orchestrator, and there is none; start it with" in capsys.readouterr().err


def test_a_typed_directory_means_itself_whatever_the_environment_names(
    alone: WorkerLayout, monkeypatch: pytest.MonkeyPatch, stub: Stub
) -> None:
    monkeypatch.setenv("CODEHORNETS_URL", stub.url)
    assert cli.run(["submit", "marie", "x", "--shared-dir", "shared"]) == 0
    assert stub.asked == []


def test_other_ways_are_taken_when_they_are_asked_for(alone: WorkerLayout, stub: Stub) -> None:
    tell_of(alone.shared, stub.port)
    assert cli.run(["submit", "marie", "x", "--via", "file"]) == 0
    assert stub.asked == []


def test_a_task_that_the_orchestrator_does_not_know_is_looked_for_in_the_files(
    alone: WorkerLayout, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_of(alone.shared, stub.port)
    (alone.triggers / "task-direct.trigger").write_text('{"description": "x"}')
    assert cli.run(["result", "direct"]) == 5
    assert "it is waiting at marie" in capsys.readouterr().err
    assert cli.run(["cancel", "direct"]) == 0
    assert (alone.tasks / "direct.cancel").exists()
    assert cli.run(["result", "direct", "--api", stub.url, "--shared-dir", "none"]) == 2
    assert "knows no task direct" in capsys.readouterr().err


def test_an_order_that_may_have_arrived_is_asked_again_under_the_same_key(
    alone: WorkerLayout, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_of(alone.shared, stub.port)
    stub.answers[("POST", "/tasks")] = lambda asked, handler: (
        None if len(stub.asked) < 2 else stub.answers.pop(("POST", "/tasks")) and None
    )
    assert cli.run(["submit", "marie", "x"]) == 2
    keys = {asked.headers["Idempotency-Key"] for asked in stub.asked}
    assert len(stub.asked) == 3 and len(keys) == 1
    # Nothing went to the files: the order may have been taken.
    assert list(alone.triggers.iterdir()) == []


def test_a_goal_is_followed_to_its_synthesis(
    alone: WorkerLayout, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    goal = {
        "goal_id": "g1",
        "goal": "x",
        "state": "running",
        "submitted_by": "local",
        "submitted_at": "2026-01-01T00:00:00Z",
        "ended_at": None,
        "session_id": None,
        "output": None,
        "error": None,
        "task_ids": [],
        "max_tasks": 5,
        "max_depth": 1,
        "timeout": 9.0,
        "max_budget_usd": 1.0,
        "agent_cost_usd": None,
        "cost_usd": 0.0,
        "metadata": {},
    }
    ended = {**goal, "state": "failed", "ended_at": "2026-01-01T00:00:09Z", "output": "so far", "task_ids": ["a", "b"]}
    stub.answer("POST", "/goals", goal, 201)
    stub.answer("GET", "/goals/g1", ended)
    says = json.dumps({"event": "goal_says", "data": {"text": "I split it.\u001b[31m"}})
    stub.stream("/goals/g1/events", f"id: 1\nevent: goal_says\ndata: {says}\n\n".encode())

    assert cli.run(["goal", "Win", "--budget", "1", "--max-tasks", "5", "--api", stub.url]) == 1

    said = capsys.readouterr()
    assert stub.asked[0].body == {"goal": "Win", "max_tasks": 5, "max_budget_usd": 1.0}
    assert said.out == "so far\n"
    assert "I split it.[31m\n" in said.err and "\u001b" not in said.err
    assert "Goal g1: failed, 2 tasks, $0.00." in said.err


def test_the_token_is_sent_and_never_shown(
    alone: WorkerLayout, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("a-very-secret-token\n")
    stub.answer("GET", "/budget", {"status": 403, "detail": "The role read is needed."}, 403)
    assert cli.run(["budget", "--api", stub.url, "--token-file", "token"]) == 2
    assert stub.asked[0].headers["Authorization"] == "Bearer a-very-secret-token"
    said = capsys.readouterr().err
    assert "The role read is needed; give a token" in said
    assert "secret-token" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["budget", "--api", "nonsense"], "--api is 'nonsense'; allowed is a URL such as"),
        (["budget", "--api", "http://user:pass@h/"], "--api is 'a text with an @'"),
        (["budget", "--api", "http://h:99999"], "allowed is a URL"),
        (["budget", "--token-file", "none", "--api", "http://h"], "--token-file is 'none', which cannot be read"),
        (["submit", "marie", "x", "--via", "api"], "--via is 'api', and there is none; start it with `codehornets up`"),
        (["submit", "--role", "r", "x"], "--role needs the orchestrator, and there is none"),
        (["submit", "marie", "x", "--retries", "2"], "--retries needs the orchestrator"),
        (["submit", "marie", "x", "--role", "r"], "A worker was named beside --role"),
        (["submit", "marie", "x", "--deadline", "soon"], "--deadline is 'soon'; allowed is a moment such as"),
        (["submit"], "Missing argument"),
        (["tasks", "--state", "blocked"], "--state is 'blocked'; allowed without the orchestrator are waiting"),
        (["tasks", "--graph", "g"], "--goal or --graph needs the orchestrator"),
        (["task", "none"], "No task none in"),
        (["task", "../x"], "is no task id"),
        (["retry", "x"], "`retry` needs the orchestrator"),
        (["top"], "`top` needs the orchestrator"),
        (["graph", "none.yaml"], "none.yaml cannot be read: No such file"),
        (["schedules"], "`schedules` needs the orchestrator"),
        (["goal", " "], "`goal` needs the orchestrator"),
    ],
)
def test_a_mistake_is_one_sentence(
    alone: WorkerLayout, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_the_taken_port_of_another_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stub: Stub
) -> None:
    from orchestrator_service.cli import up
    from orchestrator_service.team import read_team

    (tmp_path / "team.toml").write_text("[workers.ann]\n")
    team = read_team(tmp_path / "team.toml")
    monkeypatch.setattr(up, "wanted_port", lambda team, environ: str(stub.port))
    monkeypatch.delenv("HTTP_PORT", raising=False)
    children = up._orchestrator(team, tmp_path)
    assert children[0].environ["HTTP_PORT"] == "0"
    assert f"Port {stub.port} is taken" in capsys.readouterr().out
    monkeypatch.setenv("HTTP_PORT", str(stub.port))
    assert up._orchestrator(team, tmp_path)[0].environ["HTTP_PORT"] == str(stub.port)


def test_files_show_their_tasks_newest_first(alone: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("old", "new")):
        trigger = alone.triggers / f"task-{name}.trigger"
        trigger.write_text("{}")
        os.utime(trigger, (1000 + number, 1000 + number))
    (alone.results / "done.json").write_text("not a result")
    assert cli.run(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["tasks"]
    assert [(task["task_id"], task["state"]) for task in listed] == [
        ("done", "unreadable"),
        ("new", "waiting"),
        ("old", "waiting"),
    ]
    assert cli.run(["tasks", "--limit", "1", "--state", "waiting", "--json"]) == 0
    assert [task["task_id"] for task in json.loads(capsys.readouterr().out)["tasks"]] == ["new"]
