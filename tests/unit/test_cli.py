"""The command line without any worker: what is written, printed and refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.heartbeats import write_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, Result, Task, TaskError, TaskStatus, WorkerStatus, utc_now
from orchestrator_service import cli
from orchestrator_service.cli.commands import app

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerLayout:
    """A shared directory `./shared` that worker marie has used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARED_DIR", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    layout = WorkerLayout.under(tmp_path / "shared", "marie")
    for path in (layout.triggers, layout.tasks, layout.results, layout.heartbeats, layout.logs, layout.events):
        path.mkdir(parents=True)
    return layout


def beat(layout: WorkerLayout, **changes: object) -> None:
    fields = {
        "worker": "marie",
        "instance": "host-1-a",
        "timestamp": utc_now(),
        "status": WorkerStatus.IDLE,
        "mode": "event-driven",
        "pid": 4_000_000,
        "version": "1",
        "bells": ["inotify", "interval"],
        "http_port": 8123,
        "agent": "echo",
        **changes,
    }
    write_heartbeat(layout.heartbeat("marie"), Heartbeat.model_validate(fields))


def put_result(
    layout: WorkerLayout, task_id: str, status: TaskStatus, output: str = "", why: str | None = None
) -> None:
    now = utc_now()
    error = None if why is None else TaskError(kind="x", message=why)
    result = Result(
        task_id=task_id,
        worker="marie",
        instance="i",
        status=status,
        output=output,
        error=error,
        completed_at=now,
        timestamp=now,
    )
    layout.result(task_id).write_text(result.model_dump_json())


def bury(layout: WorkerLayout, name: str, body: str, task_id: str | None = None) -> DeadLetter:
    source = layout.triggers / name
    source.write_text(body)
    letter = DeadLetter(
        name="",
        original_name=name,
        reason="malformed",
        message="it is not valid JSON",
        worker="marie",
        instance="i",
        buried_at=utc_now(),
        task_id=task_id,
    )
    return DeadLetterBox(layout).bury(source, letter)


def test_help_lists_every_command() -> None:
    answer = CliRunner().invoke(app, ["--help"])

    assert answer.exit_code == 0
    for command in ("up", "worker", "submit", "result", "cancel", "status", "logs", "dead-letters", "doctor", "init"):
        assert command in answer.output


def test_help_loads_neither_the_bus_messages_nor_an_event_loop() -> None:
    code = (
        "import sys\nfrom orchestrator_service.cli import run\nrun(['--help'])\n"
        "heavy = {'pydantic', 'agent_bus.messages', 'anyio', 'asyncio', 'asyncinotify', 'redis', 'claude_agent_sdk'}\n"
        "print('loaded', sorted(heavy & set(sys.modules) - set(BASE)), file=sys.stderr)"
    )
    # What typer itself needs is not ours to judge.
    base = "import typer, rich.console, typer.rich_utils, sys\nBASE = set(sys.modules)\n"
    run = subprocess.run([sys.executable, "-c", base + code], capture_output=True, text=True, check=True)

    assert run.stderr.strip() == "loaded []"


