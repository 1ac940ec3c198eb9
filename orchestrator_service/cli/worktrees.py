"""`codehornets worktrees`: the worktrees of tasks, how each stands, and removing what is old."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from agent_bus.messages import utc_now
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.moments import ago
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir, find_worker, known_workers
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from service_kit.git.command import Git, find_git
from service_kit.worktrees.names import short
from service_kit.worktrees.pruning import Verdict, prune, survey
from service_kit.worktrees.records import RecordBook

_USUAL_KEEP_S: Final = 604_800.0


def worktrees(
    *, worker: str | None, remove: bool, older_than_s: float | None, shared_dir: Path | None, as_json: bool
) -> int:
    """Print all worktrees; with `remove` remove what is older and may go, and print what was looked at."""
    program = find_git(os.environ)
    if program is None:
        raise UserError("git is not installed; install the package git.")
    git = Git(program, os.environ)
    shared = find_shared_dir(shared_dir)
    names = known_workers(shared) if worker is None else [worker]
    books = [RecordBook(find_worker(shared, name).worktree_records) for name in names]
    keep_s = _keep_s() if older_than_s is None else older_than_s
    found = [
        verdict for book in books for verdict in (prune(book, git, keep_s=keep_s) if remove else survey(book, git))
    ]
    if as_json:
        print_json([_as_json(verdict) for verdict in found])
        return 0
    if not found:
        print("No worktree is old enough." if remove else "There are no worktrees of tasks.")
        return 0
    if remove:
        for verdict in found:
            print(harmless(f"{verdict.record.worker}/{verdict.record.name} {verdict.words}"))
        return 0
    print_table(("WORKER", "OF", "STATE", "AGE", "BRANCH", "WHY"), [_row(verdict) for verdict in found])
    return 0


def _keep_s() -> float:
    text = os.environ.get("WORKTREE_KEEP") or str(_USUAL_KEEP_S)
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"WORKTREE_KEEP is {text!r}; allowed is a number of seconds.") from error


def _age_s(verdict: Verdict) -> float:
    return max(0.0, (utc_now() - verdict.record.used_at).total_seconds())


def _row(verdict: Verdict) -> tuple[str, ...]:
    record, standing = verdict.record, verdict.standing
    state = str(standing.state) + ("" if standing.has_directory else ", no directory")
    return record.worker, record.key, state, ago(_age_s(verdict)), short(record.branch), standing.why


def _as_json(verdict: Verdict) -> dict[str, Any]:
    record, standing = verdict.record, verdict.standing
    return {
        "worker": record.worker,
        "name": record.name,
        "key": record.key,
        "task_id": record.task_id,
        "state": standing.state.value,
        "why": standing.why,
        "age_seconds": round(_age_s(verdict), 3),
        "branch": None if standing.tip is None else short(record.branch),
        "commit": standing.tip,
        "base": record.base,
        "path": str(record.path) if standing.has_directory and not verdict.is_removed else None,
        "repository": str(record.common),
        "ended": record.ended,
        "removed": verdict.is_removed,
        "branch_removed": verdict.is_branch_removed,
    }
