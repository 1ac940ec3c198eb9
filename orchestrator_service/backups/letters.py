"""Dead letters, read before and after all that moves: a letter may be buried, or go back to be run again, meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agent_bus.dead_letters import REASON_SUFFIX, DeadLetter
from agent_bus.layout import WorkerLayout
from orchestrator_service.backups.queue_capture import listing, workers_of
from orchestrator_service.backups.stash import Kept, NotPlain, Stash


@dataclass
class Letter:
    """A dead letter and its reason."""

    worker: str
    reason: DeadLetter
    reason_file: Kept
    content: Kept | None
    """None for what is no readable plain file: its name and its reason are all that can be kept of it."""
    there_at_last: bool = False


class LetterCapture:
    """The dead letters of all workers of a shared directory."""

    def __init__(self, shared: Path, stash: Stash) -> None:
        self._shared = shared
        self._stash = stash
        self._letters: dict[tuple[str, str], Letter] = {}

    def look(self) -> dict[tuple[str, str], Letter]:
        """Read what is there, apart from what was read before; returns all that was ever there, by worker and name."""
        for letter in self._letters.values():
            letter.there_at_last = False
        for worker in workers_of(self._shared):
            folder = f"{WorkerLayout.under(self._shared, worker).dead_letters}"
            for name in listing(folder):
                if name.endswith(REASON_SUFFIX) and not name.startswith("."):
                    self._look_at(worker, folder, name.removesuffix(REASON_SUFFIX))
        return self._letters

    def _look_at(self, worker: str, folder: str, name: str) -> None:
        path = f"{folder}/{name}"
        try:
            known = self._letters.get((worker, name))
            if known is not None and os.lstat(f"{path}{REASON_SUFFIX}").st_ino == known.reason_file.inode:
                os.lstat(path)
                known.there_at_last = True
                return
            reason_file = self._stash.keep(f"{path}{REASON_SUFFIX}")
            reason = DeadLetter.model_validate_json(self._stash.beginning(reason_file, reason_file.size))
            os.lstat(path)
            content = self._content(path)
        except (FileNotFoundError, NotPlain, ValidationError):
            # A reason whose letter is not there yet, or no more, is not shown either.
            return
        if reason.name == name:
            self._letters[worker, name] = Letter(worker, reason, reason_file, content, there_at_last=True)

    def _content(self, path: str) -> Kept | None:
        try:
            return self._stash.keep(path)
        except (NotPlain, PermissionError):
            return None
