"""`codehornets up`: a whole team in one go, until Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from agent_bus.claude_credentials import find_credential
from agent_bus.heartbeats import is_alive, read_heartbeat
from agent_bus.layout import ORCHESTRATOR, WorkerLayout
from agent_bus.messages import Heartbeat
from orchestrator_service.cli.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from orchestrator_service.cli.output import print_ending
from orchestrator_service.cli.places import find_team
from orchestrator_service.cli.tasks import hand_in, new_task_id
from orchestrator_service.cli.team_files import check_agent
from orchestrator_service.cli.terminal import give_up_stdout, harmless
from orchestrator_service.cli.waiting import until_result
from orchestrator_service.orchestrator_environment import (
    is_port_chosen,
    orchestrator_command,
    orchestrator_environment,
    wanted_port,
)
from orchestrator_service.settings import orchestrator_heartbeat
from orchestrator_service.supervisor import Child, ChildState, Supervisor, open_supervisor
from orchestrator_service.team import EXAMPLE_TEAM, Team
from orchestrator_service.worker_environment import (
    choose_shared_dir,
    prepare_workspace,
    worker_command,
    worker_environment,
)

_READY_WITHIN_S: Final = 30.0


@dataclass(frozen=True)
class FirstTask:
    """The task that `--task` gives."""

    worker: str
    prompt: str


def up(
    team_file: Path | None,
    *,
    shared_dir: Path | None,
    agent: str | None,
    task: str | None,
    once: bool,
    orchestrator: bool = True,
) -> int:
    """Start the team and serve; returns the exit code."""
    check_agent(agent)
    team = find_team(team_file)
    first = None if task is None else _parse_task(task, team)
    if once and first is None:
        raise UserError("--once stops after a task; give one with --task 'WORKER: PROMPT'.")
    shared = choose_shared_dir(team, os.environ, shared_dir)
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The shared directory {shared} cannot be made: {error.strerror}; name another with --shared-dir."
        ) from error
    for plan in team.workers.values():
        prepare_workspace(team, plan, shared)
    children = [_child(team, name, shared, agent) for name in team.workers]
    if orchestrator and team.orchestrator.enabled:
        children += _orchestrator(team, shared)
    return anyio.run(_run, children, team, shared, first, once)


def _parse_task(text: str, team: Team) -> FirstTask:
    match = re.fullmatch(r"\s*([^\s:]+)\s*:\s*(\S.*?)\s*", text, re.DOTALL)
    if match is None:
        raise UserError(f"--task is {text[:80]!r}; allowed is 'WORKER: PROMPT'.")
    return FirstTask(team.worker(match[1]).name, match[2])


def _say(text: str) -> None:
    """Print a line; a terminal or pipe that is gone is no reason to stop working."""
    try:
        print(text, flush=True)
    except OSError:
        give_up_stdout()


async def _run(children: list[Child], team: Team, shared: Path, first: FirstTask | None, once: bool) -> int:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        if team.path == EXAMPLE_TEAM:
            _say(f"This is the example team; `{_command()} init` writes it here for editing.")
        _say(f"Starting {', '.join(child.name for child in children)} …")
        _warn_of_others(children)
        code = EXIT_INTERRUPTED if once else 0
        async with anyio.create_task_group() as outer:
            async with open_supervisor(children, tell=_say) as supervisor:
                with anyio.CancelScope() as serving:
                    outer.start_soon(_obey, signals, serving, supervisor)
                    code = await _serve(supervisor, team, shared, first, once)
            outer.cancel_scope.cancel()
    _say("All workers have stopped.")
    return code


async def _obey(signals: AsyncIterator[signal.Signals], serving: anyio.CancelScope, supervisor: Supervisor) -> None:
    """Stop serving at the first signal; with each further one press the workers."""
    asked = False
    async for _ in signals:
        if not asked:
            _say("Stopping; running tasks may finish, a second Ctrl-C interrupts them (they are resumed next time) …")
            supervisor.stopping()
            serving.cancel()
        else:
            supervisor.hurry()
        asked = True


def _child(team: Team, name: str, shared: Path, agent: str | None) -> Child:
    return Child(
        name=name,
        command=worker_command(name),
        environ=worker_environment(team, team.worker(name), os.environ, shared_dir=shared, agent=agent),
        heartbeat_file=WorkerLayout.under(shared, name).heartbeat(name),
    )


def _orchestrator(team: Team, shared: Path) -> list[Child]:
    """Return the orchestrator to start; none where one runs on the shared directory already."""
    heartbeat_file = orchestrator_heartbeat(shared)
    if (beat := _living(heartbeat_file)) is not None:
        _say(f"An orchestrator runs here already (process {beat.pid}); the team goes with it.")
        return []
    port = wanted_port(team, os.environ)
    if not is_port_chosen(team, os.environ) and not _is_free(int(port)):
        _say(f"Port {port} is taken; the orchestrator's API takes another one.")
        port = "0"
    environ = orchestrator_environment(team, os.environ, shared_dir=shared, port=port)
    child = Child(
        name=ORCHESTRATOR,
        command=orchestrator_command(),
        environ=environ,
        heartbeat_file=heartbeat_file,
        serves_others=True,
    )
    return [child]


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _living(heartbeat_file: Path) -> Heartbeat | None:
    """Return the heartbeat if its process lives, as far as can be seen from here."""
    beat = read_heartbeat(heartbeat_file)
    return beat if beat is not None and is_alive(beat) and Path(f"/proc/{beat.pid}").exists() else None


def _warn_of_others(children: list[Child]) -> None:
    for child in children:
        if (beat := _living(child.heartbeat_file)) is not None:
            _say(f"{child.name} seems to run here already (process {beat.pid}); the two will share its tasks.")


async def _serve(supervisor: Supervisor, team: Team, shared: Path, first: FirstTask | None, once: bool) -> int:
    ready = await supervisor.wait_until_ready(supervisor.children, within_s=_READY_WITHIN_S)
    for child in supervisor.children.values():
        if child.name not in ready and child.state is not ChildState.REFUSED:
            _say(
                f"{child.name} did not become ready within {_READY_WITHIN_S:g} s; "
                f"`{_command()} logs {child.name}{_shared_option(shared)}` may tell why."
            )
    api = ready.get(ORCHESTRATOR)
    # In the team's order, whoever was first.
    ready = {name: ready[name] for name in team.workers if name in ready}
    if ready:
        _tell_where_things_are(supervisor, team, shared, ready, api)
    code = 0
    if first is not None:
        code = 1
        if first.worker in ready:
            code = await _give(first, shared)
        else:
            _say(f"The task was not given, since {first.worker} is not ready.")
        if once:
            return code
        _say("The team keeps serving; Ctrl-C stops it.")
    await supervisor.all_over.wait()
    refused = any(child.state is ChildState.REFUSED for child in supervisor.children.values())
    return EXIT_USER_ERROR if refused else 0


def _tell_where_things_are(
    supervisor: Supervisor, team: Team, shared: Path, ready: Mapping[str, Heartbeat], api: Heartbeat | None
) -> None:
    _say("")
    _say(f"{len(ready)} of {len(team.workers)} workers ready:")
    longest = max(len(name) for name in ready)
    role_width = max(len(team.worker(name).role) for name in ready)
    for name, beat in ready.items():
        role = team.worker(name).role
        _say(
            f"  {name:<{longest}}  {role:<{role_width}}  agent {beat.agent:<7}  http://127.0.0.1:{beat.http_port}/readyz"
        )
    command, shared_option = _command(), _shared_option(shared)
    if api is not None:
        _say(f"Dashboard: http://127.0.0.1:{api.http_port} (the API: /docs)")
    _say(f"Shared directory: {shared}")
    stand_ins = [name for name in ready if supervisor.children[name].environ["AGENT"] == "echo"]
    if stand_ins:
        _say("")
        _tell_of_echo(stand_ins, has_credential=find_credential(supervisor.children[stand_ins[0]].environ) is not None)
    someone = next(iter(ready))
    example = shared / "triggers" / someone
    _say("")
    _say(f'Give a task:   {command} submit {someone} "…" --wait{shared_option}')
    _say(f'or as a file:  echo \'{{"description": "…"}}\' > {_quoted(_brief(example))}/any-name.trigger')
    if api is not None:
        _say(f'Give a goal:   {command} goal "…"{shared_option}')
    _say(f"See them work: {command} {'top' if api is not None else 'status'}{shared_option}")
    _say("")


def _tell_of_echo(names: list[str], *, has_credential: bool) -> None:
    why = "was chosen for" if has_credential else "stands in for Claude, since no credentials were found, at"
    _say(f"The built-in echo agent {why} {', '.join(names)}: it answers with the prompt itself.")
    if has_credential:
        _say("  For Claude: start again with --agent claude (or say so in AGENT or the team file).")
    else:
        _say("  For Claude: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN, or log in with `claude`; start again.")


async def _give(first: FirstTask, shared: Path) -> int:
    task_id = new_task_id()
    _say(f"Task {task_id} for {first.worker}: {harmless(first.prompt)}")
    layout = WorkerLayout.under(shared, first.worker)
    hand_in(layout, first.worker, {"task_id": task_id, "description": first.prompt, "worker": first.worker})
    ending = await until_result(shared, task_id, worker=first.worker)
    _say(f"Its result ({_brief(layout.result(task_id))}):")
    code = print_ending(ending, task_id, as_json=False)
    sys.stdout.flush()
    _say("")
    return code


def _command() -> str:
    """Return how the command was called, so that what is shown can be copied."""
    called = sys.argv[0]
    if shutil.which("codehornets") or not called.endswith("codehornets"):
        return "codehornets"
    return _quoted(str(_brief(Path(called).absolute())))


def _shared_option(shared: Path) -> str:
    if os.environ.get("SHARED_DIR") or shared == Path("shared").absolute():
        return ""
    return f" --shared-dir {_quoted(str(shared))}"


def _brief(path: Path) -> Path:
    """Return the path as seen from here where it is below, else as it is."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _quoted(path: object) -> str:
    import shlex

    return shlex.quote(str(path))
