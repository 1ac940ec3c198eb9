from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent_bus.logs import JsonLines, SharedRotatingFile, TerminalLines
from tests.mounts import SmallDisk


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def write_lines(path: str, writer: str, count: int) -> None:
    handler = SharedRotatingFile(Path(path), rotate_at_bytes=20_000, kept_files=50)
    handler.setFormatter(JsonLines(writer=writer))
    for number in range(count):
        handler.emit(record(f"line {number}", number=number))
    handler.close()


def test_a_line_has_the_constant_and_the_extra_fields() -> None:
    line = json.loads(JsonLines(worker="marie").format(record("hi\nthere", action="greeted", path=Path("/x"))))
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {"level": "info", "message": "hi\nthere", "worker": "marie", "action": "greeted", "path": "/x"}


def test_an_exception_stays_on_its_line() -> None:
    made = record("oh")
    try:
        raise RuntimeError("why")
    except RuntimeError:
        made.exc_info = sys.exc_info()
    text = JsonLines().format(made)
    assert "\n" not in text
    assert "RuntimeError: why" in json.loads(text)["exception"]
    assert "RuntimeError: why" in TerminalLines("marie").format(made)


def test_two_writers_rotate_one_file_and_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "marie.log"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_lines, args=(str(path), name, 800)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    files = list(path.parent.iterdir())
    assert len(files) > 3
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    for name in ("a", "b"):
        assert sorted(line["number"] for line in lines if line["writer"] == name) == list(range(800))


def test_old_files_are_dropped(tmp_path: Path) -> None:
    handler = SharedRotatingFile(tmp_path / "log", rotate_at_bytes=1000, kept_files=3)
    for _ in range(200):
        handler.emit(record("x" * 100))
    handler.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2", "log.3"]


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = SharedRotatingFile(path, rotate_at_bytes=1000)
    handler.emit(record("before"))
    path.unlink()
    for _ in range(10):
        handler.emit(record("x" * 100))
    handler.close()
    assert path.exists()


def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path, small_disk: Callable[[Path, int], SmallDisk]) -> None:
    disk = small_disk(tmp_path / "disk", 131_072)
    (disk.path / "other").write_bytes(b"x" * 65_536)
    handler = SharedRotatingFile(disk.path / "log")
    handler.setFormatter(JsonLines())
    for number in range(200):
        handler.emit(record("x" * 700, number=number))
    lost = handler.lost_lines
    assert lost > 0
    (disk.path / "other").unlink()
    for number in range(200, 220):
        handler.emit(record("x" * 700, number=number))
    handler.close()
    assert handler.lost_lines == lost
    whole = 0
    for line in (disk.path / "log").read_text().splitlines():
        with suppress(ValueError):
            json.loads(line)
            whole += 1
    assert whole == 220 - lost


def test_a_directory_that_cannot_be_made_loses_lines_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    handler = SharedRotatingFile(tmp_path / "file" / "log")
    handler.emit(record("x"))
    assert handler.lost_lines == 1