@pytest.mark.parametrize("arguments", [["status"], ["submit", "marie", "x"], ["result", "none"], ["tasks"]])
def test_what_files_can_answer_loads_no_http(place: WorkerLayout, arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom orchestrator_service.cli import run\nrun({arguments!r})\n"
        "heavy = {'httpx', 'http.client', 'yaml', 'fastapi', 'mcp', 'orchestrator_service.client.calls'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)

    assert run.stderr.strip().splitlines()[-1] == "loaded []"


def test_submit_puts_one_whole_trigger_in_place_and_prints_the_id(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    beat(place)
    arguments = ["submit", "marie", "Plan it", "--priority", "high", "--timeout", "9", "--session", "s1"]

    assert cli.run(arguments) == 0

    captured = capsys.readouterr()
    task_id = captured.out.strip()
    assert captured.err == ""
    assert [path.name for path in place.triggers.iterdir()] == [f"task-{task_id}.trigger"]
    task = Task.model_validate_json((place.triggers / f"task-{task_id}.trigger").read_bytes())
    assert (task.task_id, task.description, task.worker) == (task_id, "Plan it", "marie")
    assert (task.priority, task.timeout, task.session) == (75, 9.0, "s1")
    assert task.created_at is not None


def test_two_submits_never_share_an_id(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert [cli.run(["submit", "marie", "x"]) for _ in range(2)] == [0, 0]

    assert len(set(capsys.readouterr().out.split())) == 2


def test_submit_says_when_nobody_is_there_to_take_it(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["submit", "marie", "x", "--json"]) == 0

    captured = capsys.readouterr()
    assert "marie does not run now; the task waits for it" in captured.err
    assert Path(json.loads(captured.out)["trigger"]).is_file()


@pytest.mark.parametrize("arguments", [["-"], ["--file", "-"]])
def test_submit_reads_standard_input(
    place: WorkerLayout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("né\n".encode())))

    assert cli.run(["submit", "marie", "--id", "t1", *arguments]) == 0

    task = Task.model_validate_json((place.triggers / "task-t1.trigger").read_bytes())
    assert task.description == "né\n"


def test_submit_reads_a_file(place: WorkerLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.md").write_text("from a file")

    assert cli.run(["submit", "marie", "--id", "t1", "--file", "prompt.md"]) == 0

    assert "from a file" in (place.triggers / "task-t1.trigger").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["submit", "bob", "x"], "No worker 'bob' in"),
        (["submit", "marie"], "There is no prompt"),
        (["submit", "marie", " "], "The prompt is empty"),
        (["submit", "marie", "x", "--file", "y"], "both given"),
        (["submit", "marie", "--file", "none"], "none cannot be read: No such file"),
        (["submit", "marie", "--file", "."], ". cannot be read: Is a directory"),
        (["submit", "marie", "x", "--priority", "soon"], "--priority is 'soon'; allowed are low, normal, high, urgent"),
        (["submit", "marie", "x", "--timeout", "-1"], "field timeout is -1.0"),
        (["submit", "marie", "x", "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["submit", "marie", "x", "--id", "../x"], "field task_id is '../x'"),
        (["submit", "marie", "x", "--shared-dir", "none"], "There is no shared directory"),
        (["result", "../../etc/passwd"], "is no task id"),
        (["result", "unknown"], "No task unknown in"),
        (["cancel", "unknown"], "has a task unknown"),
        (["cancel", "x", "--worker", "bob"], "No worker 'bob'"),
        (["logs"], "Name a worker"),
        (["logs", "bob"], "No worker 'bob'"),
        (["logs", "marie"], "marie has no log"),
        (["logs", "--task", "unknown"], "has no events"),
        (["dead-letters", "show", "none"], "No dead letter 'none'"),
        (["dead-letters", "list", "--worker", "bob"], "No worker 'bob'"),
        (["worker", "bob"], "No worker 'bob' in"),
        (["worker", "marie", "--agent", "gpt"], "--agent is 'gpt'; allowed are auto, claude, command, echo"),
        (["up", "--team", "none.toml"], "none.toml cannot be read"),
        (["up", "--once"], "--once stops after a task"),
        (["up", "--task", "nonsense"], "--task is 'nonsense'; allowed is 'WORKER: PROMPT'"),
        (["up", "--task", "bob: x"], "No worker 'bob'"),
        (["nonsense"], "No such command 'nonsense'"),
        (["status", "--nonsense"], "No such option"),
        (["submit"], "Missing argument"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert cli.run(arguments) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert captured.err.startswith("codehornets: ")
    assert captured.err.count("\n") == 1


def test_a_prompt_that_is_no_text_is_refused(
    place: WorkerLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\x00")

    assert cli.run(["submit", "marie", "--file", "binary"]) == 2
    assert "binary is not UTF-8 text (byte 0)" in capsys.readouterr().err


def test_an_id_that_is_used_is_refused(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    put_result(place, "t1", TaskStatus.COMPLETED)

    assert cli.run(["submit", "marie", "x", "--id", "t1"]) == 2
    assert "t1 has its result in" in capsys.readouterr().err
    assert list(place.triggers.iterdir()) == []


def test_a_wrong_team_file_is_told_by_the_commands_that_need_it(
    place: WorkerLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "team.toml").write_text("x = 1\n[workers.a]")

    assert cli.run(["status"]) == 2
    assert "x is 1, and there is no such key" in capsys.readouterr().err
    assert cli.run(["status", "--shared-dir", "shared"]) == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (TaskStatus.COMPLETED, 0),
        (TaskStatus.FAILED, 1),
        (TaskStatus.TIMED_OUT, 3),
        (TaskStatus.CANCELLED, 4),
    ],
)
def test_the_exit_code_tells_how_a_task_ended(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str], status: TaskStatus, code: int
) -> None:
    put_result(place, "t1", status, output="so far", why=None if code == 0 else "because")

    assert cli.run(["result", "t1"]) == code

    captured = capsys.readouterr()
    assert captured.out == "so far\n"
    assert ("because" in captured.err) == (code != 0)


def test_a_result_as_json_is_the_whole_result(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    put_result(place, "t1", TaskStatus.COMPLETED, output="done")

    assert cli.run(["result", "t1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == "done"


def test_without_a_result_it_is_told_where_the_task_is(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["submit", "marie", "x", "--id", "t1"]) == 0
    capsys.readouterr()

    assert cli.run(["result", "t1"]) == 5
    assert "it is waiting at marie" in capsys.readouterr().err


def test_waiting_gives_up_when_told_to(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["submit", "marie", "x", "--id", "t1", "--wait-timeout", "0.05"]) == 5
    assert "t1 has no result yet" in capsys.readouterr().err


def test_waiting_ends_for_a_task_that_was_set_aside_without_a_result(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    bury(place, "task-t1.trigger", "{")

    assert cli.run(["result", "t1", "--wait"]) == 1
    assert "Task t1 was set aside: it is not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        "triggers/marie/task-t1.trigger",
        "tasks/marie/t1.json",
        "tasks/marie/released/2~abc~task-t1.trigger",
        "tasks/marie/inflight/host-1/1~abc~t1.json",
        "triggers/marie/other-name.trigger",
    ],
)
def test_cancel_finds_the_task_wherever_it_is_and_leaves_a_marker(
    place: WorkerLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    file = tmp_path / "shared" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"task_id": "t1", "description": "x"}')

    assert cli.run(["cancel", "t1"]) == 0

    assert (place.tasks / "t1.cancel").is_file()
    assert capsys.readouterr().out == "marie was told to cancel task t1.\n"


def test_a_task_that_has_ended_cannot_be_cancelled(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    put_result(place, "t1", TaskStatus.COMPLETED)

    assert cli.run(["cancel", "t1"]) == 2
    assert "has ended already (completed)" in capsys.readouterr().err


def test_status_tells_the_living_from_the_dead(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    beat(place, slots=4, probe_age_seconds=7.0)
    claims = place.inflight / "host-1-a"
    claims.mkdir(parents=True)
    (claims / "1~abc~task-t9.trigger").touch()
    (place.triggers / "a.trigger").touch()
    assert cli.run(["status"]) == 0
    living = capsys.readouterr().out
    for word in ("marie", "busy", "1/4 t9", "echo", "event-driven", "inotify", "7 s", ":8123"):
        assert word in living

    beat(place, timestamp="2020-01-01T00:00:00Z")
    assert cli.run(["status", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)[0]
    assert (state["worker"], state["status"], state["queue_depth"]) == ("marie", "down", 1)


def test_logs_are_lines_for_people_and_reach_into_the_file_before(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    log = place.log("marie")
    line = '{"timestamp": "2026-01-01T10:00:00.000+00:00", "level": "%s", "message": "%s", "action": "x", "count": 3}\n'
    log.with_name(f"{log.name}.1").write_text(line % ("info", "first"))
    log.write_text(line % ("info", "second") + line % ("warning", "th\\u001b[2Jird") + "not json\n" + '{"torn')

    assert cli.run(["logs", "marie", "-n", "4"]) == 0

    shown = capsys.readouterr().out.splitlines()
    assert [part.split(" ", 2)[2] for part in shown[:3]] == [
        "info    first  count=3",
        "info    second  count=3",
        "warning th[2Jird  count=3",
    ]
    assert shown[3:] == ["not json"]
    assert cli.run(["logs", "marie", "-n", "1", "--json"]) == 0
    assert capsys.readouterr().out == "not json\n"


def test_the_events_of_a_task_are_lines_for_people(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    event = {
        "event": "tool_use",
        "timestamp": "2026-01-01T10:00:00Z",
        "worker": "marie",
        "task_id": "t1",
        "data": {"id": "toolu_1", "name": "Bash", "input": {"command": "ls\n-l"}},
    }
    place.event_journal("t1").write_text(json.dumps(event) + "\n")

    assert cli.run(["logs", "--task", "t1"]) == 0
    assert capsys.readouterr().out.endswith("tool use Bash · ls -l\n")


def test_dead_letters_are_listed_shown_replayed_and_dropped(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    bury(place, "task-a.trigger", "{\x1b", "a")
    bury(place, "b.trigger", "{{")

    assert cli.run(["dead-letters"]) == 0
    listed = capsys.readouterr().out
    assert "task-a.trigger" in listed
    assert "b.trigger" in listed
    assert cli.run(["dead-letters", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert cli.run(["dead-letters", "show", "a"]) == 0
    shown = capsys.readouterr().out
    assert "malformed: it is not valid JSON" in shown
    assert shown.endswith("\n\n{\n")
    assert cli.run(["dead-letters", "replay", "a"]) == 0
    assert (place.triggers / "task-a.trigger").read_text() == "{\x1b"
    assert cli.run(["dead-letters", "drop", "b.trigger"]) == 0
    assert list(place.dead_letters.iterdir()) == []


def test_a_slip_in_one_of_several_names_does_nothing_at_all(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = bury(place, "b.trigger", "{{")

    assert cli.run(["dead-letters", "drop", "b.trigger", "c.trigger"]) == 2
    assert (place.dead_letters / letter.name).exists()


def test_init_writes_a_team_to_edit_and_overwrites_nothing(
    place: WorkerLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["init", "new team"]) == 0
    assert (tmp_path / "new team" / "output-styles" / "marie.md").is_file()
    assert "codehornets up" in capsys.readouterr().out

    (tmp_path / "new team" / "team.toml").write_text("mine")
    assert cli.run(["init", "new team"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "new team" / "team.toml").read_text() == "mine"


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out.startswith("codehornets ")


@pytest.mark.parametrize("count", [0, 1, 3, 700, 5000])
def test_the_last_lines_are_right_however_long_the_log_is(
    place: WorkerLayout, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    lines = [f'{{"number": {number}, "text": "{"x" * (number % 400)}"}}' for number in range(3000)]
    place.log("marie").write_text("\n".join(lines) + "\n")

    assert cli.run(["logs", "marie", "--json", "-n", str(count)]) == 0
    assert capsys.readouterr().out.splitlines() == (lines[-count:] if count else [])


def test_output_to_a_full_disk_is_one_sentence(place: WorkerLayout) -> None:
    command = [sys.executable, "-c", "from orchestrator_service.cli import main; main()", "status", "--json"]

    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env={"PYTHONPATH": str(CHECKOUT)}, text=True, check=False
        )

    assert run.returncode == 2
    assert run.stderr == "codehornets: No space left on device.\n"


def test_the_numbers_of_an_event_come_with_their_names(place: WorkerLayout, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"subtype": "success", "is_error": False, "num_turns": 1, "cost_usd": 0.00014000000000000001}
    event = {"event": "result", "timestamp": "2026-01-01T10:00:00Z", "worker": "marie", "data": data}
    place.event_journal("t1").write_text(json.dumps(event) + "\n")

    assert cli.run(["logs", "--task", "t1"]) == 0
    assert capsys.readouterr().out.endswith("result success · num_turns 1 · cost_usd 0.00014\n")
