"""`codehornets worker` and `codehornets init`: one worker in the foreground, and a team to edit."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_team
from orchestrator_service.team import AGENTS, EXAMPLE_TEAM
from orchestrator_service.worker_environment import (
    choose_shared_dir,
    prepare_workspace,
    worker_command,
    worker_environment,
)


def check_agent(agent: str | None) -> None:
    """Raise a UserError unless it is one of the agents, or None."""
    if agent is not None and agent not in AGENTS:
        raise UserError(f"--agent is {agent!r}; allowed are {', '.join(AGENTS)}.")


def run_worker(name: str, team_file: Path | None, *, shared_dir: Path | None, agent: str | None) -> int:
    """Become the worker; never returns."""
    check_agent(agent)
    team = find_team(team_file)
    plan = team.worker(name)
    shared = choose_shared_dir(team, os.environ, shared_dir)
    prepare_workspace(team, plan, shared)
    environ = worker_environment(team, plan, os.environ, shared_dir=shared, agent=agent)
    command = worker_command(name)
    sys.stdout.flush()
    os.execve(command[0], command, environ)


def init(directory: Path, *, as_json: bool) -> int:
    """Copy the example team; nothing that is there is overwritten."""
    source = EXAMPLE_TEAM.parent
    files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    taken = [str(directory / path) for path in files if (directory / path).exists()]
    if taken:
        raise UserError(f"{taken[0]} is there already; name another directory: `codehornets init DIR`.")
    try:
        for path in files:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, directory / path)
    except OSError as error:
        raise UserError(f"{directory} cannot be written to: {error.strerror}; name another directory.") from error
    if as_json:
        print_json([directory / path for path in files])
        return 0
    for path in files:
        print(directory / path)
    there = "" if directory == Path() else f"cd {directory} && "
    print(f"Edit the team, then: {there}codehornets up")
    return 0
