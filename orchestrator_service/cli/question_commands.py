"""The commands by which people answer what agents ask, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator_service.cli.options import Api, AsJson, OneWorker, Redis, SharedDir, TokenFile
from orchestrator_service.cli.where import Where


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (questions, approve, deny):
        app.command()(command)


QuestionId = Annotated[str, typer.Argument(metavar="ID", help="As `questions` shows it, or its beginning.")]


def questions(
    question_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="All of this one.")] = None,
    state: Annotated[str, typer.Option(metavar="STATE", help="open, answered or all.")] = "open",
    worker: OneWorker = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 50,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Show what agents ask of people: permissions that their rules leave open."""
    from orchestrator_service.cli import questions as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    if question_id is not None:
        return command.show(question_id, where=where, as_json=json)
    return command.show_all(state=state, worker=worker, limit=limit, where=where, as_json=json)


def approve(
    question_id: QuestionId,
    reason: Annotated[str | None, typer.Option(metavar="WORDS", help="To a question with words: the answer.")] = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Allow what an agent asks for, this once."""
    from orchestrator_service.cli import questions as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return command.answer(question_id, allow=True, reason=reason, where=where, as_json=json)


def deny(
    question_id: QuestionId,
    reason: Annotated[str | None, typer.Option(metavar="WORDS", help="What the agent hears.")] = None,
    json: AsJson = False,
    shared_dir: SharedDir = None,
    redis: Redis = None,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Deny what an agent asks for; it hears the reason and goes on without."""
    from orchestrator_service.cli import questions as command

    where = Where(shared_dir=shared_dir, redis=redis, api=api, token_file=token_file)
    return command.answer(question_id, allow=False, reason=reason, where=where, as_json=json)
