"""The orchestrator in a container, and the command line beside it, which finds its token."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from agent_bus.layout import ORCHESTRATOR, WorkerLayout
from orchestrator_service.container.api_token import find_token, given_tokens, need_token
from orchestrator_service.container.default_redis import wants_redis, with_default_redis
from orchestrator_service.container.places import need_directory
from orchestrator_service.container.secret_files import without_empty_files
from orchestrator_service.container.start_line import Start, orchestrator_line
from orchestrator_service.container.team_file import find_team
from orchestrator_service.orchestrator_environment import orchestrator_command, orchestrator_environment
from service_kit.environment import with_secrets_from_files
from service_kit.places import USUAL_SHARED_DIR


def start_orchestrator(environ: Mapping[str, str]) -> Start:
    """Return the orchestrator's process, with everything it needs in place.

    Raises:
        Refused: something is wrong or missing.
        service_kit.environment.SettingsError: a variable is wrong.
        orchestrator_service.team.TeamError: the team file is wrong.
    """
    given = without_empty_files(environ)
    team = find_team(given)
    wanted = wants_redis(given if team is None or team.mode is None else {**given, "WORKER_MODE": team.mode})
    shared = _shared(given)
    if team is None:
        told = {**given, "SHARED_DIR": str(shared)}
    else:
        if not given.get("SHARED_DIR") and team.shared_dir is not None:
            shared = team.shared_dir
        told = orchestrator_environment(team, given, shared_dir=shared, port=given.get("HTTP_PORT") or None)
        if host := given.get("HTTP_HOST"):
            told["HTTP_HOST"] = host
    told = with_default_redis(told, wanted=wanted)
    has_redis = bool(with_secrets_from_files(told).get("REDIS_URL"))
    layout = WorkerLayout.under(shared, ORCHESTRATOR)
    ledger = _ledger(told, shared)
    for directory in (shared, layout.heartbeats, layout.logs, layout.triggers, ledger.parent):
        need_directory(directory)
    if chosen := given_tokens(told):
        tokens = f"API tokens from {' and '.join(chosen)}"
    else:
        path = need_token(ledger.parent)
        told["API_TOKEN_FILE"] = str(path)
        tokens = f"API token in {path} (`codehornets` uses it here; `cat {path}` shows it)"
    line = orchestrator_line(team, shared, ledger, tokens, has_redis=has_redis)
    return Start(command=orchestrator_command(), environ=told, line=line)


def start_command_line(environ: Mapping[str, str], arguments: list[str]) -> Start:
    """Return the command line's process; it has the orchestrator's own token, where that can be read, and its Redis.

    Raises:
        Refused: the password of Redis cannot be read.
        service_kit.environment.SettingsError: the mode that the environment names does not exist.
    """
    told = without_empty_files(environ)
    told = with_default_redis(told, wanted=wants_redis(told))
    if not given_tokens(told):
        token = find_token(_ledger(told, _shared(told)).parent)
        if token is not None:
            told["API_TOKEN_FILE"] = str(token)
    return Start(command=[sys.executable, "-P", "-m", "orchestrator_service.cli", *arguments], environ=told)


def _shared(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("SHARED_DIR") or USUAL_SHARED_DIR).absolute()


def _ledger(environ: Mapping[str, str], shared: Path) -> Path:
    return Path(environ.get("LEDGER_PATH") or shared / "orchestrator" / "ledger.sqlite3").absolute()
