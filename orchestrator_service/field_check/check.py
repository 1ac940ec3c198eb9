"""The field check of one service: what is looked at, in which order, and what the one tells of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_bus.heartbeats import is_alive, read_heartbeat
from agent_bus.layout import ORCHESTRATOR, WorkerLayout
from orchestrator_service.field_check import flow, life, pipes, places, sidecar
from orchestrator_service.field_check.subject import Subject, look_at
from orchestrator_service.findings import Finding, Grade

_PIPED: Final = frozenset(("hooks", "hybrid"))
_START_WORKER: Final = "start it, as with `codehornets up` or `codehornets worker`"
_START_ORCHESTRATOR: Final = "start it, as with `codehornets up`"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How far the check goes."""

    triggers: int = 10
    """How many triggers the latency is measured by; 0 leaves it out."""
    max_latency_ms: float | None = None
    """What their median may be; None goes by the mode."""
    with_task: bool = False
    """Whether a whole task is run, which a real model charges for."""
    sees_processes: bool = True
    """Whether the processes of this host are to be looked for."""


def check_worker(
    name: str,
    shared: Path,
    extent: Extent,
    *,
    rules: Path | None = None,
    ring: flow.Ring | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[Finding]:
    """Check a worker, a finding at a time.

    Args:
        name: The worker.
        shared: The shared directory.
        extent: How far to go.
        rules: The hook rules that the team has for it, if any; what the worker itself was told wins.
        ring: Tells it of a new file by Redis; None where there is no Redis.
        progress: Told in a few words what takes its time.
    """
    layout = WorkerLayout.under(shared, name)
    beat = read_heartbeat(layout.heartbeat(name))
    if beat is None:
        yield Finding("heartbeat", Grade.BROKEN, f"there is none in {layout.heartbeat(name)}", _START_WORKER)
        yield from places.check_directories(layout, has_pipes=False)
        return
    subject = look_at(name, layout, beat, program="worker_service", sees_processes=extent.sees_processes)
    yield life.check_heartbeat(subject, _START_WORKER)
    yield life.check_process(subject, wanted=extent.sees_processes, start=_START_WORKER)
    piped = beat.mode in _PIPED
    yield from places.check_directories(subject.layout, has_pipes=piped)
    yield from sidecar.check_http(subject)
    if piped:
        yield from places.check_hook_rules(subject, rules)
        yield from pipes.check_pipes(subject, speak=_may_answer(subject))
    yield from _check_flow(subject, extent, ring, progress)
    # Last, since what was done before is in it.
    yield places.check_log(subject.layout.log(name), subject)


def _check_flow(
    subject: Subject, extent: Extent, ring: flow.Ring | None, progress: Callable[[str], None]
) -> Iterator[Finding]:
    if not _may_answer(subject):
        for what in ("trigger", *(["latency"] if extent.triggers else []), *(["task"] if extent.with_task else [])):
            yield Finding(what, Grade.LEFT_OUT, "nobody is there to take one, see above")
        return
    pace = flow.pace_of(subject, max_latency_ms=extent.max_latency_ms, rings=ring is not None)
    taken = True
    for finding in flow.check_triggers(subject, pace, extent.triggers, ring=ring, progress=progress):
        taken = taken and not (finding.subject == "trigger" and finding.grade is Grade.BROKEN)
        yield finding
    if extent.with_task and taken:
        yield flow.check_task(subject, ring=ring, progress=progress)
    elif extent.with_task:
        yield Finding("task", Grade.LEFT_OUT, "see above")


def _may_answer(subject: Subject) -> bool:
    """Tell whether to wait for the worker is worth the time: a trigger that nobody takes costs seconds."""
    if subject.process is not None:
        return subject.process.trouble is None
    return is_alive(subject.beat)


def check_orchestrator(shared: Path, extent: Extent) -> Iterator[Finding]:
    """Check the orchestrator of a shared directory, a finding at a time."""
    path = shared / "heartbeats" / f"{ORCHESTRATOR}.json"
    beat = read_heartbeat(path)
    if beat is None:
        yield Finding("heartbeat", Grade.BROKEN, f"there is none in {path}", _START_ORCHESTRATOR)
        return
    layout = WorkerLayout.under(shared, ORCHESTRATOR)
    subject = look_at(ORCHESTRATOR, layout, beat, program="orchestrator_service", sees_processes=extent.sees_processes)
    yield life.check_heartbeat(subject, _START_ORCHESTRATOR)
    yield life.check_process(subject, wanted=extent.sees_processes, start=_START_ORCHESTRATOR)
    yield from sidecar.check_http(subject)
    yield places.check_log(layout.logs / f"{ORCHESTRATOR}.log", subject)
