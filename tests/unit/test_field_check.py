"""What the field check makes of what it sees."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now
from orchestrator_service.field_check.flow import Pace, check_triggers, judge_latency, pace_of
from orchestrator_service.field_check.life import judge_heartbeat
from orchestrator_service.field_check.places import check_directories, judge_log
from orchestrator_service.field_check.subject import Process, Subject, is_here, read_process
from orchestrator_service.findings import Finding, Grade
from tests.waiting import wait_until

QUICK = Pace(bound_ms=100, patience_s=0.2, words="inotify")


def beat_of(**fields: object) -> Heartbeat:
    told: dict[str, object] = {
        "worker": "marie",
        "instance": "elsewhere-7-ab",
        "timestamp": utc_now(),
        "status": WorkerStatus.IDLE,
        "mode": "event-driven",
        "pid": 7,
        "version": "1",
        "bells": ["inotify", "interval"],
    }
    return Heartbeat.model_validate(told | fields)


def subject_of(layout: WorkerLayout, settings: dict[str, str] | None = None, **fields: object) -> Subject:
    process = None if settings is None else Process(pid=7, settings=settings)
    return Subject(name="marie", layout=layout, beat=beat_of(**fields), is_here=False, process=process)


@pytest.mark.parametrize(
    ("age_s", "fields", "grade", "words"),
    [
        (29.9, {}, Grade.GOOD, "29.9 s old, idle"),
        (30.1, {}, Grade.BROKEN, "allowed are 30 s"),
        (1.6, {"interval_seconds": 0.5}, Grade.BROKEN, "allowed are 1.5 s"),
        (0.1, {"status": "stopped"}, Grade.BROKEN, "it has stopped"),
        (0.1, {"status": "paused"}, Grade.NOTE, "takes no new tasks"),
        (-3600.0, {}, Grade.NOTE, "from the future"),
    ],
)
def test_heartbeats_are_judged_by_three_intervals(
    age_s: float, fields: dict[str, object], grade: Grade, words: str
) -> None:
    finding = judge_heartbeat(beat_of(**fields), age_s, "start it")
    assert (finding.grade, words in finding.text) == (grade, True), finding
    assert bool(finding.mend) or grade in (Grade.GOOD, Grade.NOTE)


@pytest.mark.parametrize(
    ("settings", "fields", "rings", "bound_ms", "words"),
    [
        (None, {}, False, 100, "inotify"),
        (None, {"mode": "polling", "bells": ["interval"]}, False, 1600, "a look every 1 s"),
        ({"POLL_INTERVAL": "0.2"}, {"mode": "polling", "bells": ["interval"]}, False, 400, "a look every 0.2 s"),
        ({}, {"bells": ["interval"]}, False, 1600, "a look every 1 s, as inotify does not work there"),
        ({"ACTIVATION_MODE": "redis"}, {"bells": ["interval", "redis"]}, True, 100, "Redis messages"),
        (None, {"bells": ["interval", "redis"]}, True, 100, "Redis messages"),
        ({"ACTIVATION_MODE": "redis"}, {"bells": ["interval", "redis"]}, False, 45_000, "a look every 30 s"),
        ({"ACTIVATION_MODE": "inotify"}, {"bells": ["interval", "redis"]}, True, 1600, "a look every 1 s, as"),
    ],
)
def test_the_bound_goes_by_what_finds_new_files(
    layout: WorkerLayout,
    settings: dict[str, str] | None,
    fields: dict[str, object],
    rings: bool,
    bound_ms: float,
    words: str,
) -> None:
    subject = subject_of(layout, settings, **fields)
    pace = pace_of(subject, max_latency_ms=None, rings=rings)
    assert pace.bound_ms == bound_ms
    assert pace.words.startswith(words)
    assert pace.patience_s * 1000 > pace.bound_ms
    assert pace_of(subject, max_latency_ms=7, rings=rings).bound_ms == 7


def test_the_median_is_judged_so_that_one_late_trigger_is_no_failure() -> None:
    assert judge_latency([1, 1, 900], QUICK).grade is Grade.GOOD
    slow = judge_latency([1, 101, 900], QUICK)
    assert slow.grade is Grade.BROKEN
    assert slow.figures == {"triggers": 3, "minimum_ms": 1, "median_ms": 101, "maximum_ms": 900}
    assert slow.as_json()["figures"]["median_ms"] == 101
    assert "figures" not in Finding("x", Grade.GOOD, "y").as_json()


def _log(*lines: object) -> list[bytes]:
    return [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]


def test_a_log_is_judged_by_the_lines_of_this_start(tmp_path: Path) -> None:
    before = {"instance": "old", "level": "error", "message": "long ago"}
    ready = {"instance": "new", "level": "info", "action": "ready", "timestamp": "then"}
    trouble = {"instance": "new", "level": "error", "message": "no room"}

    def judged(*lines: object) -> Finding:
        return judge_log(tmp_path, _log(*lines), "new")

    assert judged(before, ready).grade is Grade.GOOD
    assert "1 lines since the start, the latest then" in judged(before, ready).text
    assert judged(ready, trouble).grade is Grade.NOTE
    assert "1 of them errors, the latest: no room" in judged(ready, trouble).text
    assert judged(before).grade is Grade.NOTE
    assert judged().grade is Grade.NOTE
    assert judged(ready, b"torn").grade is Grade.BROKEN
    assert judged(ready, [1]).grade is Grade.BROKEN


def test_the_orchestrators_log_has_no_instance_and_begins_anew_with_each_start(tmp_path: Path) -> None:
    lines = _log({"level": "error"}, {"action": "ready"}, {"level": "info"})
    finding = judge_log(tmp_path, lines, "x")
    assert (finding.grade, "2 lines" in finding.text) == (Grade.GOOD, True)


def test_a_file_where_a_directory_should_be_is_told(layout: WorkerLayout) -> None:
    for path in (layout.triggers, layout.tasks, layout.results, layout.heartbeats):
        path.mkdir(parents=True)
    layout.logs.write_text("")
    findings = list(check_directories(layout, has_pipes=False))
    assert [(each.grade, each.mend) for each in findings] == [(Grade.BROKEN, "move it away")]
    assert "pipes" in list(check_directories(layout, has_pipes=True))[-1].text


def test_a_service_is_here_by_host_and_process() -> None:
    host = socket.gethostname()
    assert is_here(beat_of(instance=f"{host}-7-ab", pid=7))
    assert is_here(beat_of(instance=f"{host}-7", pid=7))
    assert not is_here(beat_of(instance=f"{host}-77-ab", pid=7))
    assert not is_here(beat_of(instance=f"other-{host}-7-ab", pid=7))


def test_a_process_is_one_of_ours_or_none() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "worker_service"],
        stdin=subprocess.PIPE,
        env={"POLL_INTERVAL": "3", "LOG_DIR": "logs", "ANTHROPIC_API_KEY": "secret"},
        cwd="/",
    ) as child:
        wait_until(lambda: b"worker_service" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
        ours = read_process(child.pid, "worker_service")
        # Of its environment nothing is taken but what the check goes by.
        assert ours == Process(pid=child.pid, settings={"POLL_INTERVAL": "3", "LOG_DIR": "/logs"})
        other = read_process(child.pid, "orchestrator_service")
        assert other.trouble is not None
        assert other.trouble.startswith("is another program")
        child.kill()
        wait_until(lambda: ") Z " in Path(f"/proc/{child.pid}/stat").read_text())
        assert read_process(child.pid, "worker_service").trouble == "has ended"
    assert read_process(child.pid, "worker_service").trouble == "is not there"


@contextmanager
def whoever_takes(layout: WorkerLayout, *, to: Path) -> Iterator[None]:
    """Do with the first trigger what a worker would do, and move it."""

    def take() -> None:
        found = wait_until(lambda: list(layout.triggers.glob("field-check-*")))
        found[0].rename(to / found[0].name)

    thread = threading.Thread(target=take)
    thread.start()
    yield
    thread.join()


def checked(layout: WorkerLayout, number: int = 0, patience_s: float = 5.0) -> list[Finding]:
    pace = Pace(bound_ms=100, patience_s=patience_s, words="inotify")
    return list(check_triggers(subject_of(layout), pace, number, ring=None, progress=lambda text: None))


def test_a_trigger_that_is_set_aside_did_not_go_through(layout: WorkerLayout) -> None:
    layout.triggers.mkdir(parents=True)
    layout.dead_letters.mkdir(parents=True)
    with whoever_takes(layout, to=layout.dead_letters):
        (finding,) = checked(layout)
    assert finding.grade is Grade.BROKEN
    assert finding.mend.startswith("`codehornets dead-letters show field-check-")


def test_a_trigger_that_nobody_takes_is_removed_again(layout: WorkerLayout) -> None:
    layout.triggers.mkdir(parents=True)
    first, latency = checked(layout, 3, 0.1)
    assert (first.grade, latency.grade) == (Grade.BROKEN, Grade.LEFT_OUT)
    assert "not taken within 0.1 s" in first.text
    assert os.listdir(layout.triggers) == []


def test_without_a_counter_to_ask_the_taking_is_what_counts(layout: WorkerLayout, tmp_path: Path) -> None:
    layout.triggers.mkdir(parents=True)
    with whoever_takes(layout, to=tmp_path):
        (finding,) = checked(layout)
    assert (finding.grade, finding.text) == (Grade.GOOD, "an event was taken, by inotify")
