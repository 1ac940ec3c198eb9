"""`python -m benchmarks.containers`: measure the composed team in every mode, with the echo agent, and print tables.

Needs built images and a container engine of this host (Linux). The team has a project name, ports and volumes of its
own, which are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.__main__ import machine
from benchmarks.rig import ROOT, Percentiles, free_port, p95_of, say

WORKERS = ("marie", "anga", "fabien")
MODES: dict[str, tuple[dict[str, str], list[str]]] = {
    "polling": ({}, []),
    "event-driven": ({"ACTIVATION_WRAPPER": "1"}, ["activated"]),
    "hooks": ({"HOOKS_MODE": "1"}, ["hooks"]),
    "hybrid": ({"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1"}, ["hybrid"]),
}
"""What is typed for each: variables, and profiles."""
SETTLE_S = 15.0
"""A team that has just started still writes bytecode, heartbeats and probes."""


@dataclass
class Stack:
    """The composed team of one mode."""

    environ: dict[str, str]
    profiles: list[str] = field(default_factory=list)

    def compose(self, *arguments: str, given: str | None = None) -> str:
        """Run compose; returns what it prints.

        Raises:
            RuntimeError: it failed.
        """
        chosen = [word for profile in self.profiles for word in ("--profile", profile)]
        command = [str(ROOT / "deploy" / "compose" / "compose.sh"), *chosen, *arguments]
        return _run(command, environ=self.environ, given=given)

    def client(self, *arguments: str) -> dict[str, list[float]]:
        """Run the client inside the orchestrator's container."""
        program = (ROOT / "benchmarks" / "container_client.py").read_text()
        exec_python = ["exec", "-T", "orchestrator", "/opt/codehornets/bin/python", "-P", "-"]
        printed = self.compose(*exec_python, *arguments, given=program)
        figures: dict[str, list[float]] = json.loads(printed.splitlines()[-1])
        return figures

    def processes(self, engine: str) -> dict[str, int]:
        """Return the first process of each service, as this host numbers it."""
        label = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Pid}}'
        containers = self.compose("ps", "-q").split()
        lines = _run([engine, "inspect", "--format", label, *containers], environ=self.environ).splitlines()
        return {service: int(pid) for service, pid in (line.split() for line in lines)}


def _run(command: list[str], *, environ: dict[str, str], given: str | None = None) -> str:
    ran = subprocess.run(
        command, env=environ, input=given, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT
    )
    if ran.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} … failed:\n{ran.stderr[-2000:]}")
    return ran.stdout


@contextmanager
def open_stack(environ: dict[str, str], variables: dict[str, str], profiles: list[str]) -> Iterator[Stack]:
    """Start the team in one mode; it is removed with its volumes afterwards."""
    stack = Stack({**environ, **variables}, profiles)
    try:
        stack.compose("up", "-d")
        yield stack
    finally:
        stack.compose("down", "-v", "-t", "10")


@dataclass(frozen=True)
class ControlGroup:
    """The kernel's account of one container."""

    cpu: Path
    memory: Path
    second_version: bool

    @classmethod
    def of(cls, pid: int) -> ControlGroup:
        """Find that of a process, in either version of control groups."""
        places: dict[str, tuple[str, str]] = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            places.update({name: (controllers, path.lstrip("/")) for name in controllers.split(",")})
        root = Path("/sys/fs/cgroup")
        if "cpuacct" in places:
            cpu, memory = places["cpuacct"], places["memory"]
            return cls(root / cpu[0] / cpu[1], root / memory[0] / memory[1], second_version=False)
        return cls(root / places[""][1], root / places[""][1], second_version=True)

    def cpu_s(self) -> float:
        """Return the processor time used so far."""
        if not self.second_version:
            return int((self.cpu / "cpuacct.usage").read_text()) / 1e9
        return _value(self.cpu / "cpu.stat", "usage_usec") / 1e6

    def memory_mb(self) -> float:
        """Return the memory in use, in megabytes (10^6 bytes), without the file pages that could be dropped."""
        name, inactive = ("memory.current", "inactive_file") if self.second_version else _FIRST_VERSION
        used = int((self.memory / name).read_text()) - _value(self.memory / "memory.stat", inactive)
        return used / 1e6


_FIRST_VERSION = ("memory.usage_in_bytes", "total_inactive_file")


def _value(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name)


