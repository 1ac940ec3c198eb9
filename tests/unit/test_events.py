from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bus.events import EventJournal, read_events
from tests.mounts import SmallDisk


def journal(path: Path) -> EventJournal:
    return EventJournal(path.parent, worker="marie", task_id="7")


def test_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "7.jsonl"
    book = journal(path)
    for number in range(3):
        book.append("step", {"number": number, "text": "a\nb\u2028c"})
    book.close()
    book.append("later", {})
    book.close()
    assert [event.event for event in read_events(path)] == ["step", "step", "step", "later"]
    assert {event.task_id for event in read_events(path)} == {"7"}


def test_no_event_means_no_file(tmp_path: Path) -> None:
    journal(tmp_path / "7.jsonl").close()
    assert os.listdir(tmp_path) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "7.jsonl"
    book = journal(path)
    book.append("whole", {})
    book.close()
    with path.open("ab") as file:
        file.write(b'{"event": "to')
    assert [event.event for event in read_events(path)] == ["whole"]


@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_line_that_a_dead_writer_tore_does_not_spoil_the_next(tmp_path: Path, whole: int) -> None:
    path = tmp_path / "7.jsonl"
    book = journal(path)
    for _ in range(whole):
        book.append("whole", {})
    book.close()
    with path.open("ab") as file:
        file.write(b'{"event": "torn' + b"x" * 100_000)
    second = journal(path)
    second.append("next", {})
    second.close()
    assert [event.event for event in read_events(path)] == ["whole"] * whole + ["next"]


def test_a_broken_line_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "7.jsonl"
    path.write_bytes(b"nonsense\n")
    with pytest.raises(ValueError, match="line 1"):
        list(read_events(path))


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, small_disk: Callable[[Path, int], SmallDisk]) -> None:
    disk = small_disk(tmp_path / "disk", 65_536)
    path = disk.path / "7.jsonl"
    book = journal(path)
    written = 0
    with pytest.raises(OSError) as caught:
        while True:
            book.append("step", {"text": "x" * 1500})
            written += 1
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError):
        book.append("step", {"text": "x" * 5000})
    book.append("small", {})
    book.close()
    assert [event.event for event in read_events(path)] == ["step"] * written + ["small"]
