"""From a team file to the environment of one worker process: the only thing that a worker is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_bus.claude_credentials import find_credential
from orchestrator_service.team import OWN_VARIABLES, Team, TeamError, WorkerPlan

_SECRET_FILES: Final = ("ANTHROPIC_API_KEY_FILE", "ANTHROPIC_AUTH_TOKEN_FILE", "CLAUDE_CODE_OAUTH_TOKEN_FILE")

REDIS_VARIABLES: Final = ("REDIS_URL", "REDIS_URL_FILE")
"""Unlike other keys, the team's `redis_url` gives way to these: they may hold the password."""
_MODE_VARIABLES: Final = ("WORKER_MODE", "ACTIVATION_WRAPPER", "HOOKS_MODE")
_ONE_WORKERS_ALONE: Final = frozenset(variable for variable in OWN_VARIABLES if variable.endswith("_DIR"))
"""Places of a single worker; inherited by a whole team they would make its workers take each other's tasks."""


def choose_agent(team: Team, worker: WorkerPlan, environ: Mapping[str, str], given: str | None = None) -> str:
    """Return `claude`, `command` or `echo`.

    The first of these that says more than `auto` counts: `given` (a command line option), the worker's, the team's,
    the variable AGENT; then Claude where there is a credential for it, else echo.
    """
    for word in (given, worker.agent, team.agent, environ.get("AGENT")):
        if word and word != "auto":
            return word
    seen = {**environ, **worker.environment}
    has_secret_file = any(seen.get(variable) for variable in _SECRET_FILES)
    return "claude" if has_secret_file or find_credential(seen) is not None else "echo"


def choose_shared_dir(team: Team | None, environ: Mapping[str, str], given: Path | None = None) -> Path:
    """Return the shared directory, absolute: the one given, else SHARED_DIR, else the team's, else `./shared`."""
    if given is not None:
        return given.absolute()
    if environ.get("SHARED_DIR"):
        return Path(environ["SHARED_DIR"]).absolute()
    if team is not None and team.shared_dir is not None:
        return team.shared_dir.absolute()
    return Path("shared").absolute()


def workspace_of(worker: WorkerPlan, shared_dir: Path) -> Path:
    """Return where the worker's agents work.

    Not the current directory: nobody who tries the example team wants three agents to edit what happens to be there.
    """
    return worker.workspace if worker.workspace is not None else shared_dir / "workspaces" / worker.name


def hook_rules_of(team: Team, name: str) -> Path | None:
    """Return the file `hooks-config/NAME-hooks.json` beside the team file; None where there is none."""
    path = team.path.parent / "hooks-config" / f"{name}-hooks.json"
    return path if path.is_file() else None


def prepare_workspace(team: Team, worker: WorkerPlan, shared_dir: Path) -> None:
    """Make the workspace where it is the default one; one that the team file names must be there.

    Raises:
        TeamError: it is not there, or cannot be made.
    """
    workspace = workspace_of(worker, shared_dir)
    if worker.workspace is not None:
        if not workspace.is_dir():
            raise TeamError(
                f"{team.path}: workers.{worker.name}.workspace is {str(workspace)!r}; allowed is a directory that "
                "exists."
            )
        return
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TeamError(
            f"{workspace} cannot be made: {error.strerror}; name another place with --shared-dir or SHARED_DIR."
        ) from error


def worker_environment(
    team: Team, worker: WorkerPlan, environ: Mapping[str, str], *, shared_dir: Path, agent: str | None = None
) -> dict[str, str]:
    """Return the whole environment of the worker's process.

    What the team file says wins over `environ`; what it does not say is inherited.

    Args:
        team: The team.
        worker: Its worker.
        environ: This process's environment.
        shared_dir: The shared directory, absolute.
        agent: An agent chosen on the command line; None goes by `choose_agent`.
    """
    said: dict[str, object] = {
        "WORKER_NAME": worker.name,
        "SHARED_DIR": shared_dir,
        "WORKER_MODE": team.mode or _usual_mode({**environ, **worker.environment}),
        "AGENT": choose_agent(team, worker, environ, agent),
        "AGENT_COMMAND": worker.agent_command,
        "MAX_CONCURRENT": worker.slots,
        "WARM_PROCESSES": worker.warm_processes,
        "MODEL": worker.model,
        "OUTPUT_STYLE": worker.output_style,
        "WORKSPACE": workspace_of(worker, shared_dir),
        "WORKTREES": worker.worktrees,
        "WORKTREE_KEEP": worker.worktree_keep_s,
        "TASK_TIMEOUT": worker.task_timeout_s,
        "STUCK_AFTER": worker.stuck_after_s,
        "STUCK_LINGER": worker.stuck_linger_s,
        "STUCK_REPEATS": worker.stuck_repeats,
        "STUCK_ACTION": worker.stuck_action,
        "ALLOWED_TOOLS": ",".join(worker.allowed_tools) or None,
        "PERMISSION_MODE": worker.permission_mode,
        "QUESTIONS": worker.questions,
        "QUESTION_TIMEOUT": worker.question_timeout_s,
        "ON_QUESTION": worker.on_question,
        "MAX_TURNS": worker.max_turns,
        "MAX_BUDGET_USD": worker.max_budget_usd,
        "HTTP_PORT": worker.http_port,
    }
    inherited = {name: value for name, value in environ.items() if name not in _ONE_WORKERS_ALONE}
    if team.redis_url is not None and not any(inherited.get(name) for name in REDIS_VARIABLES):
        inherited["REDIS_URL"] = team.redis_url
    rules = hook_rules_of(team, worker.name)
    return {
        **inherited,
        "HTTP_HOST": "127.0.0.1",
        **({} if rules is None else {"HOOKS_CONFIG": str(rules)}),
        **worker.environment,
        **{name: str(value) for name, value in said.items() if value is not None},
    }


def _usual_mode(environ: Mapping[str, str]) -> str | None:
    # Without a word a team is event-driven; a worker alone would poll, as its older variables have it.
    return None if any(environ.get(variable) for variable in _MODE_VARIABLES) else "event-driven"


def worker_command(name: str) -> list[str]:
    """Return the command line of a worker; `-P` keeps files of the current directory out of its imports."""
    return [sys.executable, "-P", "-m", "worker_service", name]
