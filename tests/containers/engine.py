"""The container engine of this machine: found by the scripts that deploy, and asked directly where they do not ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.containers.transcript import Transcript
from tests.integration.harness import REPOSITORY
from tests.system_packages import find_program

DEPLOY = REPOSITORY / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.sh"
BASE = os.environ.get("BASE_IMAGE") or "docker.io/library/debian:bookworm-slim"

# What podman needs to run a team, and Debian's package of it.
_PODMAN_PARTS = {
    "podman": "podman",
    "runc": "runc",
    "catatonit": "catatonit",
    "iptables": "iptables",
    "slirp4netns": "slirp4netns",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}
_MACHINES_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class NoEngine(Exception):
    """No container can be run here; the text says why and what to do."""


@dataclass(frozen=True)
class Images:
    """The two images that this checkout was built into."""

    worker: str
    orchestrator: str

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which the scripts and the compose file use them."""
        return {"WORKER_IMAGE": self.worker, "ORCHESTRATOR_IMAGE": self.orchestrator}


@dataclass
class Engine:
    """Docker or podman."""

    program: str
    """`docker` or `podman`."""
    transcript: Transcript
    environ: dict[str, str] = field(default_factory=dict, repr=False)
    """What every process of the engine gets: nothing that changes a container unseen, such as proxies."""

    def __call__(
        self, *arguments: str, check: bool = True, timeout: float = 120, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `ENGINE ARGUMENTS…`; with `check` an exit code but 0 fails the test with what was said."""
        return run([self.program, *arguments], self.environ, check=check, timeout=timeout, text=text)

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """Return what the engine knows of an `image` or a `container`."""
        told: list[dict[str, Any]] = json.loads(self(kind, "inspect", name).stdout)
        return told[0]

    def versions(self) -> str:
        """Return the versions of engine and compose, for people."""
        engine = self("--version").stdout.strip()
        compose = run([str(COMPOSE), "version"], self.environ, check=False, timeout=60)
        line = next((line for line in compose.stdout.splitlines() if "compose" in line.lower()), "")
        return f"{engine}; {line}" if line else engine


def run(
    command: list[str],
    environ: dict[str, str],
    *,
    check: bool = True,
    timeout: float = 120,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with its output caught; with `check` an exit code but 0 fails the test with what was said."""
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environ,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def quiet_environ() -> dict[str, str]:
    """Return this process's environment without what an engine or the compose file would put into containers."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "XDG_",
        "DOCKER_",
        "CONTAINER",
        "PODMAN_",
        "BUILDAH_",
        "REGISTRY_",
        "TMPDIR",
        "USER",
    )
    return {name: value for name, value in os.environ.items() if name.startswith(kept)}


def open_engine(transcript: Transcript) -> Engine:
    """Return the engine that is there; as root on Debian podman is installed where there is none.

    Raises:
        NoEngine: there is none, or it cannot run a container from the base image.
    """
    if os.environ.get("CONTAINER_ENGINE") != "podman" and _docker_answers():
        program = "docker"
    elif os.environ.get("CONTAINER_ENGINE") != "docker" and _podman_is_there():
        program = "podman"
    else:
        raise NoEngine(
            "No container engine answers: start Docker, or install podman (as root on Debian it is done here)."
        )
    compose = run([str(COMPOSE), "version"], quiet_environ(), check=False)
    if compose.returncode != 0:
        raise NoEngine(_last_line(compose.stderr) or "deploy/compose/compose.sh finds no compose program.")
    engine = Engine(program, transcript)
    _use_local_settings(engine)
    if trouble := _cannot_run(engine):
        _make_local_images(engine, trouble)
    return engine


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False).returncode == 0


def _podman_is_there() -> bool:
    return all([find_program(program, package) for program, package in _PODMAN_PARTS.items()][:1])


def _use_local_settings(engine: Engine) -> None:
    engine.environ = quiet_environ()
    settings = REPOSITORY / ".containers" / "containers.conf"
    if engine.program == "podman" and settings.is_file():
        engine.environ.setdefault("CONTAINERS_CONF", str(settings))
    engine.environ["CONTAINER_ENGINE"] = engine.program


def _cannot_run(engine: Engine) -> str:
    """Return why no container of the base image can be run; "" where one can."""
    ran = engine("run", "--rm", "--network", "none", BASE, "true", check=False, timeout=300)
    return "" if ran.returncode == 0 else _last_line(ran.stderr) or f"exit code {ran.returncode}"


def _make_local_images(engine: Engine, trouble: str) -> None:
    script = "deploy/local-images.sh"
    advice = f"Where no image registry is reached, {script} (as root, with podman) makes the base images."
    if engine.program != "podman" or os.geteuid() != 0 or find_program("debootstrap", "debootstrap") is None:
        raise NoEngine(f"{engine.program} cannot run {BASE}: {trouble}. {advice}")
    engine.transcript.say(f"{engine.program} cannot run {BASE} as it is: making the base images here")
    engine.transcript.command([script])
    made = subprocess.run([str(REPOSITORY / script)], stdout=sys.stderr, timeout=1200, check=False)
    _use_local_settings(engine)
    if made.returncode != 0 or (trouble := _cannot_run(engine)):
        raise NoEngine(f"{script} did not help: {trouble}.")


def build_images(engine: Engine, show_output: Callable[[list[str], dict[str, str]], int]) -> Images:
    """Build both images under names of this checkout; what is built once is found in the engine's cache the next time.

    Where WORKER_IMAGE and ORCHESTRATOR_IMAGE name some, those are tested as they are.

    Args:
        engine: The engine.
        show_output: Runs a command with its output on the terminal and returns its exit code.

    Raises:
        AssertionError: the build failed.
    """
    named = os.environ.get("WORKER_IMAGE"), os.environ.get("ORCHESTRATOR_IMAGE")
    if named[0] and named[1]:
        return Images(named[0], named[1])
    tag = f"test-{sha256(str(REPOSITORY).encode()).hexdigest()[:8]}"
    images = Images(f"codehornets-ai/worker:{tag}", f"codehornets-ai/orchestrator:{tag}")
    engine.transcript.hide(tag, "test")
    # A build downloads, so it needs the proxies and certificates of this machine.
    environ = {**os.environ, **engine.environ, **images.environ}
    if "CA_BUNDLE" not in environ and _MACHINES_CERTIFICATES.is_file():
        environ["CA_BUNDLE"] = str(_MACHINES_CERTIFICATES)
    engine.transcript.command(["deploy/build.sh"], images.environ)
    code = show_output([str(DEPLOY / "build.sh")], environ)
    assert code == 0, f"deploy/build.sh ended with {code}"
    return images


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
