"""What waits in the queue's directories, in memory, in the order in which it is to be claimed.

The directory is the truth and this is a guess about it: an entry may be gone by the time it is claimed, and a file
may be there that no entry names yet. Both are harmless. The cost of taking the next entry is that of a heap, so it
does not grow with the backlog in any way that one could measure.
"""

from __future__ import annotations

import heapq
from enum import IntEnum
from typing import NamedTuple


class Source(IntEnum):
    """The directory that an entry was seen in."""

    TRIGGERS = 0
    TASKS = 1
    RELEASED = 2


class Entry(NamedTuple):
    """A file that can be claimed. Sorts by priority (highest first), then age (oldest first), then name."""

    negated_rank: int
    mtime_ns: int
    name: str
    source: Source
    session: str = ""
    """The conversation it belongs to, or an empty text."""


class TriggerIndex:
    """Entries by priority and age; of each session at most one, its oldest, is on offer at a time."""

    def __init__(self) -> None:
        self._ready: list[Entry] = []
        self._known: tuple[set[str], ...] = tuple(set() for _ in Source)
        self._sessions: dict[str, list[tuple[int, str, Entry]]] = {}
        self._busy: set[str] = set()
        self._found: set[str] | None = None

    def __len__(self) -> int:
        return sum(len(names) for names in self._known)

    def knows(self, source: Source, name: str) -> bool:
        """Tell whether the file is in the index."""
        return name in self._known[source]

    def add(self, entry: Entry) -> None:
        """Put the file on offer; adding what is known already changes nothing."""
        known = self._known[entry.source]
        if entry.name in known:
            return
        known.add(entry.name)
        if not entry.session:
            heapq.heappush(self._ready, entry)
            return
        line = self._sessions.setdefault(entry.session, [])
        heapq.heappush(line, (entry.mtime_ns, entry.name, entry))
        if self._found is not None:
            self._found.add(entry.session)
        elif line[0][2] is entry:
            heapq.heappush(self._ready, entry)

    def begin_scan(self) -> None:
        """Hold back each session of which something is added, until `end_scan`.

        A scan finds files in no order: the oldest of a session is known only when all are.
        """
        if self._found is None:
            self._found = set()

    def end_scan(self) -> bool:
        """Offer what was held back; tells whether there was anything."""
        found, self._found = self._found or set(), None
        for session in found:
            if session not in self._busy:
                self.end_session(session)
        return bool(found)

    def pop(self) -> Entry | None:
        """Take the next entry off the index; None when nothing is on offer.

        An entry of a session makes the session busy: its others stay back until `end_session`.
        """
        while self._ready:
            entry = heapq.heappop(self._ready)
            if entry.session:
                line = self._sessions.get(entry.session)
                # An older task of the session may have come since; the entry is offered again after it.
                if entry.session in self._busy or not line or line[0][2] is not entry:
                    continue
                heapq.heappop(line)
                if not line:
                    del self._sessions[entry.session]
                self._busy.add(entry.session)
            self._known[entry.source].discard(entry.name)
            return entry
        return None

    def put_back(self, entry: Entry) -> None:
        """Take an entry back that `pop` gave; its session stays busy until `end_session`."""
        self._known[entry.source].add(entry.name)
        if entry.session:
            heapq.heappush(self._sessions.setdefault(entry.session, []), (entry.mtime_ns, entry.name, entry))
        else:
            heapq.heappush(self._ready, entry)

    def end_session(self, session: str) -> None:
        """Offer the next task of the session, if there is one."""
        self._busy.discard(session)
        line = self._sessions.get(session)
        if line and (self._found is None or session not in self._found):
            heapq.heappush(self._ready, line[0][2])
