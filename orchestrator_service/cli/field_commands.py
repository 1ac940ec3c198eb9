"""The commands for those who keep a running team well, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator_service.cli.options import AsJson, Redis, SharedDir, complete_worker_name


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(check)


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Workers, or `orchestrator`; default: all that run.",
            autocompletion=complete_worker_name,
        ),
    ] = None,
    triggers: Annotated[
        int, typer.Option("--triggers", metavar="N", help="Measure the latency by so many; 0 leaves it out.")
    ] = 10,
    max_latency: Annotated[
        float | None,
        typer.Option("--max-latency", metavar="MS", help="What their median may be; default: by the mode."),
    ] = None,
    task: Annotated[
        bool, typer.Option("--task", help="Run one whole task as well; a real model charges for it.")
    ] = False,
    no_process: Annotated[
        bool, typer.Option("--no-process", help="Do not look for processes; for where they cannot be seen.")
    ] = False,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """Check running workers from outside, with real triggers and commands; exit code 1 when something is broken."""
    from orchestrator_service.cli import check as command
    from orchestrator_service.field_check.check import Extent

    extent = Extent(triggers=triggers, max_latency_ms=max_latency, with_task=task, sees_processes=not no_process)
    return command.check(names or [], extent, shared_dir=shared_dir, redis=redis, as_json=json)
