"""Every sentence of the guide's table `When a container exits at once` is said by a container, and its exit code is 2.

test_refusals.py looks at what a composed team says.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.containers.conftest import EXAMPLE_TEAM
from tests.containers.engine import Engine, Images
from tests.docs_blocks import prints
from tests.integration.harness import REPOSITORY
from tests.waiting import wait_until

GUIDE = REPOSITORY / "docs" / "deployment.md"
HEADING = "## When a container exits at once"
CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--tmpfs", "/tmp:mode=1777")
PLACES = {"shared": "/shared", "work": "/workspace", "home": "/home/codehornets", "state": "/var/lib/codehornets"}
REDIS = os.environ.get("REDIS_IMAGE") or "docker.io/library/redis:7-bookworm"
KEY = ("-e", "ANTHROPIC_API_KEY=sk-dummy-for-tests")


def sentences() -> list[str]:
    """Return the first column of the guide's table."""
    section = GUIDE.read_text().partition(HEADING)[2].partition("\n## ")[0].partition("\n\nNot by the container")[0]
    return re.findall(r"^\| `([^`]+)`", section, re.M)


@dataclass
class House:
    """Places of a container on this machine, as somebody may have left them."""

    folder: Path
    engine: Engine
    options: list[str] = field(default_factory=list)

    def make(self) -> None:
        """Make every place writable for the container's user."""
        for name in PLACES:
            place = self.folder / name
            place.mkdir()
            place.chmod(0o777)
        shutil.copytree(EXAMPLE_TEAM, self.folder / "team")
        for place in (self.folder / "team", *(self.folder / "team").rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)

    def mounts(self, *without: str) -> list[str]:
        """Return the options that mount them."""
        places = {**PLACES, "team": "/etc/codehornets"}
        chosen = {name: target for name, target in places.items() if name not in without}
        return [part for name, target in chosen.items() for part in ("-v", f"{self.folder / name}:{target}")]

    def team(self, old: str, new: str) -> list[str]:
        """Change the team file."""
        path = self.folder / "team" / "team.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return self.mounts()


# Each takes a house and gives the options of the engine; what follows the image is `arguments`.
Damage = Callable[[House], list[str]]


def as_it_is(*options: str) -> Damage:
    return lambda house: [*house.mounts(), *options]


def team(old: str, new: str) -> Damage:
    return lambda house: house.team(old, new)


def no_team_file(house: House) -> list[str]:
    (house.folder / "team" / "team.toml").unlink()
    return house.mounts()


def no_workers(house: House) -> list[str]:
    (house.folder / "team" / "team.toml").write_text('agent = "echo"\n')
    return house.mounts()


def unreadable_secret(house: House) -> list[str]:
    path = house.folder / "key"
    path.write_text("sk-dummy")
    path.chmod(0)
    return [*house.mounts(), "-v", f"{path}:/run/secrets/key:ro", "-e", "ANTHROPIC_API_KEY_FILE=/run/secrets/key"]


def locked(*names: str, below: str = "") -> Damage:
    def damage(house: House) -> list[str]:
        for name in names:
            place = house.folder / name / below
            place.mkdir(exist_ok=True)
            place.chmod(0o555)
        return house.mounts()

    return damage


def full(house: House) -> list[str]:
    volume = f"{house.folder.name}-full"
    options = ["type=tmpfs", "device=tmpfs", "o=nr_inodes=1,mode=1777"]
    house.engine("volume", "create", *[part for option in options for part in ("--opt", option)], volume)
    return [*house.mounts("shared"), "-v", f"{volume}:/full", "-e", "SHARED_DIR=/full"]


def no_pipe(house: House) -> list[str]:
    pipes = house.folder / "shared" / "pipes"
    pipes.mkdir()
    pipes.chmod(0o777)
    (pipes / "marie-control").write_text("")
    return [*house.mounts(), "-e", "HOOKS_MODE=1"]


