"""The commands and their options. What each does is in a module of its own, imported when it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator_service.cli import (
    api_commands,
    backup_commands,
    field_commands,
    question_commands,
    worktree_commands,
)
from orchestrator_service.cli.options import (
    Agent,
    Api,
    AsJson,
    AsJsonLines,
    GiveUpAfter,
    MaybeTaskId,
    OneWorker,
    Redis,
    SharedDir,
    TaskId,
    TeamFile,
    TokenFile,
    Via,
    WorkerName,
    complete_worker_name,
)
from orchestrator_service.cli.where import Where

app = typer.Typer(
    name="codehornets",
    help="Teams of Claude Code agents: drop a task, get its result, lose nothing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help with frames and colours would take twice as long to come.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dead_letters_app = typer.Typer(help="What could not be run: look at it, run it again, or drop it.")
app.add_typer(dead_letters_app, name="dead-letters")
hooks_app = typer.Typer(help="Let Claude sessions of your own report like a worker's, and check hook rules.")
app.add_typer(hooks_app, name="hooks")


@app.command()
def up(
    team: TeamFile = None,
    shared_dir: SharedDir = None,
    agent: Agent = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="'WORKER: PROMPT'", help="Give one task once all are ready.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when that task has its result.")] = False,
    no_orchestrator: Annotated[bool, typer.Option("--no-orchestrator", help="Start the workers alone.")] = False,
) -> int:
    """Start the orchestrator and all workers of a team, and keep them running until Ctrl-C."""
    from orchestrator_service.cli import up as command

    return command.up(team, shared_dir=shared_dir, agent=agent, task=task, once=once, orchestrator=not no_orchestrator)


@app.command()
def worker(name: str, team: TeamFile = None, shared_dir: SharedDir = None, agent: Agent = None) -> int:
    """Run one worker of a team here, in the foreground."""
    from orchestrator_service.cli import team_files

    return team_files.run_worker(name, team, shared_dir=shared_dir, agent=agent)


@app.command()
def submit(
    worker: Annotated[
        str | None,
        typer.Argument(help="Whose task it is; left out with --role or --skill.", autocompletion=complete_worker_name),
    ] = None,
    prompt: Annotated[str | None, typer.Argument(help='The prompt; "-" reads it from standard input.')] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from a file.")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal, high, urgent or a whole number.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds the agent may take.")] = None,
    session: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tasks of the same name share one conversation.")
    ] = None,
    worktree: Annotated[
        bool | None,
        typer.Option("--worktree/--no-worktree", help="A git worktree of its own; default: as WORKTREES says."),
    ] = None,
    task_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Default: one made up.")] = None,
    title: Annotated[str | None, typer.Option(metavar="WORDS", help="What it is called in lists.")] = None,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help="Any worker of this role.")] = None,
    skill: Annotated[list[str] | None, typer.Option(metavar="SKILL", help="Any worker that has all of these.")] = None,
    depends_on: Annotated[
        list[str] | None, typer.Option("--depends-on", metavar="ID", help="A task that must complete first; repeat it.")
    ] = None,
    max_budget: Annotated[float | None, typer.Option("--max-budget", metavar="USD", help="What it may cost.")] = None,
    retries: Annotated[int | None, typer.Option(metavar="N", help="Further tries if it fails.")] = None,
    not_before: Annotated[
        str | None, typer.Option("--not-before", metavar="WHEN", help="A moment, or +2h from now.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(metavar="WHEN", help="When it ends as timed out.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the result and print it.")] = False,
    wait_timeout: GiveUpAfter = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
    via: Via = None,
) -> int:
    """Give a worker a task.

    With --wait the exit code is 0 for completed, 1 failed, 3 timed out, 4 cancelled, 5 when waiting gave up.
    """
    from orchestrator_service.cli import submit as command

    order = command.Order(
        worker=worker,
        prompt=prompt,
        file=file,
        priority=priority,
        timeout_s=timeout,
        session=session,
        worktree=worktree,
        task_id=task_id,
        title=title,
        role=role,
        skills=tuple(skill or ()),
        depends_on=tuple(depends_on or ()),
        max_budget_usd=max_budget,
        retries=retries,
        not_before=not_before,
        deadline=deadline,
    )
    return command.submit(
        order,
        where=Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file, via=via),
        wait=wait or wait_timeout is not None,
        give_up_after_s=wait_timeout,
        as_json=json,
    )


@app.command()
def result(
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for it.")] = False,
    wait_timeout: GiveUpAfter = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Print the result of a task; the exit codes are those of `submit --wait`."""
    from orchestrator_service.cli import results

    return results.result(
        task_id,
        where=Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file),
        wait=wait or wait_timeout is not None,
        give_up_after_s=wait_timeout,
        as_json=json,
    )


@app.command()
def cancel(
    task_id: TaskId,
    worker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose task it is; default: searched.", autocompletion=complete_worker_name),
    ] = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Cancel a task, waiting or running."""
    from orchestrator_service.cli import results

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return results.cancel(task_id, worker=worker, where=where, as_json=json)


@app.command()
def status(
    json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date until Ctrl-C.")] = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """Show the workers: whether they live, what they run, how much waits."""
    from orchestrator_service.cli import status as command

    return command.status(shared_dir=shared_dir, redis=redis, as_json=json, watch=watch)


@app.command()
def logs(
    worker: Annotated[
        str | None, typer.Argument(help="Whose log, or `orchestrator`.", autocompletion=complete_worker_name)
    ] = None,
    task: MaybeTaskId = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    json: AsJsonLines = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show a worker's log, or what the agent of one task does."""
    from orchestrator_service.cli import logs as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return command.logs(worker, task_id=task, follow=follow, lines=lines, as_json=json, where=where)


