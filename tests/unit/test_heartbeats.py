from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from agent_bus.heartbeats import is_alive, read_heartbeat, read_heartbeats, write_heartbeat
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now


def beat(worker: str = "marie", *, age_s: float = 0.0, status: WorkerStatus = WorkerStatus.IDLE) -> Heartbeat:
    return Heartbeat(
        worker=worker,
        instance="i",
        timestamp=utc_now() - timedelta(seconds=age_s),
        status=status,
        mode="polling",
        pid=1,
        version="1",
        interval_seconds=10,
    )


def test_a_heartbeat_can_be_read_back(tmp_path: Path) -> None:
    written = beat()
    write_heartbeat(tmp_path / "marie-watcher.json", written)
    assert read_heartbeat(tmp_path / "marie-watcher.json") == written


def test_broken_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    write_heartbeat(tmp_path / "b-watcher.json", beat("b"))
    write_heartbeat(tmp_path / "a-watcher.json", beat("a"))
    (tmp_path / "c-watcher.json").write_bytes(b"{")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "d-watcher.json").mkdir()
    assert [found.worker for found in read_heartbeats(tmp_path)] == ["a", "b"]
    assert read_heartbeats(tmp_path / "nothing") == []


def test_three_missed_beats_or_a_goodbye_mean_not_alive() -> None:
    assert is_alive(beat(age_s=25))
    assert not is_alive(beat(age_s=31))
    assert not is_alive(beat(status=WorkerStatus.STOPPED))
