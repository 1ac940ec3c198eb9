"""The team file of a container, and a worker's place in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator_service.container.refusal import Refused
from orchestrator_service.team import Team, WorkerPlan, read_team


def find_team(environ: Mapping[str, str]) -> Team | None:
    """Return the team of TEAM_FILE; None where that is empty: then the environment alone tells everything.

    Raises:
        Refused: it is not there. Going on without it would drop the limits that it sets.
        orchestrator_service.team.TeamError: it is wrong.
    """
    named = environ.get("TEAM_FILE", "")
    if not named:
        return None
    path = Path(named)
    if not path.exists():
        raise Refused(
            f"TEAM_FILE is {named!r}, and there is no such file; mount a team file there, or set TEAM_FILE to nothing "
            "to go by the environment alone."
        )
    return read_team(path)


def plan_of(team: Team, name: str) -> WorkerPlan:
    """Return what the team file says of a worker.

    Raises:
        Refused: it says nothing of it.
    """
    if name not in team.workers:
        raise Refused(
            f"there is no worker {name!r} in {team.path}, it has {', '.join(team.workers)}; add a table "
            f"[workers.{name}] to it, or name one of these."
        )
    return team.workers[name]
