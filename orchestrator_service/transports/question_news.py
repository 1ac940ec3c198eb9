"""Questions that are files: what workers ask of people, and what came of it, heard from the kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from asyncinotify import Mask

from agent_bus.layout import is_worker_name
from agent_bus.question_files import QuestionFiles, question_of
from orchestrator_service.transports.base import Ears
from orchestrator_service.transports.watching import Watching

FILE: Final = "file"


class QuestionNews:
    """Tells of each question once for each time that its worker writes it."""

    def __init__(self, folder: Path, ears: Ears) -> None:
        """Look below `folder`, which holds a directory for each worker."""
        self.folder = folder
        self._ears = ears
        self._told: dict[tuple[str, str], tuple[int, int, int]] = {}
        """Which file each question was when it was told, by worker and name."""
        self._watching: Watching | None = None

    def arm(self, watching: Watching) -> str | None:
        """Watch what is not watched yet; returns a sentence where the directory cannot be had."""
        self._watching = watching
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"{self.folder} cannot be made: {error.strerror or error}"
        watching.watch(self.folder, Mask.CREATE | Mask.MOVED_TO | Mask.ONLYDIR, self._worker_came)
        for worker in self._workers():
            self._watch(worker)
        return None

    def look_at_all(self) -> None:
        """Look at every question, as if each were new; those that are gone are forgotten."""
        there: set[tuple[str, str]] = set()
        for worker in self._workers():
            for name in self._names(worker):
                there.add((worker, name))
                self._came(worker, name)
        self._told = {key: changed for key, changed in self._told.items() if key in there}

    def _worker_came(self, worker: str) -> None:
        """A worker asks for the first time; what it wrote before it is watched gave no hint."""
        if is_worker_name(worker) and self._watch(worker):
            for name in self._names(worker):
                self._came(worker, name)

    def _watch(self, worker: str) -> bool:
        if self._watching is None:
            return False
        return self._watching.watch(self.folder / worker, Mask.MOVED_TO | Mask.ONLYDIR, partial(self._came, worker))

    def _came(self, worker: str, name: str) -> None:
        question_id = question_of(name)
        if question_id is None:
            return
        try:
            status = os.lstat(self.folder / worker / name)
        except OSError:
            return
        # Asked and answered within one tick of the file system's clock: the time alone would not tell.
        changed = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._told.get((worker, name)) == changed:
            return
        question = QuestionFiles(self.folder / worker).read(question_id)
        if question is not None and question.worker == worker:
            self._told[worker, name] = changed
            self._ears.hear_question(FILE, question)

    def _workers(self) -> list[str]:
        with suppress(OSError):
            return [name for name in os.listdir(self.folder) if is_worker_name(name)]
        return []

    def _names(self, worker: str) -> list[str]:
        with suppress(OSError):
            return [name for name in os.listdir(self.folder / worker) if question_of(name) is not None]
        return []
