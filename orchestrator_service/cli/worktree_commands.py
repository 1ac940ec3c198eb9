"""The command about worktrees and its options."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator_service.cli.options import AsJson, OneWorker, SharedDir


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(name="worktrees")(worktrees)


def worktrees(
    worker: OneWorker = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what is old and would not be missed.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0, metavar="SECONDS", help="What is old for --prune; default: WORKTREE_KEEP, or 7 days."
        ),
    ] = None,
    shared_dir: SharedDir = None,
    json: AsJson = False,
) -> int:
    """List the git worktrees of tasks: age, branch, and whether their work is merged."""
    from orchestrator_service.cli import worktrees as command

    return command.worktrees(worker=worker, remove=prune, older_than_s=older_than, shared_dir=shared_dir, as_json=json)
