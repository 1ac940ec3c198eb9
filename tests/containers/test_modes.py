"""Every mode of the composed team: healthy, at work, killed, stopped and restarted, with nothing lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.conftest import remove
from tests.containers.stack import TEAM, Stack
from tests.standin.messages_api import MessagesApi, Seen, hang, reply, tool_use
from tests.waiting import wait_until

pytestmark = [pytest.mark.claude]


@dataclass(frozen=True)
class Mode:
    """How a mode is asked for, and what it promises."""

    name: str
    variables: dict[str, str]
    profiles: tuple[str, ...]
    line: str
    """What a worker's start line says of it."""
    has_pipes: bool
    has_password: bool = False


MODES = [
    Mode("polling", {}, (), "in mode polling (a timer)", has_pipes=False),
    Mode("activated", {"ACTIVATION_WRAPPER": "1"}, ("activated",), "in mode event-driven (inotify)", has_pipes=False),
    Mode("hooks", {"HOOKS_MODE": "1"}, ("hooks",), "in mode hooks (inotify, control pipe)", has_pipes=True),
    Mode(
        "hybrid",
        {"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1"},
        ("hybrid", "monitoring"),
        "in mode hybrid (inotify, control pipe, Redis)",
        has_pipes=True,
        has_password=True,
    ),
    Mode(
        "redis",
        {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"},
        ("activated", "redis"),
        "in mode event-driven (Redis)",
        has_pipes=False,
    ),
]


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: mode.name)
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture(scope="module")
def stack(
    mode: Mode,
    new_stack: Callable[..., Stack],
    api: MessagesApi,
    team_dir: Path,
    secrets_dir: Path,
    reaching_host: tuple[Path, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """A running team in that mode, for all tests of this module."""
    secrets = secrets_dir
    if not mode.has_password:
        secrets = tmp_path_factory.mktemp("secrets-without")
        secrets.chmod(0o755)
        for path in secrets_dir.iterdir():
            (secrets / path.name).write_text("" if path.name == "redis_password" else path.read_text())
            (secrets / path.name).chmod(0o644)
    stack = new_stack(
        mode.variables,
        mode.profiles,
        reaching_host,
        TEAM_DIR=str(team_dir),
        SECRETS_DIR=str(secrets),
        ANTHROPIC_BASE_URL=api.url.replace("0.0.0.0", "host.containers.internal"),
    )
    stack.seconds_to_healthy = stack.up()
    yield stack
    remove(stack)


def test_all_services_are_healthy_soon(stack: Stack, mode: Mode) -> None:
    services = stack.services()
    assert set(services) >= {*TEAM, "orchestrator"}
    assert ("redis" in services) == (mode.name in ("hybrid", "redis"))
    stack.say(f"up to healthy in {stack.seconds_to_healthy:.1f} s: {', '.join(sorted(services))}")
    assert stack.seconds_to_healthy < 60


def test_each_service_says_how_it_starts(stack: Stack, mode: Mode) -> None:
    for worker in TEAM:
        line = stack.logs(worker).splitlines()[0]
        assert line.startswith(f"container: worker {worker} starts {mode.line}, agent "), line
    stack.say(stack.logs("marie").splitlines()[0])
    orchestrator = stack.logs("orchestrator").splitlines()[0]
    assert orchestrator.startswith("container: orchestrator starts with team /etc/codehornets/team.toml")
    assert ("no Redis" in orchestrator) == (mode.name not in ("hybrid", "redis"))


def test_a_file_becomes_a_result(stack: Stack) -> None:
    stack.drop("fabien", "dropped", "hello from a file")
    result = stack.result("fabien", "dropped")
    assert (result["status"], result["output"]) == ("completed", "hello from a file")
    wait_until(lambda: stack.state("dropped") == "completed", 40, "the result in the ledger")


def test_the_api_answers_on_loopback_to_who_has_the_token(stack: Stack) -> None:
    assert stack.call("GET", "/tasks", token="").status_code == 401
    task = stack.submit(worker="anga", description="hello from the API")
    assert stack.answer(task) == "hello from the API"


def test_the_command_line_in_the_orchestrators_container_has_the_token(stack: Stack) -> None:
    told = stack.exec("orchestrator", "codehornets", "submit", "fabien", "by hand", "--wait")
    assert told.stdout.splitlines()[-1] == "by hand"


def test_pipe_commands_are_answered_where_the_mode_has_pipes(stack: Stack, mode: Mode) -> None:
    assert (
        stack.exec("anga", "test", "-p", "/shared/pipes/anga-control", check=False).returncode == 0
    ) == mode.has_pipes
    told = stack.exec("orchestrator", "codehornets", "control", "anga", "status", check=False)
    if not mode.has_pipes:
        return
    assert told.returncode == 0, told.stderr
    by_hand = "timeout 10 cat /shared/pipes/anga-status & sleep 0.3; echo status > /shared/pipes/anga-control; wait"
    lines = [json.loads(line) for line in stack.shell("anga", by_hand, check=False).splitlines()]
    answers = [line["data"] for line in lines if line["event"] == "answer"]
    assert answers and answers[0]["ok"] and answers[0]["source"] == "pipe", lines


def test_claude_code_works_and_its_hooks_write_what_the_rules_say(stack: Stack, mode: Mode, api: MessagesApi) -> None:
    write = {"file_path": "/workspace/plan.md", "content": f"Eight lessons, {mode.name}.\n"}
    api.when(f"plan in {mode.name}", tool_use("Write", write), reply("The plan is written."))
    task = stack.submit(worker="marie", description=f"Please make a plan in {mode.name}")
    assert stack.answer(task) == "The plan is written."
    assert stack.shell("marie", "cat /workspace/plan.md") == f"Eight lessons, {mode.name}.\n"
    events = [
        json.loads(line)["event"]
        for line in stack.shell("marie", f"cat /shared/events/marie/{task}.jsonl").splitlines()
    ]
    trigger = f"/shared/triggers/orchestrator/marie-review-{task}.trigger"
    log = "/shared/watcher-logs/marie-files.log"
    if mode.has_pipes:
        assert "hook" in events
        told = json.loads(stack.wait_in("marie", f"[ -e {trigger} ]", f"cat {trigger}"))
        assert (told["event"], told["file"], told["task_id"]) == ("review", "/workspace/plan.md", task)
        assert f"{task} Write /workspace/plan.md" in stack.shell("marie", f"cat {log}")
    else:
        assert "hook" not in events
        assert stack.shell("marie", f"ls {trigger} {log}", check=False) == ""


def began_work(api: MessagesApi, prompt: str) -> None:
    """Let Claude take one step for this prompt and then think for ever."""
    api.when(prompt, tool_use("Bash", {"command": "echo step-one-done"}), hang(reply("never said")))


def wait_for_step(stack: Stack, api: MessagesApi, prompt: str) -> None:
    api.wait_for_request(lambda seen: prompt in seen.prompt and bool(seen.tool_results), 60)
    # The transcript is written a moment behind the request that it describes.
    folder = "/home/codehornets/.claude/projects"
    stack.wait_in("marie", f"grep -rqs step-one-done {folder}", timeout=30)


def resumes(api: MessagesApi, prompt: str, text: str) -> None:
    """Answer what an interrupted conversation that began with this prompt is told at its next start."""

    def goes_on(seen: Seen) -> bool:
        return "You were interrupted" in seen.prompt and prompt in json.dumps(seen.body)

    api.when(goes_on, reply(text))


def test_a_worker_killed_at_work_goes_on_in_its_conversation(stack: Stack, mode: Mode, api: MessagesApi) -> None:
    prompt = f"build in {mode.name}"
    began_work(api, prompt)
    task = stack.submit(worker="marie", description=f"Please {prompt}, step by step")
    wait_for_step(stack, api, prompt)
    resumes(api, prompt, "resumed and finished")
    stack.kill("marie")
    stack.start("marie")
    result = stack.result("marie", task, 60)
    assert (result["status"], result["output"], result["attempts"]) == ("completed", "resumed and finished", 2)
    events = stack.shell("marie", f"cat /shared/events/marie/{task}.jsonl").splitlines()
    sessions = {event["data"]["session_id"] for event in map(json.loads, events) if event["event"] == "prompt"}
    assert sessions == {result["session_id"]}
    stack.say(f"task {task}: killed at work, went on in the same conversation, one result after 2 attempts")


def test_the_orchestrator_killed_with_a_task_out_finds_its_result(stack: Stack, mode: Mode, api: MessagesApi) -> None:
    prompt = f"wait in {mode.name}"
    api.when(prompt, hang(reply("waited")))
    before = stack.submit(worker="marie", description=f"Please {prompt}")
    api.wait_for_request(lambda seen: prompt in seen.prompt, 60)
    stack.kill("orchestrator")
    # Its worker does not miss it.
    stack.drop_all("fabien", {"meanwhile": {"description": "without it"}}, through="fabien")
    api.release()
    stack.start("orchestrator")
    for task in (before, "meanwhile"):
        wait_until(lambda task=task: stack.state(task) == "completed", 60, f"the end of {task}")  # type: ignore[misc]
    assert stack.answer(before) == "waited"


def test_a_stop_in_the_middle_of_a_task_ends_in_time_and_releases_it(
    stack: Stack, mode: Mode, api: MessagesApi
) -> None:
    prompt = f"stop in {mode.name}"
    api.hold_again()
    began_work(api, prompt)
    task = stack.submit(worker="marie", description=f"Please {prompt}, step by step")
    wait_for_step(stack, api, prompt)
    seconds = stack.stop(*TEAM, "orchestrator")
    stack.say(f"stopped in {seconds:.1f} s with a task at work")
    assert seconds < 60
    assert {service: stack.exit_code(service) for service in (*TEAM, "orchestrator")} == {
        service: 0 for service in (*TEAM, "orchestrator")
    }
    resumes(api, prompt, "went on after the stop")
    stack.compose("start", *TEAM, "orchestrator", shown=True)
    stack.wait_healthy()
    result = stack.result("marie", task, 60)
    assert (result["status"], result["output"]) == ("completed", "went on after the stop")


def test_a_rolling_restart_under_load_loses_and_doubles_nothing(stack: Stack, mode: Mode) -> None:
    expected: dict[str, str] = {}
    done = threading.Event()
    troubles: list[BaseException] = []

    def load() -> None:
        number = 0
        try:
            while not done.is_set():
                for worker in ("anga", "fabien"):
                    number += 1
                    expected[stack.submit(worker=worker, description=f"api {number}")] = f"api {number}"
                files = {f"file-{number}-{worker}": worker for worker in ("anga", "fabien")}
                for task, worker in files.items():
                    stack.drop(worker, task, f"text of {task}")
                    expected[task] = f"text of {task}"
        except BaseException as error:
            troubles.append(error)

    sending = threading.Thread(target=load)
    sending.start()
    try:
        for worker in TEAM:
            stack.compose("up", "-d", "--no-deps", "--force-recreate", worker, shown=True)
            stack.wait_healthy(worker)
    finally:
        done.set()
        sending.join()
    assert not troubles, troubles[0]
    for task in expected:
        wait_until(lambda task=task: stack.state(task) == "completed", 90, f"the end of {task}")  # type: ignore[misc]
    listing = "cd /shared/results && for w in anga fabien; do for f in $w/*.json; do cat $f; echo; done; done"
    results = [json.loads(line) for line in stack.shell("orchestrator", listing).splitlines() if line.strip()]
    told = [(result["task_id"], result["output"].strip()) for result in results if result["task_id"] in expected]
    assert sorted(told) == sorted(expected.items())
    ends = stack.shell(
        "orchestrator", 'cd /shared/events && grep -c \'"event": *"result"\' anga/*.jsonl fabien/*.jsonl || true'
    )
    assert {line.rsplit(":", 1)[1] for line in ends.splitlines()} <= {"0", "1"}, ends
    buried = stack.shell("orchestrator", "ls /shared/tasks/*/dead-letter")
    assert ".json" not in buried and ".trigger" not in buried
    stack.say(f"{len(expected)} tasks while every worker was made anew: 0 lost, 0 doubled")
    assert len(expected) >= 8
