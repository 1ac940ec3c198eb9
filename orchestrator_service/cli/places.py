"""Which team and which shared directory a command means, and who works there."""

from __future__ import annotations

import os
from pathlib import Path

from agent_bus.layout import WorkerLayout, is_worker_name
from orchestrator_service.cli.errors import UserError
from orchestrator_service.team import EXAMPLE_TEAM, TEAM_FILE_NAME, Team, read_team
from orchestrator_service.worker_environment import choose_shared_dir


def find_team(given: Path | None) -> Team:
    """Return the given team, else that of `./team.toml`, else the shipped example.

    Raises:
        orchestrator_service.team.TeamError: the file is wrong.
    """
    if given is not None:
        return read_team(given)
    here = Path(TEAM_FILE_NAME)
    return read_team(here if here.exists() else EXAMPLE_TEAM)


def team_here() -> Team | None:
    """Return the team of `./team.toml`, or None where there is no such file.

    Raises:
        orchestrator_service.team.TeamError: the file is wrong.
    """
    here = Path(TEAM_FILE_NAME)
    return read_team(here) if here.exists() else None


def is_named(given: Path | None, *, beside_redis: bool) -> bool:
    """Tell whether somebody said which shared directory is meant.

    Args:
        given: What was typed.
        beside_redis: Whether a Redis was typed: it tells more of what is meant than the environment does.
    """
    return given is not None or (bool(os.environ.get("SHARED_DIR")) and not beside_redis)


def place_of_shared_dir(given: Path | None) -> Path:
    """Return the shared directory that a client command means, be it there or not.

    Raises:
        orchestrator_service.team.TeamError: `./team.toml` would say where it is, and is wrong.
    """
    ask_team = given is None and not os.environ.get("SHARED_DIR")
    return choose_shared_dir(team_here() if ask_team else None, os.environ, given)


def find_shared_dir(given: Path | None) -> Path:
    """Return the shared directory that a client command means; it must exist.

    Raises:
        UserError: it does not exist.
        orchestrator_service.team.TeamError: `./team.toml` would say where it is, and is wrong.
    """
    shared = place_of_shared_dir(given)
    if not shared.is_dir():
        raise missing(shared)
    return shared


def missing(shared: Path) -> UserError:
    """Return the error that says that this shared directory is not there."""
    return UserError(
        f"There is no shared directory {shared}; start the workers with `codehornets up`, or name another one "
        "with --shared-dir or SHARED_DIR, or a Redis with --redis or REDIS_URL."
    )


def known_workers(shared: Path) -> list[str]:
    """Return the names of all workers that ever ran on the shared directory."""
    names: set[str] = set()
    for folder in ("tasks", "triggers", "results"):
        if (shared / folder).is_dir():
            names.update(entry.name for entry in (shared / folder).iterdir() if entry.is_dir())
    suffix = "-watcher.json"
    names.update(path.name.removesuffix(suffix) for path in (shared / "heartbeats").glob(f"*{suffix}"))
    # What workers tell the orchestrator lies among the triggers as well.
    return sorted(name for name in names if is_worker_name(name) and name != "orchestrator")


def find_worker(shared: Path, name: str) -> WorkerLayout:
    """Return the layout of a worker that has run on the shared directory.

    Raises:
        UserError: none of that name has.
    """
    known = known_workers(shared)
    if name not in known:
        there = f"there are {', '.join(known)}" if known else "no worker has run there yet"
        raise UserError(f"No worker {name!r} in {shared}; {there}.")
    return WorkerLayout.under(shared, name)
