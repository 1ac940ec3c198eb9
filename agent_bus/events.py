"""Events: what happens, told while it happens.

A task's events go to `events/NAME/ID.jsonl`, one JSON object a line, in order. The file is made with the first event.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agent_bus.messages import Event, encode_event, utc_now

_BLOCK_BYTES: Final = 65_536


class EventJournal:
    """The events of one task, appended to its file as they come."""

    def __init__(self, directory: Path, *, worker: str, task_id: str) -> None:
        """Write to `directory/ID.jsonl`, which is `WorkerLayout.event_journal`."""
        self._directory = directory
        self._worker = worker
        self._task_id = task_id
        self._descriptor: int | None = None

    def append(self, event: str, data: dict[str, Any]) -> Event:
        """Write one line and return the event.

        Raises:
            OSError: it cannot be written (a full disk, say); what was written before is whole.
        """
        record = Event(event=event, timestamp=utc_now(), worker=self._worker, task_id=self._task_id, data=data)
        self.write(record)
        return record

    def write(self, record: Event) -> None:
        """Write the line of an event that has its record already.

        Raises:
            OSError: it cannot be written; what was written before is whole.
        """
        line = encode_event(record) + b"\n"
        if self._descriptor is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{self._task_id}.jsonl"
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            _cut_torn_line(self._descriptor)
        written = os.write(self._descriptor, line)
        if written < len(line):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{self._directory}/{self._task_id}.jsonl")

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _cut_torn_line(descriptor: int) -> None:
    """Remove what a writer that was killed left of its last line."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        position = os.pread(descriptor, end - start, start).rfind(b"\n")
        if position >= 0:
            end = start + position + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a journal; a torn last line is left out.

    Raises:
        ValueError: a line other than the last is broken.
        OSError: the file cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield Event.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"line {number} of {path} is no event") from error
