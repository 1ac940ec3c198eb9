"""The commands that save a team and bring it back, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator_service.cli.options import AsJson, SharedDir

Ledger = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="Default: LEDGER_PATH, else orchestrator/ledger.sqlite3 there."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (backup, restore):
        app.command()(command)


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help='A new file; "-" writes to standard output.')],
    shared_dir: SharedDir = None,
    ledger: Ledger = None,
    no_ledger: Annotated[bool, typer.Option("--no-ledger", help="Leave the ledger out.")] = False,
    without_events: Annotated[bool, typer.Option("--without-events", help="Leave journals out.")] = False,
    with_logs: Annotated[bool, typer.Option("--with-logs", help="Take the logs as well.")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="NAME=DIR", help="A directory more, such as a home or workspace; repeat it."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Save all that a team must not lose into one file, also while it works."""
    from orchestrator_service.cli import backups as command

    wanted = command.Wanted(
        shared_dir=shared_dir,
        ledger=ledger,
        no_ledger=no_ledger,
        events=not without_events,
        logs=with_logs,
        also=tuple(also or ()),
    )
    return command.backup(file, wanted, as_json=json)


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help='A backup; "-" reads it from standard input.')],
    shared_dir: SharedDir = None,
    ledger: Ledger = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Put everything below this directory instead.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="NAME=DIR", help="Where a directory goes that was saved as well; repeat it."),
    ] = None,
    also_below: Annotated[
        Path | None, typer.Option("--also-below", metavar="DIR", help="Where those go that --also does not name.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="NAME", help="Leave that directory out; repeat it.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only read it and check every checksum.")] = False,
    json: AsJson = False,
) -> int:
    """Put a backup into an empty place; a team that is started there goes on."""
    from orchestrator_service.cli import backups as command

    where = command.Target(
        shared_dir=shared_dir,
        ledger=ledger,
        into=into,
        also=tuple(also or ()),
        also_below=also_below,
        skip=tuple(skip or ()),
    )
    return command.restore(file, where, check=check, as_json=json)
