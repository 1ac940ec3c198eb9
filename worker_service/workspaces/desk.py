"""Gives each task the place it works in, and keeps what it did there when it has ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from agent_bus.messages import Task
from service_kit.findings import Finding
from service_kit.git.command import Git, find_git
from service_kit.git.repository import NoRepository, Repository, look_at
from service_kit.worktrees.ending import Changes, Ending, end_worktree
from service_kit.worktrees.making import NotMade, Opened, Wish, candidates, open_worktree
from service_kit.worktrees.names import name_of, short
from service_kit.worktrees.records import Busy, RecordBook, WorktreeRecord
from worker_service.agents.base import Run
from worker_service.settings import AgentKind, WorkerSettings, Worktrees

log = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_RETRY_S: Final = 0.1
_BUSY_PATIENCE_S: Final = 60.0


class NoWorktree(Exception):
    """The task must have a worktree and cannot; the text is one sentence."""


@dataclass(kw_only=True)
class Place:
    """Where a task works. Without a record it is its workspace as it is."""

    record: WorktreeRecord | None = None
    git: Git | None = None
    held: ExitStack = field(default_factory=ExitStack)


class Workspaces:
    """Opens and closes the places of tasks."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Go by the worker's settings; nothing is touched yet."""
        self._settings = settings
        self._program = find_git(settings.agent_environment)
        self.book = RecordBook(settings.worktree_records)
        """What is known of the worktrees."""
        self.on_ended: Callable[[], None] = lambda: None
        """Called when a task has left a worktree behind."""
        self._told: set[str] = set()

    @property
    def git(self) -> Git | None:
        """How to run git, or None where there is none."""
        return None if self._program is None else Git(self._program, self._settings.agent_environment)

    def finding(self) -> Finding:
        """Say whether tasks get worktrees, for `/readyz`."""
        wanted = self._settings.worktrees
        if self._program is None:
            text = "git is not installed: no task gets a worktree; install the package git, or set WORKTREES=off"
            return Finding("worktrees", wanted is not Worktrees.ON, text)
        words = {
            Worktrees.ON: "each task gets one",
            Worktrees.OFF: "a task gets one that asks for it",
            Worktrees.AUTO: "tasks in git workspaces get one"
            if self._by_itself()
            else "a task gets one that asks for it",
        }
        return Finding("worktrees", True, f"{words[wanted]}, in {self._settings.worktree_dir}")

    def _by_itself(self) -> bool:
        # The echo agent works nowhere.
        return self._settings.slots > 1 and self._settings.agent is not AgentKind.ECHO

    async def open(self, run: Run) -> Place:
        """Prepare where the task works; `run.task` then names the directory.

        Raises:
            NoWorktree: it must have a worktree and cannot.
            OSError: the disk is full, or the like; later it may be different.
        """
        task = run.task
        wanted = self._wanted(task)
        if wanted is False:
            return Place()
        try:
            if self._program is None:
                raise NoRepository("git is not installed; install the package git")
            git = Git(self._program, self._settings.agent_environment)
            workspace = Path(task.workspace) if task.workspace is not None else self._settings.workspace
            repository = await _in_thread(look_at, git, workspace)
        except NoRepository as error:
            if wanted:
                raise NoWorktree(f"The task cannot have a worktree: {error}.") from error
            self._tell_once(str(error))
            return Place()
        place = Place(git=git)
        try:
            opened = await self._open_one(task, repository, git, place)
            directory = _inside(opened.record, repository.prefix)
        except NotMade as error:
            place.held.close()
            raise NoWorktree(f"The task's worktree cannot be made: {error}.") from error
        except BaseException:
            place.held.close()
            raise
        record = place.record = opened.record
        run.task = task.model_copy(update={"workspace": str(directory)})
        run.outcome.worktree, run.outcome.branch = str(record.path), short(record.branch)
        data = {"path": str(record.path), "branch": short(record.branch), "base": record.base, "how": opened.how}
        run.emit("worktree_made", data)
        return place

    def _wanted(self, task: Task) -> bool | None:
        """Tell whether the task gets a worktree; None means where one can be made."""
        if task.worktree is not None:
            return task.worktree
        match self._settings.worktrees:
            case Worktrees.ON:
                return True
            case Worktrees.AUTO if self._by_itself():
                return None
            case _:
                return False

    async def _open_one(self, task: Task, repository: Repository, git: Git, place: Place) -> Opened:
        usual = name_of(task_id=task.task_id, session=task.session)
        key = f"task:{task.task_id}" if task.session is None else f"session:{task.session}"
        wish = Wish(name=usual, key=key, worker=self._settings.worker, task_id=task.task_id)
        root = self._settings.worktree_dir
        for name in candidates(usual):
            await self._hold(name, place)
            opened = await _in_thread(open_worktree, self.book, root, wish, name, repository, git)
            if opened is not None:
                return opened
            place.held.close()
        raise NotMade(f"all names like {usual} are taken in {root} or among the branches")

    async def _hold(self, name: str, place: Place) -> None:
        deadline = anyio.current_time() + _BUSY_PATIENCE_S
        while True:
            try:
                place.held.enter_context(self.book.hold(name))
                return
            except Busy as error:
                # Whoever cleans up holds it for a moment.
                if anyio.current_time() >= deadline:
                    raise NotMade(f"another process has been using the worktree {name} for a minute") from error
            await anyio.sleep(_BUSY_RETRY_S)

    async def close(self, run: Run, place: Place, *, ended: bool) -> None:
        """Let go of the place; of a task that has `ended` its work is committed, or what is unchanged removed."""
        record = place.record
        if record is None or place.git is None:
            return
        try:
            if ended:
                await self._end(run, record, place.git)
        finally:
            place.held.close()
            self.on_ended()

    async def _end(self, run: Run, record: WorktreeRecord, git: Git) -> None:
        task, outcome = run.task, run.outcome
        title = task.title or task.description.strip().partition("\n")[0]
        body = f"Task: {task.task_id}\nWorker: {self._settings.worker}"
        keep = task.session is not None
        end = partial(end_worktree, self.book, record, git, title=title, body=body, keep=keep)
        try:
            # To its end, even while the worker stops: half a commit is worse than a late one.
            with anyio.CancelScope(shield=True):
                ending: Ending = await anyio.to_thread.run_sync(end)
        except OSError as error:
            ending = Ending(changes=Changes.UNCOMMITTED, branch=short(record.branch), note=str(error))
        outcome.branch, outcome.commit = ending.branch, ending.commit
        outcome.changes, outcome.changes_note = ending.changes.value, ending.note
        if ending.is_removed:
            outcome.worktree = None
        data = {"branch": ending.branch, "commit": ending.commit, "path": str(record.path)}
        match ending.changes:
            case Changes.COMMITTED:
                run.emit("worktree_committed", {**data, "by_worker": ending.was_committed_here})
            case Changes.NONE:
                run.emit("worktree_unchanged", {"path": str(record.path), "removed": ending.is_removed})
            case Changes.UNCOMMITTED:
                run.emit("worktree_uncommitted", {**data, "why": ending.note})
                log.warning(
                    "task %s leaves uncommitted work in %s: %s",
                    task.task_id,
                    record.path,
                    ending.note,
                    extra={"action": "worktree_uncommitted", "task_id": task.task_id},
                )

    def _tell_once(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            log.info("no worktree for tasks: %s", reason, extra={"action": "no_worktree"})


def _inside(record: WorktreeRecord, prefix: str) -> Path:
    """Return the directory in the worktree that is the task's workspace in the repository.

    Raises:
        NotMade: the way there leaves the worktree.
        OSError: it cannot be made.
    """
    directory = record.path / prefix
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
    top = os.path.realpath(record.path)
    if os.path.commonpath((top, os.path.realpath(directory))) != top:
        raise NotMade(f"{prefix} leads out of the repository by a link")
    return directory


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    # Shielded: a worktree whose making nobody waits for any more would be in nobody's hands.
    with anyio.CancelScope(shield=True):
        result = await anyio.to_thread.run_sync(partial(function, *arguments))
    return result