@app.command()
def control(
    worker: WorkerName,
    command: Annotated[str, typer.Argument(help="status, pause, resume, reload, drain, shutdown, cancel or wake.")],
    task_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="For cancel: the task.")] = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """Tell a running worker, or `all` of them, what to do, and print what each answers."""
    from orchestrator_service.cli import control as module

    return module.control(worker, command, task_id, shared_dir=shared_dir, redis=redis, as_json=json)


@app.command()
def watch(
    worker: Annotated[
        str | None, typer.Argument(help="This worker alone.", autocompletion=complete_worker_name)
    ] = None,
    json: AsJsonLines = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
    via: Via = None,
) -> int:
    """Show what the workers do, live, until Ctrl-C."""
    from orchestrator_service.cli import watch as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file, via=via)
    return command.watch(worker, where=where, as_json=json)


api_commands.register(app)
question_commands.register(app)
backup_commands.register(app)
field_commands.register(app)
worktree_commands.register(app)


@dead_letters_app.callback(invoke_without_command=True)
def dead_letters(context: typer.Context) -> int | None:
    """What could not be run: look at it, run it again, or drop it. Without a command: list."""
    if context.invoked_subcommand is not None:
        return None
    return dead_letters_list()


@dead_letters_app.command("list")
def dead_letters_list(
    worker: OneWorker = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """List all dead letters, oldest first."""
    from orchestrator_service.cli import dead_letters as command

    return command.list_letters(worker=worker, as_json=json, shared_dir=shared_dir, redis=redis)


@dead_letters_app.command("show")
def dead_letters_show(
    name: str,
    worker: OneWorker = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """Show one, by its file name or task id: the reason, and the first 4 KiB of what is in it."""
    from orchestrator_service.cli import dead_letters as command

    return command.show(name, worker=worker, as_json=json, shared_dir=shared_dir, redis=redis)


@dead_letters_app.command("replay")
def dead_letters_replay(
    names: list[str],
    worker: OneWorker = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """Put them back among the triggers or into the stream, to be run anew."""
    from orchestrator_service.cli import dead_letters as command

    return command.replay(names, worker=worker, as_json=json, shared_dir=shared_dir, redis=redis)


@dead_letters_app.command("drop")
def dead_letters_drop(
    names: list[str],
    worker: OneWorker = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
) -> int:
    """Delete them for good."""
    from orchestrator_service.cli import dead_letters as command

    return command.drop(names, worker=worker, as_json=json, shared_dir=shared_dir, redis=redis)


SettingsFile = Annotated[
    Path | None, typer.Option("--settings", metavar="FILE", help="Default: ~/.claude/settings.json.")
]


@hooks_app.command("install")
def hooks_install(
    settings: SettingsFile = None,
    worker: Annotated[str, typer.Option("--worker", metavar="NAME", help="Report as this one.")] = "orchestrator",
    json: AsJson = False,
    shared_dir: SharedDir = None,
) -> int:
    """Write hooks that report to the shared directory into a Claude settings file; the rest of it stays."""
    from orchestrator_service.cli import hooks as command

    return command.install(settings, worker=worker, shared_dir=shared_dir, as_json=json)


@hooks_app.command("uninstall")
def hooks_uninstall(settings: SettingsFile = None, json: AsJson = False) -> int:
    """Take those hooks out again, and nothing else."""
    from orchestrator_service.cli import hooks as command

    return command.uninstall(settings, as_json=json)


@hooks_app.command("check")
def hooks_check(
    files: Annotated[list[Path] | None, typer.Argument()] = None, json: AsJson = False, shared_dir: SharedDir = None
) -> int:
    """Check files of hook rules (default: all of the shared directory); exit code 1 when something is wrong."""
    from orchestrator_service.cli import hooks as command

    return command.check(files or [], shared_dir=shared_dir, as_json=json)


@app.command()
def hook(
    worker: Annotated[str, typer.Option("--worker", metavar="NAME", help="Report as this one.")] = "orchestrator",
    shared_dir: SharedDir = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", metavar="FILE", help="Default: hooks-config/NAME-hooks.json there.")
    ] = None,
) -> int:
    """Report the hook event on stdin; this is what Claude Code runs. Prints nothing, always exits with 0."""
    from orchestrator_service.cli.hook import run_hook

    given = {"--worker": worker, "--shared-dir": shared_dir, "--rules": rules}
    return run_hook([str(word) for pair in given.items() if pair[1] is not None for word in pair])


@app.command()
def mcp(api: Api = None, token_file: TokenFile = None, shared_dir: SharedDir = None) -> int:
    """Offer the team's tools to a Claude Code of your own, as an MCP server on standard input and output."""
    from orchestrator_service.cli.mcp import run_mcp

    return run_mcp(Where(shared_dir=shared_dir, api=api, token_file=token_file))


@app.command()
def doctor(
    team: TeamFile = None,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
    json: AsJson = False,
) -> int:
    """Check all that the team needs here, each with its mend; exit code 1 when something is broken."""
    from orchestrator_service.cli import doctor as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return command.doctor(team, where=where, as_json=json)


@app.command()
def init(directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path(), json: AsJson = False) -> int:
    """Write the example team to a directory (default: this one), to be edited."""
    from orchestrator_service.cli import team_files

    return team_files.init(directory, as_json=json)


@app.command()
def version(json: AsJson = False) -> int:
    """Print the version."""
    from agent_bus import VERSION

    typer.echo(f'{{"version": "{VERSION}"}}' if json else f"codehornets {VERSION}")
    return 0
