"""Whether what comes is taken: triggers through the real watcher, how long they take, and a whole task."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agent_bus.layout import TRIGGER_SUFFIX
from agent_bus.messages import Result, Task, TaskStatus
from orchestrator_service.field_check.sidecar import counted
from orchestrator_service.field_check.subject import Subject
from orchestrator_service.field_check.trigger_trip import TriggerDoor, open_door
from orchestrator_service.findings import Finding, Grade

EVENT_BOUND_MS: Final = 100.0
"""What the median may take where events tell of new files: a hundred times what it does."""
_POLLING: Final = "polling"
_USUAL_POLL_S: Final = 1.0
_USUAL_RESCAN_S: Final = 30.0
_PATIENCE_S: Final = 5.0
_COUNTED_WITHIN_S: Final = 2.0
_TASK_TIMEOUT_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.05
_EVENTS: Final = "codehornets_trigger_events_total"
_BODY: Final = b"a trigger of the field check: it means nothing\n"

Ring = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How soon a worker is to take a trigger."""

    bound_ms: float
    """What the median may be."""
    patience_s: float
    """After this long a trigger counts as not taken."""
    words: str
    """What finds new files."""
    is_measurable: bool = True
    """Whether each trigger can be waited for within a moment."""


def pace_of(subject: Subject, *, max_latency_ms: float | None, rings: bool) -> Pace:
    """Return what can be asked of the worker, by its mode and the wake-up sources that are in force.

    Args:
        subject: The worker.
        max_latency_ms: The bound that was asked for; None means that of the mode.
        rings: Whether it can be told of new files by Redis.
    """
    beat = subject.beat
    poll_s = subject.seconds("POLL_INTERVAL", _USUAL_POLL_S)
    rescan_s = subject.seconds("RESCAN_INTERVAL", _USUAL_RESCAN_S)
    by_messages = beat.mode == "event-driven" and _activation(subject) == "redis"
    if "inotify" in beat.bells:
        pace = Pace(bound_ms=EVENT_BOUND_MS, patience_s=_PATIENCE_S, words="inotify")
    elif by_messages and rings:
        pace = Pace(bound_ms=EVENT_BOUND_MS, patience_s=_PATIENCE_S, words="Redis messages")
    elif by_messages:
        words = f"a look every {rescan_s:g} s"
        patience_s = _PATIENCE_S + 2 * rescan_s
        pace = Pace(bound_ms=1500 * rescan_s, patience_s=patience_s, words=words, is_measurable=False)
    else:
        bound_ms = 1500 * poll_s + EVENT_BOUND_MS
        words = f"a look every {poll_s:g} s" + ("" if beat.mode == _POLLING else ", as inotify does not work there")
        pace = Pace(bound_ms=bound_ms, patience_s=_PATIENCE_S + 4 * poll_s, words=words)
    if max_latency_ms is None:
        return pace
    return replace(pace, bound_ms=max_latency_ms)


def _activation(subject: Subject) -> str:
    """Return what the worker was told to find new files by; without its word, what its bells suggest."""
    if subject.settings:
        return subject.settings.get("ACTIVATION_MODE", "inotify").lower()
    return "redis" if "redis" in subject.beat.bells else "inotify"


def check_triggers(
    subject: Subject, pace: Pace, number: int, *, ring: Ring | None, progress: Callable[[str], None]
) -> Iterator[Finding]:
    """Send one event through the watcher and judge it, then `number` more and judge how long they take."""
    with open_door(subject.layout.triggers) as door:
        first = _check_first(subject, door, pace, ring)
        yield first
        if not number:
            return
        if first.grade is Grade.BROKEN:
            yield Finding("latency", Grade.LEFT_OUT, "see above")
            return
        if not pace.is_measurable:
            mend = "name its Redis with --redis or REDIS_URL"
            yield Finding("latency", Grade.LEFT_OUT, "it is woken by Redis messages alone", mend)
            return
        taken_ms: list[float] = []
        for turn in range(1, number + 1):
            progress(f"{subject.name}: trigger {turn} of {number}")
            seconds = door.send(_new_name(), _BODY, within_s=pace.patience_s, ring=ring)
            if seconds is None:
                text = f"trigger {turn} of {number} was not taken within {pace.patience_s:g} s"
                yield Finding("latency", Grade.BROKEN, text, _mend(subject))
                return
            taken_ms.append(seconds * 1000)
    yield judge_latency(taken_ms, pace)


def _new_name() -> str:
    return f"field-check-{os.urandom(6).hex()}{TRIGGER_SUFFIX}"


def _mend(subject: Subject) -> str:
    return f"see `codehornets logs {subject.name}` and its /readyz; if nothing there tells why, start it anew"


