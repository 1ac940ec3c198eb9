"""A worker in a container: what it is told, and what must be there before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from orchestrator_service.container.default_redis import wants_redis, with_default_redis
from orchestrator_service.container.places import choose_shared, make_places, need_directory
from orchestrator_service.container.refusal import Refused
from orchestrator_service.container.secret_files import need_credential, without_empty_files
from orchestrator_service.container.start_line import Start, worker_line
from orchestrator_service.container.team_file import find_team, plan_of
from orchestrator_service.team import AGENTS, Team, WorkerPlan
from orchestrator_service.worker_environment import (
    choose_agent,
    prepare_workspace,
    worker_command,
    worker_environment,
)
from service_kit.environment import Environment, with_secrets_from_files, worker_name
from service_kit.modes import WakeUps, read_wake_ups
from service_kit.places import PLACE_VARIABLES, USUAL_SHARED_DIR, layout_of

_WORKER_NAMES: Final = "1 to 63 letters, digits, dots, dashes or underscores, the first a letter or digit"


@dataclass(frozen=True, kw_only=True)
class ToldWorker:
    """A worker whose settings have been put together; nothing is made yet."""

    name: str
    environ: dict[str, str] = field(repr=False)
    """All that its process will see."""
    wake_ups: WakeUps
    shared: Path | None
    """None: it lives on Redis alone."""
    team: Team | None
    plan: WorkerPlan


def start_worker(environ: Mapping[str, str], given: str | None) -> Start:
    """Return the worker's process, with everything it needs in place.

    Args:
        environ: What the container was given.
        given: The name on the command line; None goes by WORKER_NAME.

    Raises:
        Refused: something is wrong or missing.
        service_kit.environment.SettingsError: a variable is wrong.
        orchestrator_service.team.TeamError: the team file is wrong.
        agent_bus.pipes.PipeUnavailable: a pipe cannot be made.
    """
    worker = tell_worker(environ, given)
    agent = _need_agent(worker, environ)
    _need_hook_rules(worker)
    prepare_worker(worker)
    if home := worker.environ.get("HOME"):
        need_directory(Path(home))
    _need_workspace(worker)
    return Start(
        command=worker_command(worker.name),
        environ={**worker.environ, "AGENT": agent},
        line=worker_line(worker.name, worker.wake_ups, agent, worker.team, worker.shared),
    )


def prepare_worker(worker: ToldWorker) -> None:
    """Make the worker's directories and pipes below the shared directory; safe to call again.

    Raises:
        Refused: one of them cannot be made or written to.
        agent_bus.pipes.PipeUnavailable: a pipe cannot be made.
    """
    if worker.shared is None:
        return
    make_places(layout_of(worker.environ, worker.shared, worker.name), worker.name, pipes=worker.wake_ups.pipes)
    workspace = worker.environ.get("WORKSPACE")
    if workspace and Path(workspace).is_relative_to(worker.shared):
        _need_workspace(worker)


def tell_worker(environ: Mapping[str, str], given: str | None) -> ToldWorker:
    """Put together what a worker is told.

    The team file wins over the environment, as it does everywhere; but where it listens and where its places are is a
    matter of the container, and without a word its mode is that of a worker alone.

    Raises:
        Refused: something is wrong or missing.
        service_kit.environment.SettingsError: a variable is wrong.
        orchestrator_service.team.TeamError: the team file is wrong.
    """
    given_environ = without_empty_files(environ)
    name = _name(given_environ, given)
    team = find_team(given_environ)
    plan = WorkerPlan(name=name) if team is None else plan_of(team, name)
    plan = replace(plan, environment=without_empty_files(plan.environment))
    seen = {**given_environ, **plan.environment}
    if team is not None and team.mode is not None:
        seen["WORKER_MODE"] = team.mode
    if team is not None and team.redis_url is not None and not (seen.get("REDIS_URL") or seen.get("REDIS_URL_FILE")):
        seen["REDIS_URL"] = team.redis_url
    seen = with_default_redis(seen, wanted=wants_redis(seen))
    shared = choose_shared(seen, team)
    has_redis = bool(with_secrets_from_files(seen).get("REDIS_URL"))
    wake_ups = read_wake_ups(Environment(seen), has_redis=has_redis, has_files=shared is not None)
    told = seen if team is None else _told_by_team(team, plan, seen, shared or USUAL_SHARED_DIR)
    told |= {"WORKER_NAME": name, "WORKER_MODE": wake_ups.mode.value}
    if shared is None:
        told.pop("SHARED_DIR", None)
    else:
        told["SHARED_DIR"] = str(shared)
    return ToldWorker(name=name, environ=told, wake_ups=wake_ups, shared=shared, team=team, plan=plan)


def _told_by_team(team: Team, plan: WorkerPlan, seen: dict[str, str], shared: Path) -> dict[str, str]:
    told = worker_environment(team, plan, seen, shared_dir=shared)
    # A container is one worker with a network and places of its own: what it is given of these is meant for it.
    own = ["HTTP_HOST", "HTTP_PORT", *PLACE_VARIABLES]
    if plan.workspace is None:
        own.append("WORKSPACE")
    return told | {variable: seen[variable] for variable in own if seen.get(variable)}


def _name(environ: Mapping[str, str], given: str | None) -> str:
    name = Environment(environ).value("WORKER_NAME", worker_name, _WORKER_NAMES, None, given=given)
    if name is None:
        raise Refused("WORKER_NAME is not set; name the worker there, or after the role: `worker NAME`.")
    return name


def _need_workspace(worker: ToldWorker) -> None:
    if worker.team is not None and worker.plan.workspace is not None:
        # One that the team file names holds somebody's work; an empty one in its place would only hide a mistake.
        prepare_workspace(worker.team, worker.plan, worker.shared or USUAL_SHARED_DIR)
    if workspace := worker.environ.get("WORKSPACE"):
        need_directory(Path(workspace).absolute())


def _need_agent(worker: ToldWorker, given: Mapping[str, str]) -> str:
    """Return the agent, which must be one that there is, with its credential."""
    # A worker without a team file has the choice of one whose file says nothing.
    team = worker.team if worker.team is not None else Team(path=Path(), workers={})
    environ = {**worker.environ, "AGENT": given.get("AGENT", "")}
    agent = choose_agent(team, worker.plan, environ)
    if agent not in AGENTS:
        raise Refused(f"AGENT is {agent!r}; allowed is {', '.join(AGENTS[:-1])} or {AGENTS[-1]}.")
    if agent == "claude":
        need_credential(worker.environ, {**given, **worker.plan.environment})
    return agent


def _need_hook_rules(worker: ToldWorker) -> None:
    # A worker takes a file that is not there for one without rules, which is right for the usual place alone.
    rules = worker.environ.get("HOOKS_CONFIG", "")
    if rules and worker.wake_ups.bridges_hooks and not Path(rules).exists():
        raise Refused(
            f"HOOKS_CONFIG is {rules!r}, and there is no such file; mount the hook rules there, or leave it out."
        )
