"""What a test of worktrees works with: a repository, a book of records, and tasks that begin and end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service_kit.git.repository import look_at
from service_kit.worktrees.ending import Ending, end_worktree
from service_kit.worktrees.making import Opened, Wish, candidates, open_worktree
from service_kit.worktrees.names import name_of
from service_kit.worktrees.pruning import Verdict, prune
from service_kit.worktrees.records import RecordBook, WorktreeRecord
from tests.git_repository import TestRepository, make_repository


@dataclass
class Bench:
    repository: TestRepository
    book: RecordBook
    root: Path

    def open(self, task_id: str = "t1", *, session: str | None = None, workspace: Path | None = None) -> Opened:
        repository = look_at(self.repository.safe, workspace or self.repository.top)
        name = name_of(task_id=task_id, session=session)
        key = f"task:{task_id}" if session is None else f"session:{session}"
        wish = Wish(name=name, key=key, worker="marie", task_id=task_id)
        for each in candidates(name):
            with self.book.hold(each):
                opened = open_worktree(self.book, self.root, wish, each, repository, self.repository.safe)
            if opened is not None:
                return opened
        raise AssertionError("no name was free")

    def end(self, record: WorktreeRecord, title: str = "Do it", *, keep: bool = False) -> Ending:
        with self.book.hold(record.name):
            return end_worktree(self.book, record, self.repository.safe, title=title, body="Task: t1", keep=keep)

    def prune(self, keep_s: float = 0.0) -> dict[str, Verdict]:
        return {verdict.record.name: verdict for verdict in prune(self.book, self.repository.safe, keep_s=keep_s)}

    def git(self, record: WorktreeRecord, *arguments: str) -> str:
        return self.repository.git(*arguments, at=record.path)


def make_bench(place: Path, **files: str) -> Bench:
    repository = make_repository(place / "repo", place / "home", **files)
    return Bench(repository, RecordBook(place / "records"), place / "worktrees")
