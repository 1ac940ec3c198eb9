"""The commands that the orchestrator is there for, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator_service.cli.options import (
    Api,
    AsJson,
    GiveUpAfter,
    OneWorker,
    Redis,
    SharedDir,
    TaskId,
    TokenFile,
    WorkerName,
)
from orchestrator_service.cli.where import Where

goals_app = typer.Typer(help="The goals that were given, newest first; look at one, or cancel it.")
schedules_app = typer.Typer(help="Tasks that recur.")
gates_app = typer.Typer(help="The limits that hold workers back now.")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (goal, graph, tasks, task, retry, pause, resume, top, budget, usage):
        app.command()(command)
    app.add_typer(goals_app, name="goals")
    app.add_typer(gates_app, name="gates")
    app.add_typer(schedules_app, name="schedules")


def goal(
    words: Annotated[str, typer.Argument(metavar="GOAL", help='What is to be reached; "-" reads standard input.')],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", "-w/-W", help="Follow it to its end.")] = True,
    wait_timeout: GiveUpAfter = None,
    max_tasks: Annotated[int | None, typer.Option("--max-tasks", metavar="N", help="Tasks at most.")] = None,
    max_budget: Annotated[
        float | None, typer.Option("--max-budget", "--budget", metavar="USD", help="What it may cost, all in all.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds it may take.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Of the agent that works on it.")] = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Give the team a goal: an agent splits it into tasks, waits for them, and sums up.

    The exit code is 0 for completed, 1 failed, 3 timed out, 4 cancelled, 5 when waiting gave up.
    """
    from orchestrator_service.cli import goals as command

    typed = command.Goal(words=words, max_tasks=max_tasks, max_budget_usd=max_budget, timeout_s=timeout, model=model)
    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.goal(typed, where=where, wait=wait, give_up_after_s=wait_timeout, as_json=json)


