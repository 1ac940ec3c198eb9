"""The container's entry point as a process: it becomes the service in every mode, or refuses with one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, TaskStatus, WorkerStatus
from orchestrator_service.settings import orchestrator_heartbeat
from orchestrator_service.team import EXAMPLE_TEAM
from tests.conftest import needs_root
from tests.integration.harness import REPOSITORY, Shop
from tests.mounts import SmallDisk
from tests.redis_server import running_redis
from tests.waiting import wait_until

ENTRY = (sys.executable, "-P", "-m", "orchestrator_service.container")
AS_ANOTHER_USER = """
import os, sys
from orchestrator_service.container.entry import main
os.setgroups([]), os.setresgid(1000, 1000, 1000), os.setresuid(1000, 1000, 1000)
sys.exit(main(sys.argv[1:]))
"""
"""Changes the user after the imports: that one may not be allowed to read where Python is installed."""


class Container:
    """A container's environment, and processes in it."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.state = folder / "state"
        self.environ = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
        self.environ |= {
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(folder / "home"),
            "SHARED_DIR": str(self.shared),
            "WORKSPACE": str(folder / "workspace"),
            "LEDGER_PATH": str(self.state / "ledger.sqlite3"),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "POLL_INTERVAL": "0.05",
            "HEARTBEAT_INTERVAL": "0.2",
            "SYNC_RESULTS": "0",
            "AGENT_ISOLATION": "off",
        }

    @contextmanager
    def running(self, *role: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """Start it and make sure that it is gone in the end."""
        process = subprocess.Popen(
            [*ENTRY, *role], env={**self.environ, **environ}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self, *role: str, program: tuple[str, ...] = ENTRY, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        command = [*program, *role]
        return subprocess.run(
            command, env={**self.environ, **environ}, capture_output=True, text=True, timeout=50, check=False
        )

    def refusal(self, *role: str, program: tuple[str, ...] = ENTRY, **environ: str) -> str:
        """Run what is to be refused; returns the one line that it says."""
        ended = self.run(*role, program=program, **environ)
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert ended.stderr.count("\n") == 1, ended.stderr
        return ended.stderr.strip()

    def beat(self, process: subprocess.Popen[str], path: Path) -> Heartbeat:
        """Wait for a heartbeat of that very process: then the service has taken its place."""

        def find() -> Heartbeat | None:
            if process.poll() is not None:
                raise AssertionError(f"it ended: {process.communicate()}")
            beat = read_heartbeat(path)
            return beat if beat is not None and beat.pid == process.pid else None

        return wait_until(find, 30, "its heartbeat")

    def worker_beat(self, process: subprocess.Popen[str]) -> Heartbeat:
        """Wait until the worker is ready."""
        path = WorkerLayout.under(self.shared, "marie").heartbeat("marie")
        wait_until(lambda: self.beat(process, path).status is not WorkerStatus.STARTING, 30, "worker ready")
        return self.beat(process, path)


def stop(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Ask it to stop; returns the exit code and the lines that it said."""
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[1]
    return process.returncode, said.splitlines()


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


@pytest.fixture
def public_container() -> Iterator[Container]:
    """One whose folder every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="container-"))
    folder.chmod(0o755)
    yield Container(folder)
    shutil.rmtree(folder)


MODES = {
    "polling": ({}, "a timer"),
    "event-driven": ({"ACTIVATION_WRAPPER": "1"}, "inotify"),
    "hooks": ({"HOOKS_MODE": "1"}, "inotify, control pipe"),
}


@pytest.mark.parametrize("mode", MODES)
async def test_a_worker_of_the_example_team_works_in_every_mode(container: Container, mode: str) -> None:
    environ, sources = MODES[mode]
    with container.running("worker", "marie", TEAM_FILE=str(EXAMPLE_TEAM), **environ) as process:
        assert container.worker_beat(process).mode == mode
        layout = WorkerLayout.under(container.shared, "marie")
        shop = Shop(layout)
        shop.submit("1", "hello")
        result = await shop.async_result("1")
        assert (result.status, result.output) == (TaskStatus.COMPLETED, "hello")
        pipes = [layout.control_pipe("marie"), layout.status_pipe("marie")]
        assert [path.is_fifo() for path in pipes] == [mode == "hooks"] * 2
        code, lines = stop(process)
    assert code == 0, lines
    assert lines[0] == (
        f"container: worker marie starts in mode {mode} ({sources}), agent echo, team {EXAMPLE_TEAM}, shared "
        f"directory {container.shared}"
    )
    assert [line for line in lines if line.startswith("container:")] == lines[:1]


async def test_a_worker_without_a_team_file_goes_by_its_environment(container: Container) -> None:
    with container.running("worker", WORKER_NAME="marie", TEAM_FILE="", MAX_CONCURRENT="3") as process:
        assert container.worker_beat(process).slots == 3
        code, lines = stop(process)
    assert code == 0
    assert lines[0].startswith("container: worker marie starts in mode polling (a timer), agent echo, no team file, ")


async def test_hybrid_is_given_its_redis_and_the_password_is_never_shown(container: Container, tmp_path: Path) -> None:
    password = "a/b@c%25:#"
    secret = tmp_path / "redis_password"
    secret.write_text(password + "\n")
    hybrid = {"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1", "REDIS_PASSWORD_FILE": str(secret)}
    with running_redis(tmp_path / "redis", password=password) as server:
        hybrid["DEFAULT_REDIS_URL"] = f"redis://127.0.0.1:{server.port}/0"
        with (
            container.running("worker", "marie", TEAM_FILE=str(EXAMPLE_TEAM), **hybrid) as process,
            container.running("orchestrator", TEAM_FILE=str(EXAMPLE_TEAM), **hybrid) as orchestrator,
        ):
            assert container.worker_beat(process).mode == "hybrid"
            sources = {"inotify", "pipe", "redis"}
            wait_until(lambda: sources <= set(container.worker_beat(process).bells), 20, "all sources")
            container.beat(orchestrator, orchestrator_heartbeat(container.shared))
            code, lines = stop(process)
            ended, told = stop(orchestrator)
    assert (code, ended) == (0, 0)
    assert "mode hybrid (inotify, control pipe, Redis), agent echo" in lines[0]
    assert ", Redis, ledger" in told[0]
    logs = "".join(path.read_text() for path in (container.shared / "watcher-logs").iterdir())
    assert "a/b" not in "".join((*lines, *told, logs))


def test_the_orchestrator_serves_with_the_token_it_made_and_the_command_line_finds_it(container: Container) -> None:
    team = {"TEAM_FILE": str(EXAMPLE_TEAM), "HTTP_HOST": "0.0.0.0"}
    token_file = container.state / "api-token"
    with container.running("orchestrator", **team) as process:
        beat = container.beat(process, orchestrator_heartbeat(container.shared))
        url = f"http://127.0.0.1:{beat.http_port}/api/v1/workers"
        token = token_file.read_text().strip()
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        listed = container.run("codehornets", "tasks", "--json", **team)
        assert listed.returncode == 0, listed
        assert json.loads(listed.stdout) is not None
        code, lines = stop(process)
    assert code == 0
    assert lines[0] == (
        f"container: orchestrator starts with team {EXAMPLE_TEAM}, shared directory {container.shared}, no Redis, "
        f"ledger {container.state}/ledger.sqlite3, API token in {token_file} (`codehornets` uses it here; "
        f"`cat {token_file}` shows it)"
    )
    assert token not in "".join(lines)
    with container.running("orchestrator", **team) as process:
        container.beat(process, orchestrator_heartbeat(container.shared))
        assert token_file.read_text().strip() == token


def test_the_command_line_without_a_token_is_just_the_command_line(container: Container) -> None:
    ended = container.run("codehornets", "version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()
    assert not container.state.exists()


def test_prepare_makes_directories_and_pipes_and_nothing_else(container: Container) -> None:
    prepared = container.run("prepare", TEAM_FILE=str(EXAMPLE_TEAM), HOOKS_MODE="1")
    assert (prepared.returncode, prepared.stdout) == (0, ""), prepared
    assert prepared.stderr == "container: directories and pipes of marie, anga, fabien are there\n"
    for name in ("marie", "anga", "fabien"):
        layout = WorkerLayout.under(container.shared, name)
        assert layout.control_pipe(name).is_fifo()
        assert layout.status_pipe(name).is_fifo()
        for directory in (layout.triggers, layout.inflight, layout.dead_letters, layout.results, layout.events):
            assert directory.is_dir()
    assert not [path for path in container.shared.rglob("*") if path.is_file()]
    assert container.run("prepare", "dora").returncode == 0
    assert WorkerLayout.under(container.shared, "dora").triggers.is_dir()
    again = container.run("prepare", "marie", TEAM_FILE=str(EXAMPLE_TEAM), HOOKS_MODE="1")
    assert again.returncode == 0, again


def test_what_a_deployment_passes_on_as_empty_does_not_reach_the_service(container: Container, tmp_path: Path) -> None:
    seen = tmp_path / "environ"
    team = tmp_path / "team.toml"
    team.write_text(f"[workers.marie]\nagent = 'command'\nagent_command = \"sh -c 'env > {seen}'\"\n")
    with container.running("worker", "marie", TEAM_FILE=str(team), ANTHROPIC_BASE_URL="", NO_PROXY="x") as process:
        container.worker_beat(process)
        Shop(WorkerLayout.under(container.shared, "marie")).submit("1")
        said = wait_until(
            lambda: seen.exists() and "CODEHORNETS_TASK_ID=1" in seen.read_text() and seen.read_text(), 20
        )
    assert "NO_PROXY=x\n" in said
    assert "ANTHROPIC_BASE_URL" not in said


def test_help_is_not_a_refusal(container: Container) -> None:
    ended = container.run("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "prepare [NAME…]" in ended.stdout


@pytest.mark.parametrize(
    ("role", "sentence"),
    [
        ((), "no role is named; "),
        (("serve",), "there is no role 'serve'; "),
        (("worker", "marie", "anga"), "worker is followed by 'marie anga'; "),
        (("orchestrator", "now"), "orchestrator is followed by 'now'; "),
    ],
)
def test_a_role_that_does_not_exist_is_refused(container: Container, role: tuple[str, ...], sentence: str) -> None:
    allowed = "allowed are worker [NAME], orchestrator, prepare [NAME…] and codehornets ARGS…."
    assert container.refusal(*role) == f"container: {sentence}{allowed}"


@pytest.mark.parametrize("role", ["worker", "orchestrator", "prepare"])
def test_a_broken_team_file_is_refused(container: Container, tmp_path: Path, role: str) -> None:
    team = tmp_path / "team.toml"
    arguments = [role, "marie"] if role == "worker" else [role]
    for content, said in [
        ("[workers.marie]\nslots = 0\n", "workers.marie.slots is 0; allowed is a whole number from 1 to 1000."),
        ("[workers", "is not valid TOML"),
        ("[workers.marie]\noutput_style = 'x.md'\n", "allowed is the path of a style file that exists."),
        (None, "and there is no such file; mount a team file there, or set TEAM_FILE to nothing"),
    ]:
        team.unlink() if content is None else team.write_text(content)
        line = container.refusal(*arguments, TEAM_FILE=str(team))
        assert line.startswith("container: ")
        assert str(team) in line
        assert said in line


def test_a_worker_that_the_team_lacks_and_a_mode_that_does_not_exist_are_refused(container: Container) -> None:
    line = container.refusal("worker", "dora", TEAM_FILE=str(EXAMPLE_TEAM))
    assert "it has marie, anga, fabien; add a table [workers.dora] to it" in line
    line = container.refusal("worker", "marie", WORKER_MODE="fast")
    assert line == "container: WORKER_MODE is 'fast'; allowed is polling, event-driven, hooks or hybrid."
    line = container.refusal("worker", "marie", AGENT="claude")
    assert line.startswith("container: the agent is claude and there is no credential for it; put an API key into")
    line = container.refusal("worker", "marie", CLAUDE_CODE_OAUTH_TOKEN_FILE="/run/secrets/nowhere")
    assert line.startswith("container: CLAUDE_CODE_OAUTH_TOKEN_FILE is '/run/secrets/nowhere', which cannot be read")


@pytest.mark.parametrize("role", ["worker", "orchestrator"])
def test_a_used_port_ends_the_start_with_the_services_sentence(container: Container, role: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = container.run(role, WORKER_NAME="marie", HTTP_PORT=str(port), HTTP_HOST="127.0.0.1")
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"{role}_service: HTTP_HOST '127.0.0.1' with HTTP_PORT {port} cannot be listened on: ")


def test_broken_hook_rules_end_the_start_with_the_workers_sentence(container: Container, tmp_path: Path) -> None:
    team = tmp_path / "team.toml"
    team.write_text("[workers.marie]\n")
    rules = tmp_path / "hooks-config" / "marie-hooks.json"
    rules.parent.mkdir()
    rules.write_text("[{]")
    ended = container.run("worker", "marie", TEAM_FILE=str(team), HOOKS_MODE="1")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"worker_service: {rules} is not valid JSON: ")


@pytest.mark.claude
def test_a_style_that_is_missing_ends_the_start_with_the_workers_sentence(container: Container) -> None:
    ended = container.run("worker", "marie", OUTPUT_STYLE="/nowhere.md", ANTHROPIC_API_KEY="key", WARM_PROCESSES="0")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "worker_service: OUTPUT_STYLE is '/nowhere.md', which cannot be read"
    )


# -- places


@needs_root
@pytest.mark.parametrize("place", ["shared", "home", "workspace", "shared/tasks/marie", "state"])
def test_a_place_of_another_user_is_refused(public_container: Container, place: str) -> None:
    folder = public_container.shared.parent
    for path in ("shared", "home", "workspace", "state"):
        (folder / path).mkdir()
        os.chown(folder / path, 1000, 1000)
    unwritable = folder / place
    unwritable.mkdir(parents=True, exist_ok=True)
    if place.startswith("shared/"):
        os.chown(unwritable.parent, 1000, 1000)
    os.chown(unwritable, 0, 0)
    role = ["orchestrator"] if place == "state" else ["worker", "marie"]
    line = public_container.refusal(*role, program=(sys.executable, "-P", "-c", AS_ANOTHER_USER))
    assert line == (
        f"container: {unwritable} is not writable by user 1000 (it belongs to user 0); chown it, or mount a volume "
        "there that user 1000 may write to."
    )


@needs_root
def test_an_empty_secret_of_another_user_does_not_count_and_one_with_content_is_refused(
    public_container: Container,
) -> None:
    folder = public_container.shared.parent
    (folder / "shared").mkdir()
    os.chown(folder / "shared", 1000, 1000)
    secret = folder / "key"
    secret.touch(0o600)
    program = (sys.executable, "-P", "-c", AS_ANOTHER_USER)
    prepared = public_container.run("prepare", "marie", program=program, ANTHROPIC_API_KEY_FILE=str(secret))
    assert prepared.returncode == 0, prepared
    secret.write_text("key")
    line = public_container.refusal("prepare", "marie", program=program, ANTHROPIC_API_KEY_FILE=str(secret))
    assert line == (
        f"container: ANTHROPIC_API_KEY_FILE is '{secret}', which cannot be read (Permission denied); name a "
        "readable file."
    )


@needs_root
def test_a_place_that_cannot_be_made_is_refused(public_container: Container) -> None:
    folder = public_container.shared.parent
    line = public_container.refusal("worker", "marie", program=(sys.executable, "-P", "-c", AS_ANOTHER_USER))
    assert line == (
        f"container: {folder}/shared cannot be made by user 1000 ({folder} belongs to user 0); chown {folder}, or "
        f"mount a volume at {folder}/shared that user 1000 may write to."
    )


@needs_root
def test_pipes_of_another_user_are_refused(public_container: Container) -> None:
    folder = public_container.shared.parent
    for path in ("shared", "home", "workspace", "shared/pipes"):
        (folder / path).mkdir()
        os.chown(folder / path, 1000, 1000)
    os.chown(folder / "shared" / "pipes", 0, 0)
    program = (sys.executable, "-P", "-c", AS_ANOTHER_USER)
    line = public_container.refusal("worker", "marie", program=program, HOOKS_MODE="1")
    assert line == (
        f"container: the pipe {folder}/shared/pipes/marie-control cannot be made: Permission denied; mend the "
        "directory or set PIPE_DIR"
    )


def test_a_place_that_is_a_file_is_refused(container: Container) -> None:
    container.shared.write_text("")
    line = container.refusal("worker", "marie")
    assert line == (f"container: {container.shared} is not a directory and cannot become one; mount a volume there.")


def test_a_full_place_is_refused(container: Container, small_disk: Callable[[Path, int], SmallDisk]) -> None:
    disk = small_disk(container.shared, 65_536)
    disk.fill()
    line = container.refusal("worker", "marie")
    assert line == f"container: {container.shared} is full (No space left on device); make room there."
    disk.make_room()
    with container.running("worker", "marie") as process:
        container.worker_beat(process)


def test_a_read_only_place_is_refused(container: Container, small_disk: Callable[[Path, int], SmallDisk]) -> None:
    small_disk(container.shared, 65_536)
    subprocess.run(["mount", "-o", "remount,ro", str(container.shared)], check=True)
    line = container.refusal("worker", "marie")
    assert line == f"container: {container.shared} is on a read-only file system; mount a volume there."


def test_nothing_is_left_of_the_trials(container: Container) -> None:
    with container.running("worker", "marie") as process:
        container.worker_beat(process)
        assert stop(process)[0] == 0
    assert not list(container.shared.parent.rglob(".writable-*"))
    assert not list(Path(container.environ["WORKSPACE"]).iterdir())
