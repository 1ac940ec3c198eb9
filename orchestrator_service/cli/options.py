"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def complete_worker_name(incomplete: str) -> list[str]:
    """Return the workers whose names begin so."""
    from orchestrator_service.cli.completion import complete_worker

    return complete_worker(incomplete)


def complete_task_id(incomplete: str) -> list[str]:
    """Return the newest tasks whose ids begin so."""
    from orchestrator_service.cli.completion import complete_task

    return complete_task(incomplete)


SharedDir = Annotated[
    Path | None,
    typer.Option("--shared-dir", metavar="DIR", help="Default: SHARED_DIR, else ./team.toml's, else ./shared."),
]
Redis = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Default: REDIS_URL_FILE, REDIS_URL, else ./team.toml's, if any."),
]
Api = Annotated[
    str | None,
    typer.Option("--api", metavar="URL", help="Default: CODEHORNETS_URL, else what runs on the shared directory."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="The API's token; default: API_TOKEN, else API_TOKEN_FILE."),
]
Via = Annotated[str | None, typer.Option("--via", metavar="WAY", help="api, file or redis, where several are there.")]
TeamFile = Annotated[
    Path | None, typer.Option("--team", metavar="FILE", help="Default: ./team.toml, else the shipped example.")
]
Agent = Annotated[
    str | None, typer.Option("--agent", metavar="AGENT", help="auto, claude, command or echo; wins over the team.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
GiveUpAfter = Annotated[
    float | None, typer.Option("--wait-timeout", metavar="S", help="Give up waiting after so many seconds (exit 5).")
]
OneWorker = Annotated[
    str | None, typer.Option("--worker", metavar="NAME", help="This worker alone.", autocompletion=complete_worker_name)
]
WorkerName = Annotated[str, typer.Argument(metavar="WORKER", autocompletion=complete_worker_name)]
TaskId = Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_task_id)]
MaybeTaskId = Annotated[
    str | None,
    typer.Option("--task", metavar="ID", help="The events of one task instead.", autocompletion=complete_task_id),
]