def graph(
    file: Annotated[Path, typer.Argument(help='YAML or JSON; "-" reads standard input.')],
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until all tasks have ended.")] = False,
    wait_timeout: GiveUpAfter = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Hand in a file of tasks that need each other.

    With --wait the exit code is 0 when all completed, 1 when one did not, 5 when waiting gave up.
    """
    from orchestrator_service.cli import graph as command

    return command.graph(
        file,
        where=Where(shared_dir=shared_dir, api=api, token_file=token_file),
        wait=wait or wait_timeout is not None,
        give_up_after_s=wait_timeout,
        as_json=json,
    )


def tasks(
    state: Annotated[list[str] | None, typer.Option(metavar="STATE", help="Only these; repeat it.")] = None,
    worker: OneWorker = None,
    goal: Annotated[str | None, typer.Option(metavar="ID", help="Those of this goal.")] = None,
    graph: Annotated[str | None, typer.Option(metavar="ID", help="Those of this graph.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 50,
    all_pages: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """List tasks, newest first; without the orchestrator those that the files show."""
    from orchestrator_service.cli import task_list

    wanted = task_list.Wanted(
        states=tuple(state or ()), worker=worker, goal=goal, graph=graph, limit=limit, all_pages=all_pages
    )
    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return task_list.tasks(wanted, where=where, as_json=json)


def task(
    task_id: TaskId,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show all that is known of one task: what it waits for, its tries, what they cost."""
    from orchestrator_service.cli import task_list

    return task_list.task(task_id, where=Where(shared_dir=shared_dir, api=api, token_file=token_file), as_json=json)


def retry(
    task_id: TaskId,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Try a task again that failed, ran out of time or was cancelled."""
    from orchestrator_service.cli import task_list

    return task_list.retry(task_id, where=Where(shared_dir=shared_dir, api=api, token_file=token_file), as_json=json)


def pause(
    worker: WorkerName,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Give a worker no new tasks until `resume`."""
    from orchestrator_service.cli import holding

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return holding.hold(worker, paused=True, where=where, as_json=json)


def resume(
    worker: WorkerName,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Give a worker tasks again."""
    from orchestrator_service.cli import holding

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return holding.hold(worker, paused=False, where=where, as_json=json)


def top(
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show the whole team at work, live, until q or Ctrl-C; in a pipe once."""
    from orchestrator_service.cli import top as command

    return command.top(where=Where(shared_dir=shared_dir, api=api, token_file=token_file), as_json=json)


def budget(
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show what may be spent today, and what is."""
    from orchestrator_service.cli import holding

    return holding.budget(where=Where(shared_dir=shared_dir, api=api, token_file=token_file), as_json=json)


def usage(
    by: Annotated[str, typer.Option(metavar="WHAT", help="day, worker, goal, task or model.")] = "day",
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="From the day of this moment on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Up to this moment.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Rows at most.")] = 30,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show cost and tokens, and what is left of the budgets."""
    from orchestrator_service.cli import usage as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.usage(by=by, since=since, until=until, limit=limit, where=where, as_json=json)


@gates_app.callback(invoke_without_command=True)
def gates(
    context: typer.Context,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int | None:
    """The limits that hold workers back now: why, until when, and how many tasks wait."""
    if context.invoked_subcommand is not None:
        return None
    from orchestrator_service.cli import gates as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return command.list_gates(where=where, as_json=json)


@gates_app.command("open")
def gates_open(
    gate_id: Annotated[str, typer.Argument(metavar="ID")],
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """End a wait now; parked tasks go on. If the limit still holds, the gate closes again."""
    from orchestrator_service.cli import gates as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return command.open_one(gate_id, where=where, as_json=json)


GoalId = Annotated[str, typer.Argument(metavar="ID")]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME")]


@goals_app.callback(invoke_without_command=True)
def goals(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int | None:
    """The goals that were given, newest first; look at one, or cancel it."""
    if context.invoked_subcommand is not None:
        return None
    from orchestrator_service.cli import goals as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.list_goals(where=where, limit=limit, as_json=json)


@goals_app.command("show")
def goals_show(
    goal_id: GoalId,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show all that is known of one goal, with its synthesis."""
    from orchestrator_service.cli import goals as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.show_goal(goal_id, where=where, as_json=json)


@goals_app.command("cancel")
def goals_cancel(
    goal_id: GoalId,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """End a goal and its open tasks."""
    from orchestrator_service.cli import goals as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.cancel_goal(goal_id, where=where, as_json=json)


@schedules_app.callback(invoke_without_command=True)
def schedules(context: typer.Context) -> int | None:
    """Tasks that recur. Without a command: list."""
    return schedules_list() if context.invoked_subcommand is None else None


@schedules_app.command("list")
def schedules_list(
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """List them."""
    from orchestrator_service.cli import schedules as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.list_schedules(where=where, as_json=json)


@schedules_app.command("add")
def schedules_add(
    name: ScheduleName,
    cron: Annotated[str, typer.Argument(help='Five fields as cron has them, such as "0 8 * * 1-5".')],
    prompt: Annotated[str, typer.Argument(help="What is to be done each time.")],
    worker: OneWorker = None,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help="Any worker of this role.")] = None,
    skill: Annotated[list[str] | None, typer.Option(metavar="SKILL", help="Any worker that has all of these.")] = None,
    timezone: Annotated[str | None, typer.Option(metavar="ZONE", help="Such as Europe/Berlin; default UTC.")] = None,
    overlap: Annotated[
        str | None, typer.Option(metavar="WORD", help="While the one before has not ended: skip or queue.")
    ] = None,
    missed: Annotated[
        str | None, typer.Option(metavar="WORD", help="What the orchestrator was away for: once or skip.")
    ] = None,
    max_budget: Annotated[float | None, typer.Option("--max-budget", metavar="USD", help="Of each time.")] = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Make a task recur."""
    from orchestrator_service.cli import schedules as command

    typed = command.Recurring(
        name=name,
        cron=cron,
        prompt=prompt,
        timezone=timezone,
        worker=worker,
        role=role,
        skills=tuple(skill or ()),
        overlap=overlap,
        missed=missed,
        max_budget_usd=max_budget,
    )
    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.add(typed, where=where, as_json=json)


@schedules_app.command("pause")
def schedules_pause(
    name: ScheduleName,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Hold one until it is resumed."""
    from orchestrator_service.cli import schedules as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.set_paused(name, paused=True, where=where, as_json=json)


@schedules_app.command("resume")
def schedules_resume(
    name: ScheduleName,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Let one go on."""
    from orchestrator_service.cli import schedules as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.set_paused(name, paused=False, where=where, as_json=json)


@schedules_app.command("remove")
def schedules_remove(
    name: ScheduleName,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Forget one; the tasks that it brought stay."""
    from orchestrator_service.cli import schedules as command

    where = Where(shared_dir=shared_dir, api=api, token_file=token_file)
    return command.remove(name, where=where, as_json=json)
