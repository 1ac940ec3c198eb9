"""`codehornets check`: the field check of running services, a line for each thing that was looked at."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from agent_bus.errors import QueueUnavailable
from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import ORCHESTRATOR, WorkerLayout
from agent_bus.messages import WorkerStatus
from orchestrator_service.cli.channels import find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir, find_worker, known_workers, team_here
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.field_check.check import Extent, check_orchestrator, check_worker
from orchestrator_service.field_check.flow import Ring
from orchestrator_service.findings import Finding, Grade
from orchestrator_service.team import TeamError
from orchestrator_service.worker_environment import hook_rules_of

_MARKS: Final = {
    Grade.GOOD: ("✓ PASS", "32"),
    Grade.NOTE: ("✓ PASS", "33"),
    Grade.BROKEN: ("✗ FAIL", "31"),
    Grade.LEFT_OUT: ("- LEFT OUT", "2"),
}
_MOST_TRIGGERS: Final = 10_000


def check(names: list[str], extent: Extent, *, shared_dir: Path | None, redis: str | None, as_json: bool) -> int:
    """Check the named services, by default all that run; 1 when something is broken."""
    if not 0 <= extent.triggers <= _MOST_TRIGGERS:
        raise UserError(f"--triggers is {extent.triggers}; allowed are 0 to {_MOST_TRIGGERS}.")
    if extent.max_latency_ms is not None and not extent.max_latency_ms > 0:
        raise UserError(f"--max-latency is {extent.max_latency_ms:g}; allowed are milliseconds above 0.")
    shared = find_shared_dir(shared_dir)
    chosen = _chosen(shared, names)
    if extent.with_task:
        print("codehornets: --task runs a whole task with each agent: a real model charges for it.", file=sys.stderr)
    found: list[tuple[str, Finding]] = []
    with ExitStack() as stack:
        for name in chosen:
            for finding in _findings(name, shared, extent, _ringer(stack, name, shared, redis)):
                found.append((name, finding))
                if not as_json:
                    _print_line(name, finding)
    counts = Counter(finding.grade for _, finding in found)
    passed, failed, left = counts[Grade.GOOD] + counts[Grade.NOTE], counts[Grade.BROKEN], counts[Grade.LEFT_OUT]
    if as_json:
        lines = [{"name": name, **finding.as_json()} for name, finding in found]
        print_json({"passed": passed, "failed": failed, "left_out": left, "checks": lines})
    else:
        print(f"Passed: {passed}")
        print(f"Failed: {failed}")
        if left:
            print(f"Left out: {left}")
    return int(failed > 0)


def _chosen(shared: Path, names: list[str]) -> list[str]:
    """Return whom to check.

    Raises:
        UserError: a name is unknown, or nothing runs.
    """
    for name in names:
        if name != ORCHESTRATOR:
            find_worker(shared, name)
    if names:
        return list(dict.fromkeys(names))
    running = [name for name in known_workers(shared) if _has_not_stopped(WorkerLayout.under(shared, name), name)]
    beat = read_heartbeat(shared / "heartbeats" / f"{ORCHESTRATOR}.json")
    if beat is not None and beat.status is not WorkerStatus.STOPPED:
        running.append(ORCHESTRATOR)
    if not running:
        raise UserError(f"Nothing runs on {shared}; start a team with `codehornets up`, or name another --shared-dir.")
    return running


def _has_not_stopped(layout: WorkerLayout, name: str) -> bool:
    # One that died has left a heartbeat that says that it runs.
    beat = read_heartbeat(layout.heartbeat(name))
    return beat is not None and beat.status is not WorkerStatus.STOPPED


def _findings(name: str, shared: Path, extent: Extent, ring: Ring | None) -> Iterator[Finding]:
    if name == ORCHESTRATOR:
        return check_orchestrator(shared, extent)
    try:
        team = team_here()
    except TeamError:
        # What is checked is what runs: the team file of this directory may be none of it.
        team = None
    rules = None if team is None else hook_rules_of(team, name)
    return check_worker(name, shared, extent, rules=rules, ring=ring, progress=_show_progress)


def _ringer(stack: ExitStack, name: str, shared: Path, redis: str | None) -> Ring | None:
    """Return what tells a worker of a file by Redis, where no event of the kernel does and a Redis is named."""
    beat = read_heartbeat(WorkerLayout.under(shared, name).heartbeat(name))
    if name == ORCHESTRATOR or beat is None or beat.mode != "event-driven" or "inotify" in beat.bells:
        return None
    channels = find_channels(shared, redis)
    if not channels.has_redis:
        return None
    client = stack.enter_context(channels.redis())

    def ring(path: Path) -> None:
        # A bell that cannot be rung is found out by the trigger that nobody takes.
        with suppress(QueueUnavailable):
            client.ring(name, os.fsencode(path))

    return ring


def _print_line(name: str, finding: Finding) -> None:
    _show_progress("")
    mark, colour = _MARKS[finding.grade]
    if sys.stdout.isatty():
        mark = f"\x1b[{colour}m{mark}\x1b[0m"
    mend = f" ({finding.mend})" if finding.mend else ""
    text = " ".join(harmless(f"{name}: {finding.subject}: {finding.text}{mend}").split())
    print(f"{mark}: {text}", flush=True)


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{harmless(text)}", end="", file=sys.stderr, flush=True)
