"""What is wrong with a composed team ends its container at once: exit code 2, and one sentence that the guide lists.

test_docs_refusals.py provokes every sentence of the guide, in containers by themselves.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import EXAMPLE_TEAM, remove
from tests.containers.engine import Engine, Images
from tests.containers.stack import Stack
from tests.containers.test_docs_refusals import sentences
from tests.containers.test_images import CONFINED, PLACES, wait_healthy
from tests.containers.transcript import Transcript
from tests.docs_blocks import prints

STARTS = re.compile(r"container: (worker \w+|orchestrator) starts ")


def readable(path: Path) -> Path:
    """Let user 1000 of a container read all of it, and get there."""
    for place in (path, *path.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    for parent in path.parents:
        if parent.stat().st_uid == os.geteuid() and "pytest" in parent.name:
            parent.chmod(0o755)
    return path


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """The example team, to be broken."""
    shutil.copytree(EXAMPLE_TEAM, tmp_path / "team")
    return readable(tmp_path / "team")


def one_sentence(case: str, told: str, transcript: Transcript) -> str:
    """Return the sentence with which a container ended; what the engine says of itself is passed over."""
    said = re.compile(r"(container|worker_service|orchestrator_service): ")
    # What only the service itself can find out comes after the line with which it was started.
    lines = [line for line in told.splitlines() if said.match(line) and not STARTS.match(line)]
    assert len(lines) == 1, told
    assert "Traceback" not in told
    assert lines[0].endswith("."), lines[0]
    transcript.say(f"{case}: {lines[0]}")
    assert any(prints(text, lines[0]) for text in sentences()), "docs/deployment.md does not list it"
    return lines[0]


@pytest.fixture
def stack(new_stack: Callable[..., Stack]) -> Iterator[Stack]:
    stack = new_stack()
    yield stack
    remove(stack)


def refused_by_compose(stack: Stack, service: str, variables: dict[str, str]) -> str:
    """Start one service in the foreground; returns all that was said."""
    stack.variables = variables
    ran = stack.compose("run", "--rm", "--no-deps", "-T", service, check=False, shown=True)
    assert ran.returncode == 2, (ran.returncode, ran.stdout + ran.stderr)
    return ran.stdout + ran.stderr


def test_claude_without_a_credential(stack: Stack, transcript: Transcript) -> None:
    line = one_sentence("no secret", refused_by_compose(stack, "marie", {"AGENT": "claude"}), transcript)
    assert "there is no credential" in line and "/run/secrets/anthropic_api_key" in line


def test_an_unknown_mode(stack: Stack, transcript: Transcript) -> None:
    line = one_sentence("unknown mode", refused_by_compose(stack, "marie", {"WORKER_MODE": "turbo"}), transcript)
    assert line == "container: WORKER_MODE is 'turbo'; allowed is polling, event-driven, hooks or hybrid."


@pytest.mark.parametrize("service", ["marie", "orchestrator"])
def test_a_shared_directory_of_somebody_else(
    service: str, stack: Stack, tmp_path: Path, transcript: Transcript
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a directory that user 1000 may not write to")
    shared = tmp_path / "shared"
    shared.mkdir()
    readable(shared)
    told = refused_by_compose(stack, service, {"SHARED_VOLUME": str(shared)})
    line = one_sentence(f"unwritable volume ({service})", told, transcript)
    assert line.startswith("container: /shared") and "user 1000" in line and "user 0" in line


def break_syntax(team: Path) -> None:
    with (team / "team.toml").open("a") as file:
        file.write("\n[workers.marie\n")


def add_unknown_key(team: Path) -> None:
    path = team / "team.toml"
    path.write_text(path.read_text().replace("[workers.marie]\n", "[workers.marie]\nslotz = 3\n"))


def remove_it(team: Path) -> None:
    (team / "team.toml").unlink()


def remove_marie(team: Path) -> None:
    (team / "team.toml").write_text("[workers.anga]\nrole = 'x'\n")


@pytest.mark.parametrize("service", ["marie", "orchestrator"])
@pytest.mark.parametrize(
    ("damage", "names"),
    [(break_syntax, "line"), (add_unknown_key, "slotz"), (remove_it, "there is no such file")],
    ids=["syntax", "unknown key", "missing"],
)
def test_a_broken_team_file(
    service: str,
    damage: Callable[[Path], None],
    names: str,
    stack: Stack,
    team: Path,
    transcript: Transcript,
) -> None:
    damage(team)
    told = refused_by_compose(stack, service, {"TEAM_DIR": str(team)})
    line = one_sentence(f"team file, {damage.__name__} ({service})", told, transcript)
    assert "/etc/codehornets/team.toml" in line and names in line


def test_a_worker_that_the_team_file_does_not_have(stack: Stack, team: Path, transcript: Transcript) -> None:
    remove_marie(team)
    line = one_sentence("not in the team", refused_by_compose(stack, "marie", {"TEAM_DIR": str(team)}), transcript)
    assert "there is no worker 'marie' in /etc/codehornets/team.toml" in line


def test_a_published_port_that_is_taken_is_told_by_the_engine(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stack.port = taken.getsockname()[1]
        ran = stack.compose("up", "-d", "orchestrator", check=False, shown=True)
    assert re.search("address already in use|port is already allocated", ran.stdout + ran.stderr), ran.stderr
    assert ran.returncode != 0


@pytest.mark.parametrize("role", ["worker", "orchestrator"])
def test_a_port_that_another_one_of_its_network_has(
    role: str, engine: Engine, images: Images, transcript: Transcript
) -> None:
    """As two containers in one pod, or on the host's network."""
    options = [*CONFINED, *PLACES, "-e", "AGENT=echo", "-e", "HTTP_PORT=8081"]
    first = engine("run", "-d", "--network", "none", *options, images.worker, "worker", "anga").stdout.split()[-1]
    try:
        wait_healthy(engine, first)
        image, arguments = (images.worker, ["worker", "marie"]) if role == "worker" else (images.orchestrator, [role])
        second = engine("run", "--rm", "--network", f"container:{first}", *options, image, *arguments, check=False)
    finally:
        engine("rm", "-f", "-v", first)
    assert second.returncode == 2, (second.returncode, second.stderr)
    line = one_sentence(f"used port ({role})", second.stderr, transcript)
    assert "8081" in line and "HTTP_PORT" in line
