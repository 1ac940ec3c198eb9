"""What is in the two images, and how a container of each behaves on its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from agent_bus import VERSION
from tests.containers.engine import Engine, Images, run
from tests.containers.transcript import Transcript
from tests.integration.harness import REPOSITORY
from tests.waiting import wait_until

LIMITS_MB = {"worker": 700, "orchestrator": 250}
ROLES = list(LIMITS_MB)

CONFINED = [
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--no-healthcheck"),
    *("--tmpfs", "/tmp:mode=1777"),
]
PLACES = [
    part for place in ("/shared", "/workspace", "/home/codehornets", "/var/lib/codehornets") for part in ("-v", place)
]
"""A volume without a name for each; they go with their container."""

Start = Callable[..., str]


@pytest.fixture
def start(engine: Engine) -> Iterator[Start]:
    """Start a container in the background and return its id; it is removed afterwards."""
    started: list[str] = []

    def begin(*arguments: str) -> str:
        container = engine("run", "-d", *CONFINED, *arguments).stdout.split()[-1]
        started.append(container)
        return container

    yield begin
    for container in started:
        engine("rm", "-f", "-v", container, check=False)


def wait_healthy(engine: Engine, container: str) -> None:
    """Wait until the service answers; one that has ended fails the test with its last words."""

    def answers() -> bool:
        assert engine.inspect("container", container)["State"]["Running"], engine("logs", container).stderr
        return engine("exec", container, "/usr/local/bin/healthcheck", check=False).returncode == 0

    wait_until(answers, 40, "health")


def image_of(images: Images, role: str) -> str:
    return images.worker if role == "worker" else images.orchestrator


@pytest.mark.parametrize("role", ROLES)
def test_an_image_is_as_small_as_it_should_be(
    role: str, engine: Engine, images: Images, transcript: Transcript
) -> None:
    image = image_of(images, role)
    size = engine.inspect("image", image)["Size"]
    transcript.say(f"{role} image: {size:,} bytes of at most {LIMITS_MB[role]},000,000")
    assert size <= LIMITS_MB[role] * 1_000_000
    run([str(REPOSITORY / "deploy" / "image-size.sh"), image, str(LIMITS_MB[role])], engine.environ)


@pytest.mark.parametrize("role", ROLES)
def test_an_image_says_what_it_is_and_how_it_runs(role: str, engine: Engine, images: Images) -> None:
    image = engine.inspect("image", image_of(images, role))
    config = image["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == f"codehornets-ai {role}"
    assert labels["version"] == VERSION
    assert {"description", "source", "licenses", "revision"} <= labels.keys()
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"][:2] == ["/usr/bin/tini", "--"]
    assert config["Cmd"] == [role]
    check = config.get("Healthcheck") or image["Healthcheck"]
    assert check["Test"] == ["CMD", "/usr/local/bin/healthcheck"]
    environ = dict(entry.split("=", 1) for entry in config["Env"])
    assert not [name for name in environ if "PROXY" in name.upper() or "TOKEN" in name or "KEY" in name]


def inside(engine: Engine, image: str, script: str) -> str:
    ran = engine("run", "--rm", "--network", "none", *CONFINED, "--entrypoint", "/bin/sh", image, "-c", script)
    return ran.stdout


@pytest.mark.parametrize("role", ROLES)
def test_nothing_that_installs_or_compiles_is_in_an_image(role: str, engine: Engine, images: Images) -> None:
    tools = "pip pip3 gcc g++ cc c++ make ld as cargo npm node curl wget"
    script = f"""
        for tool in {tools}; do command -v $tool; done
        for module in pip setuptools ensurepip; do
          /opt/codehornets/bin/python -c "import $module" 2> /dev/null && echo "python: $module"
        done
        find /run/secrets /root /var/lib/apt/lists -type f ! -name .bashrc ! -name .profile 2> /dev/null
        find / -xdev -perm /6000 -type f -user root -writable 2> /dev/null
        true
    """
    assert inside(engine, image_of(images, role), script) == ""


def test_only_the_worker_has_claude_code_and_git(engine: Engine, images: Images) -> None:
    script = """
        command -v git; command -v bwrap
        find /opt/codehornets/lib -path '*_bundled/claude' -size +1M | wc -l
    """
    assert inside(engine, images.worker, script).split() == ["/usr/bin/git", "/usr/bin/bwrap", "1"]
    assert inside(engine, images.orchestrator, script).split() == ["0"]
    version = "$(find /opt/codehornets/lib -path '*_bundled/claude') --version"
    assert "Claude Code" in inside(engine, images.worker, version)


def test_a_worker_works_without_any_network(engine: Engine, images: Images, start: Start) -> None:
    options = ["--network", "none", "-e", "ACTIVATION_WRAPPER=1", "-e", "AGENT=echo"]
    container = start(*PLACES, *options, images.worker, "worker", "marie")
    task = json.dumps({"task_id": "t1", "description": "alone"})
    drop = f"echo '{task}' > /shared/triggers/marie/task-t1.trigger"
    result = "/shared/results/marie/t1.json"
    wait_healthy(engine, container)
    told = engine(
        "exec", container, "/bin/sh", "-c", f"{drop}; until [ -e {result} ]; do sleep 0.05; done; cat {result}"
    )
    assert json.loads(told.stdout)["output"] == "alone"


@pytest.mark.parametrize("role", ROLES)
def test_sigterm_to_process_1_ends_a_container_with_0(
    role: str, engine: Engine, images: Images, start: Start, transcript: Transcript
) -> None:
    arguments = ["worker", "marie"] if role == "worker" else ["orchestrator"]
    container = start(*PLACES, "-e", "AGENT=echo", image_of(images, role), *arguments)
    wait_healthy(engine, container)
    began = time.monotonic()
    engine("kill", "--signal", "TERM", container)
    code = int(engine("wait", container, timeout=60).stdout)
    transcript.say(f"{role}: SIGTERM, ended {time.monotonic() - began:.1f} s later with exit code {code}")
    assert code == 0


def test_places_can_be_made_before_anything_starts(engine: Engine, images: Images) -> None:
    script = (
        "/opt/codehornets/bin/python -P -m orchestrator_service.container prepare && "
        "ls -d /shared/results/fabien /shared/triggers/marie && test -p /shared/pipes/anga-control && echo pipes"
    )
    options = [*CONFINED, *PLACES, "--network", "none", "-e", "HOOKS_MODE=1", "--entrypoint", "/bin/sh"]
    ran = engine("run", "--rm", *options, images.orchestrator, "-c", script)
    assert ran.stdout.split() == ["/shared/results/fabien", "/shared/triggers/marie", "pipes"]
