"""Which role a container has, and the step from here into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from agent_bus.pipes import PipeUnavailable
from orchestrator_service.container.orchestrator import start_command_line, start_orchestrator
from orchestrator_service.container.refusal import Refused
from orchestrator_service.container.secret_files import without_empty_files
from orchestrator_service.container.start_line import Start
from orchestrator_service.container.team_file import find_team
from orchestrator_service.container.worker import prepare_worker, start_worker, tell_worker
from orchestrator_service.team import TeamError
from service_kit.environment import SettingsError

_REFUSED: Final = 2
"""Exit code for a start that was refused, as that of the services."""

ROLES: Final = ("worker [NAME]", "orchestrator", "prepare [NAME…]", "codehornets ARGS…")
_ALLOWED: Final = f"allowed are {', '.join(ROLES[:-1])} and {ROLES[-1]}"
_USAGE: Final = """\
usage: ROLE

  worker [NAME]        one worker (NAME, else WORKER_NAME)
  orchestrator         the orchestrator and its API
  prepare [NAME…]      only make the directories and pipes of these workers, else of the whole team
  codehornets ARGS…    the command line; in the orchestrator's container it has the API token

All settings come from the environment, see docs/settings.md."""
_REFUSALS: Final = (Refused, SettingsError, TeamError, PipeUnavailable)


def main(arguments: list[str]) -> int:
    """Take the role that the arguments name; returns an exit code only where nothing is to be started."""
    try:
        _take_role(arguments)
    except _REFUSALS as error:
        _say(str(error))
        return _REFUSED
    return 0


def _take_role(arguments: list[str]) -> None:
    # Deployments pass on what their user has not set as empty, and an agent may take that for a value.
    environ = {name: value for name, value in os.environ.items() if value}
    match arguments:
        case ["-h" | "--help"]:
            print(_USAGE)
        case ["codehornets", *rest]:
            _become(start_command_line(environ, rest))
        case ["worker"]:
            _become(start_worker(environ, None))
        case ["worker", name]:
            _become(start_worker(environ, name))
        case ["orchestrator"]:
            _become(start_orchestrator(environ))
        case ["prepare", *names]:
            prepare(environ, names)
        case []:
            raise Refused(f"no role is named; {_ALLOWED}.")
        case ["worker" | "orchestrator" as role, *_]:
            raise Refused(f"{role} is followed by {' '.join(arguments[1:])!r}; {_ALLOWED}.")
        case _:
            raise Refused(f"there is no role {arguments[0]!r}; {_ALLOWED}.")


def prepare(environ: Mapping[str, str], names: list[str]) -> None:
    """Make directories and pipes of the named workers, else of the team's, else of WORKER_NAME.

    Raises:
        Refused: something is wrong or missing.
        service_kit.environment.SettingsError: a variable is wrong.
        orchestrator_service.team.TeamError: the team file is wrong.
        agent_bus.pipes.PipeUnavailable: a pipe cannot be made.
    """
    if not names:
        team = find_team(without_empty_files(environ))
        names = [] if team is None else list(team.workers)
    # All are looked at before the first is touched.
    workers = [tell_worker(environ, name) for name in names] or [tell_worker(environ, None)]
    for worker in workers:
        prepare_worker(worker)
    _say(f"directories and pipes of {', '.join(worker.name for worker in workers)} are there")


def _become(start: Start) -> None:
    if start.line is not None:
        _say(start.line)
    os.execve(start.command[0], start.command, start.environ)


def _say(line: str) -> None:
    # Nobody who listens is no reason not to work.
    with suppress(OSError):
        print(f"container: {line}", file=sys.stderr, flush=True)
