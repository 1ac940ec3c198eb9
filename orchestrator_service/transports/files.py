"""Files: tasks go out as triggers in the shared directory, and the kernel tells what comes back."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from agent_bus.commands import Command
from agent_bus.layout import WorkerLayout, is_worker_name
from agent_bus.messages import Result
from agent_bus.pipes import PipeUnavailable, open_for_writing
from agent_bus.question_files import QuestionFiles
from agent_bus.questions import Answer, AnswerFate
from orchestrator_service.transports import file_tasks
from orchestrator_service.transports.base import Dispatch, Ears, JournalLine, Place, Undelivered
from orchestrator_service.transports.file_news import FILE, FileNews
from orchestrator_service.transports.journals import Journals, read_journal
from orchestrator_service.transports.result_files import BrokenResult, read_result_file
from orchestrator_service.transports.slices import Slices
from service_kit.findings import Finding

log = logging.getLogger(__name__)


_CLOCK_STEP_S: Final = 0.05
"""The kernel's times of files go in steps, of up to 10 ms, behind those of a heartbeat."""


class FileTransport:
    """The shared directory as a way to the workers; see `base.Transport`."""

    name = FILE

    def __init__(
        self,
        shared: Path,
        *,
        known: Callable[[], Iterable[str]],
        rescan_s: float,
        open_runs: Callable[[], Iterable[tuple[str, str]]],
    ) -> None:
        """Use the shared directory `shared`.

        Args:
            shared: The shared directory, which is there.
            known: Gives the names of the workers that the orchestrator knows.
            rescan_s: Seconds after which everything is looked at, whatever the kernel told.
            open_runs: Gives (worker, wire id) of each run that went this way and has not ended.
        """
        self._shared = shared
        self._known = known
        self._rescan_s = rescan_s
        self._open_runs = open_runs
        self._news: FileNews | None = None
        self._unheard = Journals(lambda _: None, lambda _: None)
        self._trouble: str | None = None

    # -- out

    async def send(self, dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        """Put a trigger into place for each; one that lies there already stays."""
        undelivered: list[Undelivered] = []
        slices = Slices()
        for dispatch in dispatches:
            try:
                file_tasks.place(self._layout(dispatch.worker), dispatch.wire_id, dispatch.body)
            except file_tasks.NotPlaced as error:
                undelivered.append(Undelivered(dispatch=dispatch, reason=str(error)))
            await slices.breathe()
        self._trouble = undelivered[-1].reason if undelivered else None
        return undelivered

    async def withdraw(self, worker: str, wire_id: str) -> bool:
        """Remove a task that waits; True when it is certain that nobody will run it."""
        try:
            return file_tasks.take_back(self._layout(worker), wire_id)
        except OSError as error:
            log.warning("%s cannot be withdrawn: %s", wire_id, error, extra={"action": "withdraw_failed"})
            return False

    async def cancel(self, worker: str, wire_id: str) -> None:
        """Leave the marker `tasks/NAME/ID.cancel`."""
        try:
            file_tasks.ask_for_end(self._layout(worker), wire_id)
        except OSError as error:
            self._trouble = f"the cancel of {wire_id} cannot be noted: {error.strerror or error}"
            log.warning("%s", self._trouble, extra={"action": "cancel_failed"})

    async def locate(self, worker: str, wire_id: str) -> Place:
        """Look where the task's file, or its result, is."""
        try:
            return file_tasks.locate(self._layout(worker), wire_id)
        except OSError:
            return Place.UNKNOWN

    async def result(self, worker: str, wire_id: str) -> Result | None:
        """Return the result; of a task that was set aside without one, a failed result that says so."""
        layout = self._layout(worker)
        try:
            return read_result_file(layout, worker, wire_id) or file_tasks.answer_of_letter(layout, wire_id)
        except BrokenResult:
            return None

    async def tell(self, worker: str, command: Command) -> bool:
        """Write the command into the worker's control pipe."""
        try:
            pipe = open_for_writing(self._layout(worker).control_pipe(worker))
        except (OSError, PipeUnavailable):
            return False
        try:
            # Short enough for a pipe to take it whole or not at all.
            os.write(pipe, command.encode())
        except OSError:
            return False
        finally:
            os.close(pipe)
        return True

    async def answer(self, worker: str, question_id: str, answer: Answer) -> AnswerFate:
        """Leave `questions/NAME/ID.answer.json`, unless there is one."""
        try:
            return QuestionFiles(self._layout(worker).questions).answer(question_id, answer)
        except OSError as error:
            self._trouble = f"the answer to {question_id} cannot be written: {error.strerror or error}"
            return AnswerFate.UNREACHABLE

    async def running(self) -> dict[str, list[str]]:
        """Return who holds what: by the claims in the directories, and who else says in its heartbeat that it does."""
        holders: dict[str, dict[str, None]] = {}
        taken_at: dict[str, float] = {}
        slices = Slices()
        for worker in sorted({*self._known(), *self._workers_there()}):
            with suppress(OSError):
                for claim in file_tasks.held(self._layout(worker)):
                    holders.setdefault(claim.task_id, {})[f"{worker}/{claim.instance}"] = None
                    taken_at[claim.task_id] = max(claim.changed_at, taken_at.get(claim.task_id, 0.0))
                    await slices.breathe()
        for beat in [] if self._news is None else self._news.living():
            for task_id in beat.current_tasks:
                # What is older than the claim tells of the owner before this one. A task without one is in Redis.
                if task_id in holders and beat.timestamp.timestamp() > taken_at[task_id] + _CLOCK_STEP_S:
                    holders[task_id][f"{beat.worker}/{beat.instance}"] = None
        return {task_id: list(found) for task_id, found in holders.items()}

    # -- in

    @asynccontextmanager
    async def open(self, ears: Ears) -> AsyncIterator[None]:
        """Hear results, heartbeats and starts for the length of the block; what is there already is told first."""
        news = FileNews(self._shared, rescan_s=self._rescan_s, open_runs=self._open_runs, ears=ears)
        self._news = news
        try:
            await news.start()
            yield
        finally:
            await news.close()

    async def journal(self, worker: str, wire_id: str, after: int) -> list[JournalLine]:
        """Return what is in the task's journal now."""
        return read_journal(self._layout(worker).event_journal(wire_id), after)

    def follow(self, worker: str, wire_id: str, after: int) -> AsyncIterator[JournalLine]:
        """Yield the lines of `events/NAME/ID.jsonl` behind byte `after`, then live."""
        journals = self._unheard if self._news is None else self._news.journals
        return journals.follow(self._layout(worker).event_journal(wire_id), after)

    def away(self) -> str | None:
        """Say nothing: a directory is there, or the orchestrator is not well at all."""
        return None

    def findings(self) -> list[Finding]:
        """Say whether the kernel tells what comes, and whether the directory can be used."""
        if self._news is None:
            return [Finding("files", False, "not started")]
        trouble = [*self._news.trouble, *([] if self._trouble is None else [self._trouble])]
        if trouble:
            return [Finding("files", False, "; ".join(trouble))]
        if self._news.blind is not None:
            return [Finding("files", True, f"looked at every second, since {self._news.blind}")]
        return [Finding("files", True, f"{self._shared} is watched")]

    def _layout(self, worker: str) -> WorkerLayout:
        return WorkerLayout.under(self._shared, worker)

    def _workers_there(self) -> list[str]:
        with suppress(OSError):
            return [name for name in os.listdir(self._shared / "tasks") if is_worker_name(name)]
        return []
