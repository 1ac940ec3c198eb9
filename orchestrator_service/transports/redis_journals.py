"""Journals of tasks that run on other machines, written here from what their workers tell by Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from agent_bus.events import EventJournal
from agent_bus.messages import Event
from orchestrator_service.transports.base import JournalLine
from orchestrator_service.transports.journals import Journals, journal_size, read_journal

log = logging.getLogger(__name__)

NOT_OF_THE_AGENT: Final = frozenset(("task_started", "task_ended", "hook", "dead_letter"))
"""Events that name a task and belong to no journal, as with tasks that came as files."""
_LATE_S: Final = 10.0
"""So long after its result a task's last events may still come: they take another way."""


class RedisJournals:
    """The journals of the runs that went by Redis and have not ended."""

    def __init__(self, directory: Path) -> None:
        """Write to `directory/WIREID.jsonl`."""
        self._directory = directory
        self._open: dict[str, EventJournal | None] = {}
        """Runs whose events are kept; None before the first event."""
        self._ending: dict[str, asyncio.TimerHandle] = {}
        self._journals = Journals(lambda _: None, lambda _: None)
        self._broken = False

    def keep(self, wire_ids: Iterable[str]) -> None:
        """Keep the events of these runs as well."""
        for wire_id in wire_ids:
            self._open.setdefault(wire_id, None)

    def write(self, event: Event) -> None:
        """Write an event if it belongs into one of the journals; a full disk costs events, nothing else."""
        wire_id = event.task_id
        if wire_id is None or wire_id not in self._open:
            return
        if event.event == "task_ended":
            self.drop(wire_id)
        if event.event in NOT_OF_THE_AGENT:
            return
        journal = self._open[wire_id]
        if journal is None:
            journal = self._open[wire_id] = EventJournal(self._directory, worker=event.worker, task_id=wire_id)
        try:
            journal.write(event)
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.warning("events cannot be kept: %s", error, extra={"action": "events_lost"})
            self._broken = True
        self._journals.changed(self._directory / f"{wire_id}.jsonl")

    def end(self, wire_id: str) -> None:
        """Take note that the run has its result."""
        if wire_id in self._open and wire_id not in self._ending:
            self._ending[wire_id] = asyncio.get_running_loop().call_later(_LATE_S, self.drop, wire_id)

    def read(self, wire_id: str, after: int) -> list[JournalLine]:
        """Return the lines behind byte `after` that are there now."""
        return read_journal(self._directory / f"{wire_id}.jsonl", after)

    def size(self, wire_id: str) -> int:
        """Return how many bytes are written down of a run."""
        return journal_size(self._directory / f"{wire_id}.jsonl")

    def follow(self, wire_id: str, after: int) -> AsyncIterator[JournalLine]:
        """Yield the lines behind byte `after`, then live."""
        return self._journals.follow(self._directory / f"{wire_id}.jsonl", after)

    def close(self) -> None:
        """Close all files."""
        for wire_id in list(self._open):
            self.drop(wire_id)

    def drop(self, wire_id: str) -> None:
        """Keep nothing more of a run."""
        if (timer := self._ending.pop(wire_id, None)) is not None:
            timer.cancel()
        if (journal := self._open.pop(wire_id, None)) is not None:
            journal.close()