def foreign_token(house: House) -> list[str]:
    token = house.folder / "state" / "api-token"
    token.write_text("secret")
    token.chmod(0)
    return house.mounts()


def broken_rules(house: House) -> list[str]:
    (house.folder / "team" / "hooks-config" / "marie-hooks.json").write_text("{ nope")
    return [*house.mounts(), "-e", "HOOKS_MODE=1"]


@dataclass(frozen=True)
class Case:
    """A container that is refused."""

    damage: Damage
    arguments: tuple[str, ...] = ("worker", "marie")
    image: str = "worker"


ORCHESTRATOR = ("orchestrator",)
CASES = {
    "role": Case(as_it_is(), ("dance",)),
    "no name": Case(as_it_is(), ("worker",)),
    "not in the team": Case(as_it_is(), ("worker", "lea")),
    "no team file": Case(no_team_file),
    "team, syntax": Case(team("[workers.marie]", "[workers.marie")),
    "team, key": Case(team("slots = 4", "slotz = 4")),
    "team, value": Case(team("slots = 4", "slots = 0"), ORCHESTRATOR, "orchestrator"),
    "team, workspace": Case(team("[workers.marie]", '[workers.marie]\nworkspace = "../project"')),
    "team, no workers": Case(no_workers),
    "mode": Case(as_it_is("-e", "WORKER_MODE=turbo")),
    "wrapper": Case(as_it_is("-e", "ACTIVATION_WRAPPER=yess")),
    "activation": Case(as_it_is("-e", "ACTIVATION_WRAPPER=1", "-e", "ACTIVATION_MODE=bell")),
    "agent": Case(as_it_is("-e", "AGENT=robot")),
    "no credential": Case(as_it_is("-e", "AGENT=claude")),
    "unreadable secret": Case(unreadable_secret),
    "shared of another": Case(locked("shared")),
    "workspace of another": Case(locked("work")),
    "home of another": Case(locked("home")),
    "state of another": Case(locked("state"), ORCHESTRATOR, "orchestrator"),
    "results of another": Case(locked("shared", below="results")),
    "no volume": Case(lambda house: house.mounts("shared"), ("worker", "marie")),
    "full": Case(full),
    "no pipe": Case(no_pipe),
    "foreign token": Case(foreign_token, ORCHESTRATOR, "orchestrator"),
    "variable of a worker": Case(as_it_is("-e", "TRIGGER_OWNERS=me")),
    "variable of the orchestrator": Case(as_it_is("-e", "DAY_BUDGET_USD=lots"), ORCHESTRATOR, "orchestrator"),
    "redis url": Case(as_it_is("-e", "REDIS_URL=http://redis")),
    "hook rules": Case(broken_rules),
    "command": Case(as_it_is("-e", "AGENT=command")),
    "no claude": Case(as_it_is("-e", "AGENT=claude", *KEY), image="orchestrator"),
    "isolation": Case(as_it_is("-e", "AGENT=claude", "-e", "AGENT_ISOLATION=on", *KEY)),
    "token": Case(as_it_is("-e", "API_TOKEN=x"), ORCHESTRATOR, "orchestrator"),
    "missing key": Case(as_it_is("-e", "AGENT=claude", "-e", "ANTHROPIC_API_KEY_FILE=/run/secrets/nothing")),
    "missing token": Case(as_it_is("-e", "API_TOKEN_FILE=/run/secrets/nothing"), ORCHESTRATOR, "orchestrator"),
    "missing password": Case(
        as_it_is(
            *("-e", "WORKER_MODE=hybrid", "-e", "DEFAULT_REDIS_URL=redis://redis:6379/0"),
            *("-e", "REDIS_PASSWORD_FILE=/run/secrets/nothing"),
        )
    ),
    "port": Case(as_it_is("-e", "HTTP_PORT=0x50"), ORCHESTRATOR, "orchestrator"),
    "read-only ledger": Case(as_it_is("-e", "LEDGER_PATH=/usr/share/ledger.sqlite3"), ORCHESTRATOR, "orchestrator"),
}

