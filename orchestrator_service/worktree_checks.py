"""What worktrees of tasks need of a machine: git, and workspaces that it can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from orchestrator_service.findings import Finding, Grade
from orchestrator_service.team import Team
from orchestrator_service.worker_environment import workspace_of
from service_kit.git.command import Git, GitError, find_git
from service_kit.git.repository import NoRepository, look_at

_SUBJECT: Final = "worktrees"


def check_worktrees(team: Team | None, shared: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look for git, and whether the workspace of each worker that must have worktrees can have them."""
    wanted = {
        name: plan.worktrees or plan.environment.get("WORKTREES") or environ.get("WORKTREES") or "auto"
        for name, plan in (team.workers.items() if team is not None else ())
    }
    program = find_git(environ)
    if program is None:
        needed = "on" in wanted.values()
        yield Finding(
            _SUBJECT,
            Grade.BROKEN if needed else Grade.NOTE,
            "git is not installed: no task gets a worktree of its own",
            "install the package git, or set WORKTREES=off",
        )
        return
    git = Git(program, environ)
    try:
        version = git.run("--version").strip()
    except (GitError, OSError) as error:
        yield Finding(_SUBJECT, Grade.BROKEN, f"{program} does not run: {error}", "install the package git anew")
        return
    yield Finding(_SUBJECT, Grade.GOOD, f"{version} ({program})")
    for name, plan in team.workers.items() if team is not None else ():
        if wanted[name] == "off":
            continue
        try:
            repository = look_at(git, workspace_of(plan, shared))
        except NoRepository as reason:
            what, _, mend = str(reason).partition("; ")
            if wanted[name] == "on":
                yield Finding(_SUBJECT, Grade.BROKEN, f"the tasks of {name} must have one and cannot: {what}", mend)
            elif "in no git repository" not in what and "not part of what" not in what and "no directory" not in what:
                yield Finding(_SUBJECT, Grade.NOTE, f"the tasks of {name} get none: {what}", mend)
        else:
            yield Finding(_SUBJECT, Grade.GOOD, f"{name} works in {repository.top}")
