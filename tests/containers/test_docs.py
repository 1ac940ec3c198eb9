"""The commands of the guides for containers, run as they stand, in the order in which they stand.

Each page has a clone and a team of its own. A section begins without what the one before has put into `.env`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.conftest import remove
from tests.containers.engine import Engine
from tests.containers.stack import Stack
from tests.docs_blocks import Block, blocks_of, prints
from tests.integration.harness import REPOSITORY
from tests.waiting import wait_until

PAGES = ("deployment.md", "quick-reference.md", "upgrading.md")
FOREGROUND = "composed: stopped first, in the foreground"
WITH_BUNDLE = "composed: where the bundle is there"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

_PATIENCE_S = 400


@dataclass
class Reader:
    """Somebody who follows a page in a clone of the project."""

    stack: Stack
    clone: Path
    programs: Path
    """Comes first on the PATH: a `docker` for those who have podman, and a `sudo` for root."""
    section: str = ""

    @property
    def environ(self) -> dict[str, str]:
        environ = {**self.stack.environ, "AGENT": "echo"}
        return environ | {"PATH": f"{self.programs}:{environ['PATH']}"}

    def script(self, block: Block) -> str:
        """Return the block with the ports of this team in place of the usual ones."""
        text = block.text.replace("127.0.0.1:8700", f"127.0.0.1:{self.stack.port}")
        text = text.replace("127.0.0.1:9090", f"127.0.0.1:{self.stack.prometheus_port}")
        return text

    def begin_section(self, section: str) -> None:
        """Forget what the last section has set."""
        if section != self.section:
            self.section = section
            (self.clone / "deploy" / "compose" / ".env").unlink(missing_ok=True)

    def run(self, block: Block) -> str:
        """Run a block to its end; returns what it printed."""
        environ = self.environ
        if "make build" in block.text:
            # A build downloads: it needs the proxies and certificates of this machine.
            environ = {**os.environ, **environ, **({"CA_BUNDLE": str(BUNDLE)} if BUNDLE.is_file() else {})}
        ran = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", self.script(block)],
            cwd=self.clone,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        assert ran.returncode == 0, f"{block} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def run_in_foreground(self, block: Block) -> None:
        """Run what serves until Ctrl-C, and press that when all of it is healthy."""
        subprocess.run(["make", "stop"], cwd=self.clone, env=self.environ, check=True, capture_output=True, timeout=120)
        process = subprocess.Popen(
            ["bash", "-eu", "-c", self.script(block)],
            cwd=self.clone,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            services = ["marie", "anga", "fabien", "orchestrator"]
            services += ["redis"] if "--profile hybrid" in block.text else []
            for service in services:
                wait_until(lambda service=service: self._is_healthy(service), 120, f"health of {service}")  # type: ignore[misc]
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        # podman may take what Ctrl-C ended for a service that fell over, and start it again; the page says so.
        subprocess.run(["make", "stop"], cwd=self.clone, env=self.environ, check=True, capture_output=True, timeout=120)
        wait_until(lambda: not self._running("marie"), 90, "the team has stopped")

    def _running(self, service: str) -> str:
        """Return the id of the service's running container; "" where there is none. A page makes them anew."""
        labels = {"com.docker.compose.project": self.stack.project, "com.docker.compose.service": service}
        filters = [part for label, value in labels.items() for part in ("--filter", f"label={label}={value}")]
        return self.stack.engine("ps", "-q", *filters).stdout.strip()

    def _is_healthy(self, service: str) -> bool:
        check = (
            ["/bin/sh", "/etc/codehornets/redis.sh", "check"] if service == "redis" else ["/usr/local/bin/healthcheck"]
        )
        container = self._running(service)
        return bool(container) and self.stack.engine("exec", container, *check, check=False).returncode == 0


def _clone(folder: Path) -> Path:
    """Copy what git knows or would take, since a clone of the last commit would not have what is being tested."""
    clone = folder / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, clone / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    if (REPOSITORY / ".containers").is_dir():
        shutil.copytree(REPOSITORY / ".containers", clone / ".containers")
    return clone


def _programs(folder: Path, clone: Path, engine: Engine) -> Path:
    programs = folder / "programs"
    programs.mkdir()
    if engine.program != "docker":
        script = f'[ "$1" = compose ] || exit 1\nshift\nexec {clone}/deploy/compose/compose.sh "$@"\n'
        (programs / "docker").write_text(f"#!/bin/sh\n{script}")
    if os.geteuid() == 0:
        (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return programs


@pytest.fixture(scope="module", params=PAGES)
def reader(
    request: pytest.FixtureRequest,
    engine: Engine,
    new_stack: Callable[..., Stack],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    clone = _clone(folder)
    stack = new_stack()
    yield Reader(stack, clone, _programs(folder, clone, engine))
    remove(stack)


@pytest.mark.timeout(1500, func_only=True)
def test_the_commands_of_a_page_do_what_it_says(reader: Reader, request: pytest.FixtureRequest) -> None:
    page = REPOSITORY / "docs" / request.node.callspec.params["reader"]
    blocks = [block for block in blocks_of(page) if block.marker.startswith("composed")]
    assert blocks
    for block in blocks:
        reader.begin_section(block.section)
        if block.marker == FOREGROUND:
            reader.run_in_foreground(block)
        elif block.marker != WITH_BUNDLE or BUNDLE.is_file():
            printed = reader.run(block)
            if block.output is not None:
                assert prints(block.output, printed), f"{block} printed:\n{printed}\nthe page says:\n{block.output}"
        reader.stack.say(f"{block} does what the page says")