_said: dict[str, str] = {}


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> Iterator[House]:
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.geteuid() and "pytest" in place.name:
            place.chmod(0o755)
    house = House(tmp_path, engine)
    house.make()
    yield house
    engine("volume", "rm", "-f", f"{tmp_path.name}-full", check=False)


def refused(engine: Engine, options: list[str], image: str, *arguments: str) -> str:
    """Run a container that must end by itself; returns the last line that it said."""
    ran = engine("run", "--rm", *CONFINED, *options, image, *arguments, check=False)
    assert ran.returncode == 2, (ran.returncode, ran.stderr)
    assert "Traceback" not in ran.stderr
    lines = re.findall(r"^(?:container|worker_service|orchestrator_service|redis): .*$", ran.stderr, re.M)
    assert lines, ran.stderr
    return str(lines[-1])


def in_the_guide(case: str, line: str) -> None:
    _said[case] = line
    # The guide may leave out how a sentence ends.
    found = [text for text in sentences() if prints(text, line)]
    assert found, f"docs/deployment.md has no such sentence: {line}"


@pytest.mark.parametrize("case", CASES)
def test_what_a_container_says_is_in_the_guide(case: str, house: House, engine: Engine, images: Images) -> None:
    told = CASES[case]
    image = images.worker if told.image == "worker" else images.orchestrator
    options = told.damage(house)
    in_the_guide(case, refused(engine, ["--network", "none", *options], image, *told.arguments))


@contextmanager
def running(engine: Engine, options: list[str], image: str, *arguments: str) -> Iterator[str]:
    """Run a container beside the one that is refused."""
    container = engine("run", "-d", *CONFINED, *options, image, *arguments).stdout.split()[-1]
    try:
        check = ("exec", container, "/usr/local/bin/healthcheck")
        wait_until(lambda: engine(*check, check=False).returncode == 0, 60, "its health")
        yield container
    finally:
        engine("rm", "-f", "-v", container, check=False)


@pytest.mark.parametrize("role", ["worker", "orchestrator"])
def test_a_used_port_is_in_the_guide(role: str, house: House, engine: Engine, images: Images) -> None:
    image, arguments = (images.worker, ("worker", "marie")) if role == "worker" else (images.orchestrator, (role,))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--network", "host", *house.mounts(), "-e", "HTTP_HOST=127.0.0.1", "-e", f"HTTP_PORT={port}"]
        in_the_guide(f"used port ({role})", refused(engine, options, image, *arguments))


def test_a_ledger_in_use_is_in_the_guide(house: House, engine: Engine, images: Images) -> None:
    options = ["--network", "none", *house.mounts()]
    with running(engine, options, images.orchestrator, "orchestrator"):
        in_the_guide("ledger in use", refused(engine, options, images.orchestrator, "orchestrator"))


def test_a_password_that_redis_may_not_read_is_in_the_guide(house: House, engine: Engine) -> None:
    password = house.folder / "password"
    password.write_text("secret")
    password.chmod(0)
    script = REPOSITORY / "deploy" / "compose" / "redis.sh"
    mounts = ["-v", f"{password}:/run/secrets/redis_password:ro", "-v", f"{script}:/redis.sh:ro"]
    options = ["--network", "none", "--user", "999:999", *mounts, "--entrypoint", "/bin/sh"]
    in_the_guide("redis password", refused(engine, options, REDIS, "/redis.sh", "serve"))


def test_every_sentence_of_the_guide_was_said() -> None:
    if len(_said) < len(CASES) + 4:
        pytest.skip("needs the sentences of the other tests of this file")
    unsaid = [text for text in sentences() if not any(prints(text, line) for line in _said.values())]
    assert unsaid == []
