"""Whether a service lives: its heartbeat and its process."""

from __future__ import annotations

from agent_bus.heartbeats import MISSED_BEATS, age_seconds
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.field_check.subject import Subject
from orchestrator_service.findings import Finding, Grade


def check_heartbeat(subject: Subject, start: str) -> Finding:
    """Judge the age and the status of the heartbeat; `start` says how the service is started."""
    return judge_heartbeat(subject.beat, age_seconds(subject.beat), start)


def judge_heartbeat(beat: Heartbeat, age_s: float, start: str) -> Finding:
    """Judge a heartbeat of this age."""
    longest_s = MISSED_BEATS * beat.interval_seconds
    text = f"{max(0.0, age_s):.1f} s old, {beat.status.value}, mode {beat.mode}, version {beat.version}"
    if beat.status is WorkerStatus.STOPPED:
        return Finding("heartbeat", Grade.BROKEN, f"it has stopped, {age_s:.0f} s ago", start)
    if age_s > longest_s:
        mend = f"it has died, hangs, or cannot write: {start}, or see `codehornets logs {beat.worker}`"
        return Finding("heartbeat", Grade.BROKEN, f"{text}; allowed are {longest_s:g} s", mend)
    if age_s < -longest_s:
        return Finding("heartbeat", Grade.NOTE, f"{text}; it comes {-age_s:.0f} s from the future", "set the clocks")
    if beat.status in (WorkerStatus.PAUSED, WorkerStatus.DRAINING):
        return Finding("heartbeat", Grade.NOTE, f"{text}: it takes no new tasks now")
    return Finding("heartbeat", Grade.GOOD, text)


def check_process(subject: Subject, *, wanted: bool, start: str) -> Finding:
    """Judge the process that the heartbeat names."""
    if not wanted:
        return Finding("process", Grade.LEFT_OUT, "as --no-process says")
    process = subject.process
    if process is None:
        return Finding("process", Grade.LEFT_OUT, f"it runs elsewhere, as {subject.beat.instance}", "check it there")
    if process.trouble is None:
        return Finding("process", Grade.GOOD, f"{process.pid} lives")
    mend = f"`kill -CONT {process.pid}`" if "SIGSTOP" in process.trouble else start
    return Finding("process", Grade.BROKEN, f"{process.pid} {process.trouble}", mend)