def _busy_s() -> float:
    """Return how long the processors of this host have been at work, all together."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq = ticks[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """What one mode was measured to be."""

    ready_s: float
    latency: Percentiles
    p95_ms: float
    rate: float
    idle_cpu: dict[str, float]
    """Per cent of one core, by service."""
    memory_mb: dict[str, float]
    others: float
    """Per cent of all cores that everything else on this host used during the idle minute."""


def measure(mode: str, engine: str, environ: dict[str, str], samples: int, tasks: int, idle_s: float) -> Figures:
    """Start the team in a mode and measure it."""
    variables, profiles = MODES[mode]
    started = time.monotonic()
    with open_stack(environ, variables, profiles) as stack:
        stack.client(WORKERS[0], "0", "0", "0", *WORKERS[1:])
        ready_s = time.monotonic() - started
        say(f"{mode}: ready after {ready_s:.1f} s; idle for {idle_s:.0f} s")
        time.sleep(SETTLE_S)
        groups = {name: ControlGroup.of(pid) for name, pid in stack.processes(engine).items()}
        before, busy = {name: group.cpu_s() for name, group in groups.items()}, _busy_s()
        time.sleep(idle_s)
        used = {name: group.cpu_s() - before[name] for name, group in groups.items()}
        others = 100 * (_busy_s() - busy - sum(used.values())) / idle_s / (os.cpu_count() or 1)
        memory = {name: group.memory_mb() for name, group in groups.items()}
        say(f"{mode}: {samples} triggers one at a time, then {tasks} at once, three times")
        gap_s = "1" if mode == "polling" else "0.1"
        figures = stack.client(WORKERS[0], str(samples), gap_s, str(tasks), *WORKERS[1:])
    taken = figures["latencies_ms"]
    share = {name: 100 * used_s / idle_s for name, used_s in used.items()}
    rate = statistics.median(figures["rates"])
    return Figures(ready_s, Percentiles.of(taken), p95_of(taken), rate, share, memory, others)


def tables(measured: dict[str, Figures], tasks: int) -> str:
    """Return the figures as two markdown tables: at work, and idle."""
    work = [
        f"| mode | trigger → result: p50 | p95 | p99 | {tasks} triggers at once | `up` → all ready |",
        "|---|---|---|---|---|---|",
    ]
    idle = [
        "| idle | CPU: a worker | orchestrator | Redis | memory: a worker | orchestrator | Redis |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, of in measured.items():
        waits = [f"{value:.1f} ms" for value in (of.latency.p50_ms, of.p95_ms, of.latency.p99_ms)]
        work.append(f"| {' | '.join([mode, *waits, f'{of.rate:,.0f}/s', f'{of.ready_s:.1f} s'])} |")
        cells = [mode]
        for figures, form in ((of.idle_cpu, "{:.2f} %"), (of.memory_mb, "{:.0f} MB")):
            cells.append(form.format(statistics.mean(figures[name] for name in WORKERS)))
            cells += [form.format(figures[name]) if name in figures else "" for name in ("orchestrator", "redis")]
        idle.append(f"| {' | '.join(cells)} |")
    return "\n".join([*work, "", *idle])


def main() -> None:
    """Measure the modes that are asked for; the tables go to stdout, progress to stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("--samples", type=int, default=100, help="triggers, one at a time (100)")
    parser.add_argument("--tasks", type=int, default=200, help="triggers at once (200)")
    parser.add_argument(
        "--idle", type=float, default=60.0, metavar="SECONDS", help="how long to look at an idle team (60)"
    )
    parser.add_argument("--only", choices=list(MODES), help="one mode alone")
    options = parser.parse_args()
    port = str(free_port())
    environ = {**os.environ, "COMPOSE_PROJECT_NAME": "codehornets-bench", "ORCHESTRATOR_PORT": port, "AGENT": "echo"}
    for variable in (
        "WORKER_MODE",
        "ACTIVATION_WRAPPER",
        "ACTIVATION_MODE",
        "HOOKS_MODE",
        "SHARED_VOLUME",
        "REDIS_URL",
    ):
        environ[variable] = ""
    try:
        engine_script = (
            f'. "{ROOT}/deploy/engine.sh"; echo "$engine"; "$engine" version --format "{{{{.Client.Version}}}}"'
        )
        engine, version = _run(["bash", "-euc", engine_script], environ=environ).split()
        if (settings := ROOT / ".containers" / "containers.conf").exists():
            environ.setdefault("CONTAINERS_CONF", str(settings))
        measured = {}
        for mode in [options.only] if options.only else MODES:
            measured[mode] = measure(mode, engine, environ, options.samples, options.tasks, options.idle)
            say(f"{mode}: everything else on this host used {measured[mode].others:.0f} % of its processors meanwhile")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the team is removed.")
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"benchmarks.containers: {error}")
    others = statistics.mean(figures.others for figures in measured.values())
    print(f"{machine()}; {engine} {version}; other programs used {others:.0f} % of the processors\n")
    print(tables(measured, options.tasks))


if __name__ == "__main__":
    main()
