from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from agent_bus.gates import Gate, GateNotice, after_seconds
from agent_bus.messages import utc_now


def notice(seconds: float, message: str = "limit") -> GateNotice:
    return GateNotice(kind="five_hour", until=after_seconds(seconds), message=message, worker="marie")


def test_a_closed_gate_is_seen_by_every_worker_of_the_credential(tmp_path: Path) -> None:
    mine, theirs, stranger = Gate(tmp_path / "gates", "a"), Gate(tmp_path / "gates", "a"), Gate(tmp_path / "gates", "b")
    assert mine.closed() is theirs.closed() is None
    mine.close_until(notice(60))
    for gate in (mine, theirs):
        found = gate.closed()
        assert found is not None
        assert found.message == "limit"
    assert stranger.closed() is None


def test_a_gate_whose_time_has_come_is_open(tmp_path: Path) -> None:
    gate = Gate(tmp_path, "a")
    gate.close_until(notice(-1))
    assert gate.closed() is None


def test_a_later_moment_stays_and_an_earlier_one_gives_way(tmp_path: Path) -> None:
    gate = Gate(tmp_path, "a")
    for seconds, message in ((60, "first"), (30, "sooner"), (90, "later")):
        gate.close_until(notice(seconds, message))
    found = gate.closed()
    assert found is not None
    assert found.message == "later"
    assert found.until > utc_now() + timedelta(seconds=80)


def test_a_broken_gate_file_holds_nobody_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{ half")
    gate = Gate(tmp_path, "a")
    assert gate.closed() is None
    gate.close_until(notice(60))
    assert gate.closed() is not None


def test_a_removed_gate_file_opens_the_gate(tmp_path: Path) -> None:
    gate = Gate(tmp_path, "a")
    gate.close_until(notice(60))
    assert gate.closed() is not None
    (tmp_path / "a.json").unlink()
    assert gate.closed() is None