def _check_first(subject: Subject, door: TriggerDoor, pace: Pace, ring: Ring | None) -> Finding:
    before = counted(subject, _EVENTS)
    name = _new_name()
    try:
        seconds = door.send(name, _BODY, within_s=pace.patience_s, ring=ring)
    except OSError as error:
        return Finding(
            "trigger",
            Grade.BROKEN,
            f"{subject.layout.triggers} takes no file: {error.strerror}",
            "mend its owner or mode, or make room",
        )
    if seconds is None:
        text = f"an event was not taken within {pace.patience_s:g} s, by {pace.words}"
        return Finding("trigger", Grade.BROKEN, text, _mend(subject))
    if (letter := _buried(subject, name)) is not None:
        mend = f"`codehornets dead-letters show {letter}` tells why; TRIGGER_OWNERS says whose files are taken"
        return Finding("trigger", Grade.BROKEN, "an event was set aside instead of published", mend)
    if before is None:
        return Finding("trigger", Grade.GOOD, f"an event was taken, by {pace.words}")
    if not _was_counted(subject, before):
        return Finding("trigger", Grade.BROKEN, "an event was taken and never counted", _mend(subject))
    return Finding("trigger", Grade.GOOD, f"an event was taken, published and counted, by {pace.words}")


def _buried(subject: Subject, name: str) -> str | None:
    with suppress(OSError), os.scandir(subject.layout.dead_letters) as entries:
        for entry in entries:
            if name in entry.name and not entry.name.endswith(".reason.json"):
                return entry.name
    return None


def _was_counted(subject: Subject, before: float) -> bool:
    deadline = time.monotonic() + _COUNTED_WITHIN_S
    while True:
        after = counted(subject, _EVENTS)
        if after is not None and after > before:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_EVERY_S)


def judge_latency(taken_ms: list[float], pace: Pace) -> Finding:
    """Judge how long triggers waited, by the median: one that was late may be the machine's fault."""
    low, middle, high = min(taken_ms), statistics.median(taken_ms), max(taken_ms)
    figures = {"triggers": float(len(taken_ms)), "minimum_ms": low, "median_ms": middle, "maximum_ms": high}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    text = (
        f"{len(taken_ms)} triggers by {pace.words}: minimum {low:.1f}, median {middle:.1f}, maximum {high:.1f} ms; "
        f"the median may be {pace.bound_ms:g} ms"
    )
    if middle > pace.bound_ms:
        mend = "the machine is busy, or the directory large; --max-latency sets another bound"
        return Finding("latency", Grade.BROKEN, text, mend, rounded)
    return Finding("latency", Grade.GOOD, text, figures=rounded)


def check_task(subject: Subject, *, ring: Ring | None, progress: Callable[[str], None]) -> Finding:
    """Give the worker one whole task and wait for its result: with a real model this costs money."""
    task = Task(
        task_id=f"field-check-{os.urandom(6).hex()}",
        description="This is a check of the service. Answer with the one word OK, and use no tool.",
        title="Field check",
        timeout=_TASK_TIMEOUT_S,
    )
    progress(f"{subject.name}: task {task.task_id} runs")
    started = time.monotonic()
    name = f"task-{task.task_id}{TRIGGER_SUFFIX}"
    body = task.model_dump_json(exclude_unset=True).encode()
    try:
        with open_door(subject.layout.triggers) as door:
            # It may have to wait for a free slot; one that is never taken is withdrawn.
            taken = door.send(name, body, within_s=_TASK_TIMEOUT_S, ring=ring)
    except OSError as error:
        return Finding("task", Grade.BROKEN, f"it cannot be handed in: {error.strerror}", "mend the trigger directory")
    if taken is None:
        text = f"no slot came free for it within {_TASK_TIMEOUT_S:g} s"
        return Finding("task", Grade.BROKEN, text, f"`codehornets control {subject.name} status` tells why")
    result = _wait_for_result(subject.layout.result(task.task_id), _TASK_TIMEOUT_S + _PATIENCE_S)
    waited_s = time.monotonic() - started
    see = f"`codehornets logs --task {task.task_id}` and `codehornets dead-letters` tell more"
    if result is None:
        return Finding("task", Grade.BROKEN, f"{task.task_id} has no result after {waited_s:.0f} s", see)
    if result.status is not TaskStatus.COMPLETED:
        reason = "" if result.error is None else f": {result.error.message}"
        return Finding("task", Grade.BROKEN, f"{task.task_id} {result.status.value}{reason}", see)
    cost = "" if result.cost_usd is None else f", {result.cost_usd:.4f} USD"
    figures = {"task_s": round(waited_s, 3)}
    return Finding("task", Grade.GOOD, f"{task.task_id} completed in {waited_s:.1f} s{cost}", figures=figures)


def _wait_for_result(path: Path, within_s: float) -> Result | None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(OSError, ValidationError):
            return Result.model_validate_json(path.read_bytes())
        time.sleep(_LOOK_EVERY_S)
    return None
