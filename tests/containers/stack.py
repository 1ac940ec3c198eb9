"""A composed team under test: its own project name, ports and volumes, and the ways into it that people have."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.containers.engine import COMPOSE, Engine, run
from tests.waiting import wait_until

TEAM = ("marie", "anga", "fabien")

_PROJECT = "com.docker.compose.project"

_numbers = itertools.count(1)


def dropping(worker: str, tasks: dict[str, dict[str, Any]]) -> str:
    """Return a script of sh that drops tasks for a worker as files, each renamed into place."""
    folder = f"/shared/triggers/{worker}"
    script = ["set -e", f"mkdir -p {folder}"]
    for task_id, task in tasks.items():
        body = shlex.quote(json.dumps({"task_id": task_id, **task}))
        script.append(f"printf %s {body} > {folder}/.{task_id}.tmp")
        script.append(f"mv {folder}/.{task_id}.tmp {folder}/task-{task_id}.trigger")
    return "\n".join(script)


def free_port() -> int:
    """Return a port of loopback that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@dataclass
class Stack:
    """One `compose up`, from its environment to its end."""

    engine: Engine
    variables: dict[str, str] = field(default_factory=dict)
    """What a person would type before the command; shown in the transcript."""
    surroundings: dict[str, str] = field(default_factory=dict)
    """What keeps tests apart: ports, images, places."""
    profiles: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """Compose files beside the usual one."""
    script: Path = COMPOSE
    """The compose.sh of a checkout."""
    project: str = field(default_factory=lambda: f"chtest{os.getpid()}n{next(_numbers)}")
    seconds_to_healthy: float = 0.0
    _token: str = ""
    _services: list[str] = field(default_factory=list)
    _containers: dict[str, str] = field(default_factory=dict)
    _checks: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.prometheus_port = free_port()

    @property
    def environ(self) -> dict[str, str]:
        """The environment of every call of compose."""
        own = {
            "COMPOSE_PROJECT_NAME": self.project,
            "ORCHESTRATOR_PORT": str(self.port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
        }
        return {**self.engine.environ, **own, **self.surroundings, **self.variables}

    def compose(
        self, *arguments: str, check: bool = True, timeout: float = 180, shown: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run deploy/compose/compose.sh for this stack."""
        options = [option for path in self.files for option in ("-f", str(path))]
        options += [option for profile in self.profiles for option in ("--profile", profile)]
        if shown:
            self.say_command("deploy/compose/compose.sh", *options, *arguments)
        self._containers.clear()
        return run([str(self.script), *options, *arguments], self.environ, check=check, timeout=timeout)

    def say(self, line: str) -> None:
        """Tell one line in the transcript."""
        self.engine.transcript.say(f"  {line}")

    def say_command(self, *command: str) -> None:
        """Tell a command in the transcript, with the variables that choose the mode."""
        self.engine.transcript.command(command, self.variables)

    def services(self) -> list[str]:
        """Return the services that the profiles ask for."""
        if not self._services:
            self._services = self.compose("config", "--services").stdout.split()
        return self._services

    def up(self, *services: str) -> float:
        """Start it; returns the seconds until every service answers its health check."""
        began = time.monotonic()
        self.compose("up", "-d", *services, shown=True)
        self.wait_healthy(*services)
        return time.monotonic() - began

    def wait_healthy(self, *services: str, timeout: float = 90) -> None:
        """Wait until the health check of each of them succeeds."""
        deadline = time.monotonic() + timeout
        for service in services or self.services():
            wait_until(
                lambda service=service: self.is_healthy(service),  # type: ignore[misc]
                max(deadline - time.monotonic(), 0.1),
                f"health of {service}",
            )

    def is_healthy(self, service: str) -> bool:
        """Tell whether the service's own check succeeds now. It is run here: some engines need systemd to do it."""
        if service not in self._checks:
            test = self.inspect(service)["Config"]["Healthcheck"]["Test"]
            self._checks[service] = ["/bin/sh", "-c", *test[1:]] if test[0] == "CMD-SHELL" else test[1:]
        healthy = self.exec(service, *self._checks[service], check=False, timeout=30).returncode == 0
        if not healthy:
            # There may be a new container by now.
            self._containers.pop(service, None)
        return healthy

    def container(self, service: str) -> str:
        """Return the id of the service's container, running or not."""
        if service in self._containers:
            return self._containers[service]
        labels = {_PROJECT: self.project, "com.docker.compose.service": service}
        filters = [part for label, value in labels.items() for part in ("--filter", f"label={label}={value}")]
        found = self.engine("ps", "-aq", *filters).stdout.split()
        assert found, f"there is no container of {service}"
        self._containers[service] = found[0]
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of the service's container."""
        return self.engine.inspect("container", self.container(service))

    def exec(
        self, service: str, *command: str, check: bool = True, timeout: float = 60, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's container."""
        options = ["-i"] if text is not None else []
        return self.engine("exec", *options, self.container(service), *command, check=check, timeout=timeout, text=text)

    def shell(self, service: str, script: str, *, timeout: float = 60, check: bool = True) -> str:
        """Run a script of sh in the service's container and return what it printed."""
        return self.exec(service, "/bin/sh", "-c", script, timeout=timeout, check=check).stdout

    def logs(self, service: str) -> str:
        """Return what the service's container has said."""
        told = self.engine("logs", self.container(service), check=False)
        return told.stdout + told.stderr

    def kill(self, service: str) -> None:
        """End everything in the service's container with SIGKILL, as a machine that loses its power does."""
        container = self.container(service)
        self.engine.transcript.command([self.engine.program, "kill", "--signal", "KILL", service])
        self.engine("kill", "--signal", "KILL", container)

    def start(self, service: str) -> None:
        """Start the service's container again, unless the engine has done so."""
        self.engine("start", self.container(service), check=False)
        self.wait_healthy(service)

    # -- tasks

    @property
    def token(self) -> str:
        """The orchestrator's API token, read as the guide says."""
        if not self._token:
            self._token = self.exec("orchestrator", "cat", "/var/lib/codehornets/api-token").stdout.strip()
            self.engine.transcript.hide(self._token)
        return self._token

    def call(
        self, method: str, path: str, *, token: str | None = None, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request to the API by its published port; `token` "" sends none."""
        chosen = self.token if token is None else token
        headers = {**(headers or {}), **({"Authorization": f"Bearer {chosen}"} if chosen else {})}
        url = f"http://127.0.0.1:{self.port}/api/v1{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, **{"timeout": 70, **options})

    def submit(self, **task: Any) -> str:
        """Hand a task in through the API; returns its id."""
        answer = self.call("POST", "/tasks", json=task)
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return str(told["tasks"][0]["task_id"])

    def submit_stubbornly(self, timeout: float = 60, **task: Any) -> str:
        """Hand a task in as a client does whose server may be away: again, with the same key, until it is taken."""
        key = {"Idempotency-Key": uuid4().hex}
        deadline = time.monotonic() + timeout
        while True:
            try:
                # A connection to a container that has just gone is never answered, not even refused.
                answer = self.call("POST", "/tasks", json=task, headers=key, timeout=5)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code in (200, 201):
                return str(answer.json()["tasks"][0]["task_id"])
            assert answer is None or answer.status_code == 503, answer.text
            assert time.monotonic() < deadline, f"the API took no task within {timeout:g} s"
            time.sleep(0.1)

    def completed(self) -> set[str]:
        """Return all tasks that the ledger has as completed."""
        found: set[str] = set()
        cursor: str | None = None
        while True:
            query = {"state": "completed", "limit": "500", **({"cursor": cursor} if cursor else {})}
            page = self.call("GET", "/tasks", params=query).json()
            found |= {task["task_id"] for task in page["tasks"]}
            cursor = page.get("next_cursor")
            if cursor is None:
                return found

    def answer(self, task_id: str, timeout: int = 60) -> str:
        """Wait for a task's end through the API and return its output."""
        answer = self.call("GET", f"/tasks/{task_id}/result", params={"wait": timeout})
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert result["status"] == "completed", answer.text
        return str(result["output"])

    def state(self, task_id: str) -> str:
        """Return the state that the ledger has; "" where it knows no such task."""
        answer = self.call("GET", f"/tasks/{task_id}")
        return str(answer.json()["state"]) if answer.status_code == 200 else ""

    def drop(self, worker: str, task_id: str, description: str, **fields: Any) -> None:
        """Drop a task as a file, from within the worker's container."""
        self.drop_all(worker, {task_id: {"description": description, **fields}})

    def drop_all(self, worker: str, tasks: dict[str, dict[str, Any]], *, through: str = "orchestrator") -> None:
        """Drop tasks as files, each renamed into place, from within the container of `through`."""
        self.shell(through, dropping(worker, tasks))

    @contextmanager
    def outsider(self) -> Iterator[Callable[[dict[str, dict[str, Any]], str], None]]:
        """Yield a function that drops tasks as files while any service may be away: `drop(tasks, worker)`.

        A container of its own writes them into the volume, as any other program would.
        """
        volume = next(mount["Name"] for mount in self.inspect("fabien")["Mounts"] if mount["Destination"] == "/shared")
        options = ["--init", "--no-healthcheck", "--network", "none", "--label", f"{_PROJECT}={self.project}"]
        image = self.surroundings["ORCHESTRATOR_IMAGE"]
        begun = self.engine(
            *("run", "-d", *options, "-v", f"{volume}:/shared", "--entrypoint", "sleep", image, "infinity")
        )
        container = begun.stdout.split()[-1]
        try:

            def drop(tasks: dict[str, dict[str, Any]], worker: str) -> None:
                self.engine("exec", container, "/bin/sh", "-c", dropping(worker, tasks))

            yield drop
        finally:
            self.engine("rm", "-f", container, check=False)

    def result(self, worker: str, task_id: str, timeout: float = 40) -> dict[str, Any]:
        """Wait for a result's file and return it."""
        path = f"/shared/results/{worker}/{task_id}.json"
        told = self.wait_in("orchestrator", f"[ -e {path} ]", f"cat {path}", timeout=timeout)
        result: dict[str, Any] = json.loads(told)
        return result

    def wait_in(self, service: str, condition: str, then: str = "true", *, timeout: float = 30) -> str:
        """Wait in the container for a condition of sh; returns what `then` prints."""
        script = (
            f"end=$(($(date +%s) + {int(timeout)})); "
            f'until {condition}; do [ "$(date +%s)" -lt "$end" ] || exit 99; sleep 0.05; done; {then}'
        )
        done = self.exec(service, "/bin/sh", "-c", script, check=False, timeout=timeout + 30)
        assert done.returncode == 0, f"not within {timeout:g} s in {service}: {condition}\n{done.stderr}"
        return done.stdout

    def stop(self, *services: str) -> float:
        """Run `compose stop`; returns the seconds that it took."""
        began = time.monotonic()
        self.compose("stop", *services, shown=True)
        return time.monotonic() - began

    def exit_code(self, service: str) -> int:
        """Return the exit code of a container that has ended."""
        return int(self.inspect(service)["State"]["ExitCode"])

    def down(self) -> None:
        """Remove containers, networks and volumes; nothing of it may fail a test that went well."""
        self.compose("down", "-v", "-t", "3", check=False)
        self.remove_left_overs()

    def remove_left_overs(self) -> None:
        """Remove by its label what a compose program has left, such as a stopped service of another profile."""
        label = f"label={_PROJECT}={self.project}"
        for listing, removal in (
            (["ps", "-aq"], ["rm", "-f", "-v"]),
            (["volume", "ls", "-q"], ["volume", "rm", "-f"]),
            (
                ["network", "ls", "-q"],
                ["network", "rm", "-f"] if self.engine.program == "podman" else ["network", "rm"],
            ),
        ):
            left = self.engine(*listing, "--filter", label, check=False).stdout.split()
            if left:
                self.engine(*removal, *left, check=False)

    def report(self, services: Sequence[str] = ()) -> str:
        """Return the last lines of every container, for the report of a test that failed."""
        told = []
        for service in services or self.services():
            try:
                lines = self.logs(service).splitlines()[-25:]
            except AssertionError as error:
                lines = [str(error)]
            told.append("\n".join([f"--- {service}", *lines]))
        return "\n".join(told)
