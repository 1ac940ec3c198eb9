"""From a team file to the environment of the orchestrator's process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator_service.team import OWN_VARIABLES, Team
from orchestrator_service.worker_environment import REDIS_VARIABLES

_DEFAULT_PORT: Final = 8700
_A_WORKERS: Final = OWN_VARIABLES - {"HTTP_PORT"}
"""Variables of workers, some of which mean another thing to the orchestrator, or nothing."""


def orchestrator_environment(
    team: Team, environ: Mapping[str, str], *, shared_dir: Path, port: str | None = None
) -> dict[str, str]:
    """Return the whole environment of the orchestrator's process.

    What the team file says wins over `environ`; what it does not say is inherited.

    Args:
        team: The team.
        environ: This process's environment.
        shared_dir: The shared directory, absolute.
        port: Where the API listens; None goes by `wanted_port`.
    """
    plan = team.orchestrator
    said: dict[str, object] = {
        "SHARED_DIR": shared_dir,
        "TEAM_FILE": team.path,
        "HTTP_PORT": wanted_port(team, environ) if port is None else port,
        "MAX_IN_FLIGHT": plan.max_in_flight,
        "TASK_BUDGET_USD": plan.task_budget_usd,
        "WORKER_BUDGET_USD": plan.worker_budget_usd,
        "DAY_BUDGET_USD": plan.day_budget_usd,
        "GOAL_MODEL": plan.goal_model,
    }
    inherited = {name: value for name, value in environ.items() if name not in _A_WORKERS}
    if team.redis_url is not None and not any(inherited.get(name) for name in REDIS_VARIABLES):
        inherited["REDIS_URL"] = team.redis_url
    return {
        **inherited,
        "HTTP_HOST": "127.0.0.1",
        **{name: str(value) for name, value in said.items() if value is not None},
    }


def wanted_port(team: Team, environ: Mapping[str, str]) -> str:
    """Return where the API is to listen: as the team file says, else HTTP_PORT, else the usual port."""
    plan = team.orchestrator
    return str(plan.http_port) if plan.http_port is not None else environ.get("HTTP_PORT") or str(_DEFAULT_PORT)


def is_port_chosen(team: Team, environ: Mapping[str, str]) -> bool:
    """Tell whether somebody chose the port: then another one would not do."""
    return team.orchestrator.http_port is not None or bool(environ.get("HTTP_PORT"))


def orchestrator_command() -> list[str]:
    """Return its command line; `-P` keeps files of the current directory out of its imports."""
    return [sys.executable, "-P", "-m", "orchestrator_service"]
