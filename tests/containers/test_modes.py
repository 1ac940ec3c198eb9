"""Every mode of the composed team: healthy, at work, killed, stopped and restarted, with nothing lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.containers.conftest import remove
from tests.containers.engine import run
from tests.containers.stack import TEAM, Stack
from tests.integration.harness import REPOSITORY
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
    made_anew: bool = False
    """Whether its rolling restart makes new containers, as for another image, instead of restarting what is there."""


MODES = [
    Mode("polling", {}, (), "in mode polling (a timer)", has_pipes=False, made_anew=True),
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
    # Without pipes it goes by Redis; without that nobody can be reached.
    assert told.returncode == (0 if mode.has_pipes or mode.name == "redis" else 2), told.stdout + told.stderr
    if not mode.has_pipes:
        return
    # The pipe is opened for reading before the command is sent; a reader of both ends never waits for a writer.
    by_hand = (
        "exec 3<> /shared/pipes/anga-status; echo status > /shared/pipes/anga-control; "
        "timeout 20 grep -m 1 '\"answer\"' <&3"
    )
    answer = json.loads(stack.shell("anga", by_hand))["data"]
    assert (answer["ok"], answer["source"]) == (True, "pipe")


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
    assert [stack.exit_code(service) for service in (*TEAM, "orchestrator")] == [0, 0, 0, 0]
    resumes(api, prompt, "went on after the stop")
    stack.compose("start", *TEAM, "orchestrator", shown=True)
    stack.wait_healthy()
    result = stack.result("marie", task, 60)
    assert (result["status"], result["output"]) == ("completed", "went on after the stop")


def restart(stack: Stack, *, made_anew: bool) -> None:
    """Restart one service after the other; with `made_anew` the workers get new containers."""
    if not made_anew:
        script = "deploy/compose/rolling-restart.sh"
        stack.say_command(script)
        run([str(REPOSITORY / script)], stack.environ, timeout=170)
        return
    for worker in TEAM:
        stack.compose("up", "-d", "--no-deps", "--force-recreate", worker, shown=True)
        stack.wait_healthy(worker)


def test_a_rolling_restart_under_load_loses_and_doubles_nothing(stack: Stack, mode: Mode) -> None:
    expected: dict[str, str] = {}
    done = threading.Event()
    troubles: list[BaseException] = []

    def load(drop: Callable[[dict[str, dict[str, str]], str], None]) -> None:
        number = 0
        try:
            while not done.is_set():
                number += 1
                for worker in ("anga", "fabien"):
                    text = f"api {number} {worker}"
                    expected[stack.submit_stubbornly(worker=worker, description=text)] = text
                    task = f"file-{number}-{worker}"
                    drop({task: {"description": f"text of {task}"}}, worker)
                    expected[task] = f"text of {task}"
        except BaseException as error:
            troubles.append(error)

    with stack.outsider() as drop:
        sending = threading.Thread(target=load, args=(drop,))
        sending.start()
        began = time.monotonic()
        try:
            restart(stack, made_anew=mode.made_anew)
        finally:
            seconds = time.monotonic() - began
            done.set()
            sending.join()
    assert not troubles, troubles[0]
    wait_until(lambda: expected.keys() <= stack.completed(), 90, "the end of all tasks")
    listing = "cd /shared/results && for f in anga/*.json fabien/*.json; do cat $f; echo; done"
    results = [json.loads(line) for line in stack.shell("orchestrator", listing).splitlines() if line.strip()]
    told = [(result["task_id"], result["output"].strip()) for result in results if result["task_id"] in expected]
    assert sorted(told) == sorted(expected.items())
    buried = stack.shell("orchestrator", "ls /shared/tasks/*/dead-letter")
    assert ".json" not in buried and ".trigger" not in buried
    left = stack.shell("orchestrator", "ls /shared/triggers/anga /shared/triggers/fabien /shared/tasks/*/released")
    assert ".trigger" not in left and ".json" not in left
    stack.say(f"{len(expected)} tasks in {seconds:.1f} s of rolling restart: 0 lost, 0 doubled")
    assert len(expected) >= 8


def test_services_have_no_power_over_their_machine(stack: Stack) -> None:
    """Every service, Redis and Prometheus too: no root, no capability, a root file system that is read-only, limits."""
    told = "for p in /proc/[0-9]*/status; do grep -E '^(Uid|CapEff|CapPrm|CapBnd|NoNewPrivs):' $p; echo; done"
    for service in stack.services():
        for process in stack.shell(service, told, check=False).strip().split("\n\n"):
            seen = {name: words.split() for name, _, words in (line.partition(":") for line in process.splitlines())}
            if not seen:
                continue
            owner = {"redis": "999", "prometheus": "65534"}.get(service, "1000")
            assert set(seen["Uid"]) == {owner}, (service, seen)
            assert [int(seen[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0], (service, seen)
            assert seen["NoNewPrivs"] == ["1"], (service, seen)
        root = stack.shell(service, "grep -E '^[^ ]+ / ' /proc/mounts").split()[3]
        assert "ro" in root.split(","), (service, root)
        for place in ("/new", "/etc/codehornets/new", "/usr/new"):
            assert stack.exec(service, "touch", place, check=False).returncode != 0, (service, place)
        host = stack.inspect(service)["HostConfig"]
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, (service, host["Memory"], host["PidsLimit"])
        assert not host["Privileged"], service
    assert stack.inspect("marie")["HostConfig"]["Memory"] == 4 * 2**30
    for place in ("/shared", "/workspace", "/home/codehornets", "/tmp"):
        stack.shell("marie", f"touch {place}/mine && rm {place}/mine")
    stack.say(f"no root, no capability, no new privileges, read-only root: {', '.join(sorted(stack.services()))}")


def test_processes_without_a_parent_are_reaped(stack: Stack) -> None:
    orphan = stack.shell("marie", "sh -c 'sleep 0.5 > /dev/null 2>&1 & echo $!'").strip()
    assert orphan.isdigit()
    stack.wait_in("marie", f"[ ! -e /proc/{orphan} ]", timeout=20)


def test_prometheus_sees_every_service(stack: Stack, mode: Mode) -> None:
    if "monitoring" not in mode.profiles:
        assert "prometheus" not in stack.services()
        return
    url = f"http://127.0.0.1:{stack.prometheus_port}/api/v1/targets"

    def targets() -> dict[str, str]:
        told = httpx.get(url, timeout=10, trust_env=False).json()["data"]["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in told}

    all_up = {"marie:8080": "up", "anga:8080": "up", "fabien:8080": "up", "orchestrator:8700": "up"}
    wait_until(lambda: targets() == all_up, 60, "all targets of Prometheus")
    stack.say(f"Prometheus: {', '.join(sorted(targets()))} up")


def test_redis_is_reached_with_its_password_and_not_from_outside(stack: Stack, mode: Mode) -> None:
    if "redis" not in stack.services():
        return
    assert not stack.inspect("redis")["HostConfig"]["PortBindings"]
    asked = stack.exec("redis", "redis-cli", "ping").stdout
    assert ("NOAUTH" in asked) == mode.has_password, asked
    for worker in TEAM:
        ask = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        metrics = stack.exec(worker, "bash", "-c", ask).stdout
        assert f'codehornets_redis_connected{{worker="{worker}"}} 1.0' in metrics


def test_the_field_check_finds_nothing(stack: Stack) -> None:
    script = "deploy/compose/field-check.sh"
    stack.say_command(script)
    told = run([str(REPOSITORY / script)], stack.environ, check=False, timeout=170)
    lines = told.stdout.splitlines()
    failed = [line for line in lines if line.startswith("✗")]
    assert (told.returncode, failed) == (0, []), told.stdout + told.stderr
    stack.say(" · ".join(line for line in lines if line.startswith(("Passed", "Failed", "Left out"))))
