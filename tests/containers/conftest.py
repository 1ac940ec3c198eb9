"""The composed team as it is deployed, in whatever engine is there. `make test-containers` runs this tier alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.containers.engine import Engine, Images, NoEngine, build_images, open_engine
from tests.containers.stack import Stack
from tests.containers.transcript import Transcript, machine
from tests.integration.harness import REPOSITORY
from tests.standin.messages_api import MessagesApi

SKIP = "CODEHORNETS_SKIP_CONTAINERS"
EXAMPLE_TEAM = REPOSITORY / "orchestrator_service" / "example_team"

# marie is Claude Code, anga works a moment on each task, fabien echoes. Short times, so that nobody waits for them.
TEAM_FILE = """\
[defaults]
slots = 4
warm_processes = 1

[workers.marie]
role = "dance teaching assistant"
agent = "claude"
allowed_tools = ["Bash", "Read", "Write"]
[workers.marie.environment]
SHUTDOWN_GRACE = "3"
HEARTBEAT_INTERVAL = "1"
RESCAN_INTERVAL = "2"
CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC = "1"
DISABLE_AUTOUPDATER = "1"

[workers.anga]
role = "software engineer"
agent = "command"
agent_command = "sh -c 'sleep 0.3; cat'"
environment = { SHUTDOWN_GRACE = "10", HEARTBEAT_INTERVAL = "1", RESCAN_INTERVAL = "2" }

[workers.fabien]
role = "marketing"
agent = "echo"
environment = { SHUTDOWN_GRACE = "10", HEARTBEAT_INTERVAL = "1", RESCAN_INTERVAL = "2" }
"""

_TRANSCRIPT = pytest.StashKey[Transcript]()
_BEGAN = pytest.StashKey[float]()
_STACKS: list[Stack] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--transcript", type=Path, help="also write what the container tests tell to this file")


def pytest_configure(config: pytest.Config) -> None:
    def show(line: str) -> None:
        reporter = config.pluginmanager.getplugin("terminalreporter")
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"  {line}")

    config.stash[_TRANSCRIPT] = Transcript(show)
    config.stash[_BEGAN] = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and item.get_closest_marker("timeout") is None:
            # Of the test alone: what builds and starts for it has deadlines of its own.
            item.add_marker(pytest.mark.timeout(180, func_only=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    transcript = item.config.stash[_TRANSCRIPT]
    if report.when == "call" or report.outcome != "passed":
        name = item.name.removeprefix("test_").replace("_", " ")
        transcript.say(f"{report.outcome.upper()} {name} ({report.duration:.1f} s)")
    if report.failed:
        for stack in _STACKS:
            report.sections.append((f"Containers of {stack.project}", stack.report()))
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path: Path | None = session.config.getoption("--transcript")
    if path is None:
        return
    transcript = session.config.stash[_TRANSCRIPT]
    minutes = (time.monotonic() - session.config.stash[_BEGAN]) / 60
    stats = session.config.pluginmanager.getplugin("terminalreporter").stats
    counts = [f"{len(stats[kind])} {kind}" for kind in ("passed", "failed", "error", "skipped") if stats.get(kind)]
    transcript.say(f"{', '.join(counts)} in {minutes:.1f} minutes")
    transcript.write(
        path,
        "A run of the container tests",
        f"What `make test-containers` told on {datetime.now(UTC):%d %B %Y}, on a machine with {machine()}.",
    )


@pytest.fixture(scope="session")
def transcript(pytestconfig: pytest.Config) -> Transcript:
    return pytestconfig.stash[_TRANSCRIPT]


@pytest.fixture(scope="session")
def engine(transcript: Transcript) -> Engine:
    """The engine of this machine; where none can run the test fails, or is skipped if that was asked for."""
    try:
        engine = open_engine(transcript)
    except NoEngine as error:
        if os.environ.get(SKIP) == "1":
            pytest.skip(f"{SKIP}=1, and {error}")
        pytest.fail(f"{error} To leave the container tests out: {SKIP}=1.", pytrace=False)
    transcript.say(engine.versions())
    return engine


@pytest.fixture(scope="session")
def images(engine: Engine, transcript: Transcript, pytestconfig: pytest.Config) -> Images:
    """Both images, built from this checkout."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def with_output(command: list[str], environ: dict[str, str]) -> int:
        with capture.global_and_fixture_disabled():
            return subprocess.run(command, env=environ, timeout=1200, check=False).returncode

    began = time.monotonic()
    images = build_images(engine, with_output)
    transcript.say(f"built in {time.monotonic() - began:.0f} s")
    return images


@pytest.fixture(scope="session")
def api() -> Iterator[MessagesApi]:
    """The stand-in of the model's API, within reach of containers."""
    with MessagesApi(host="0.0.0.0") as api:
        yield api


@pytest.fixture(scope="session")
def team_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example team with agents that need no account."""
    path = tmp_path_factory.mktemp("team") / "team"
    shutil.copytree(EXAMPLE_TEAM, path)
    (path / "team.toml").write_text(TEAM_FILE)
    for place in (path, *path.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    for parent in path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
        if parent.name.startswith("pytest-of-"):
            break
    return path


@pytest.fixture(scope="session")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets as files: a key that the stand-in takes, and a password for Redis."""
    path = tmp_path_factory.mktemp("secrets")
    path.chmod(0o755)
    for name, content in {
        "anthropic_api_key": "sk-dummy-for-tests\n",
        "claude_code_oauth_token": "",
        "redis_password": 'a "strange" p@ss/word: 100%\\\n',
    }.items():
        (path / name).write_text(content)
        (path / name).chmod(0o644)
    return path


@pytest.fixture(scope="session")
def reaching_host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Compose files by which a container finds this machine as host.containers.internal; podman needs none."""
    if engine.program == "podman":
        return ()
    path = tmp_path_factory.mktemp("compose") / "host.yaml"
    path.write_text("services:\n  marie:\n    extra_hosts: ['host.containers.internal:host-gateway']\n")
    return (path,)


@pytest.fixture(scope="session")
def new_stack(engine: Engine, images: Images) -> Iterator[Callable[..., Stack]]:
    """Make a team of its own project, ports and volumes; all of them are removed at the end."""

    def make(
        variables: dict[str, str] | None = None,
        profiles: tuple[str, ...] = (),
        files: tuple[Path, ...] = (),
        **surroundings: str,
    ) -> Stack:
        stack = Stack(
            engine,
            variables=variables or {},
            surroundings={**images.environ, **surroundings},
            profiles=profiles,
            files=files,
        )
        _STACKS.append(stack)
        return stack

    yield make
    for stack in list(_STACKS):
        remove(stack)


def remove(stack: Stack) -> None:
    """Remove a stack and forget it."""
    if stack in _STACKS:
        _STACKS.remove(stack)
        stack.down()
