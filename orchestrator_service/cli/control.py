"""`codehornets control`: tell running workers what to do, over whichever channel there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_bus.commands import BadCommand, Command, CommandName
from agent_bus.layout import WorkerLayout
from agent_bus.messages import is_task_id
from orchestrator_service.cli.channels import Channels, find_channels
from orchestrator_service.cli.errors import EXIT_GAVE_UP, UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_worker, known_workers
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.control_pipes import NobodyListens, tell_by_pipe

_WAIT_S: Final = 5.0
_ALL: Final = "all"
_DONE: Final = {
    CommandName.PAUSE: "takes no new tasks until it is told to resume",
    CommandName.RESUME: "takes tasks again",
    CommandName.DRAIN: "takes no new tasks and ends when the running ones have ended",
    CommandName.SHUTDOWN: "ends; running tasks have their grace period",
    CommandName.WAKE: "looks at its queues",
    CommandName.RELOAD: "has read its hook rules anew",
}


@dataclass(frozen=True)
class _Told:
    """Who was told, and what came back."""

    answers: list[tuple[str, dict[str, Any]]]
    heard: int | None
    """How many heard it; None where that is not known."""
    by: str
    """`pipe` or `redis`."""

    @property
    def silent(self) -> int:
        """How many should have answered and did not."""
        return max(0, (1 if self.heard is None else self.heard) - len(self.answers))


def control(
    worker: str, word: str, task_id: str | None, *, shared_dir: Path | None, redis: str | None, as_json: bool
) -> int:
    """Send one command and print the answers; 0 when it was done, 1 when a worker said no, 5 when one was silent."""
    command = _command(word, task_id)
    channels = find_channels(shared_dir, redis)
    if worker != _ALL:
        return _print_answers(worker, command, _tell_one(channels, worker, command, typed=redis is not None), as_json)
    if channels.has_redis:
        return _print_answers(worker, command, _tell_by_redis(channels, None, command), as_json)
    assert channels.shared is not None
    return _print_answers(worker, command, _tell_all_by_pipe(channels.shared, command), as_json)


def _command(word: str, task_id: str | None) -> Command:
    try:
        name = CommandName(word)
    except ValueError as error:
        raise BadCommand(f"{word[:80]!r} is no command; there are {', '.join(CommandName)}.") from error
    if (name is CommandName.CANCEL) != (task_id is not None):
        raise UserError("cancel needs the id of a task." if task_id is None else f"{word} takes no task id.")
    if task_id is not None and not is_task_id(task_id):
        raise UserError(f"{task_id[:80]!r} is no task id.")
    return Command(name=name, task_id=task_id, id=os.urandom(8).hex())


def _tell_one(channels: Channels, worker: str, command: Command, *, typed: bool) -> _Told:
    """Use the pipe if somebody listens there, else Redis; a Redis that was `typed` is meant for itself."""
    if channels.shared is not None and not (typed and channels.has_redis):
        try:
            data = tell_by_pipe(find_worker(channels.shared, worker), worker, command, within_s=_WAIT_S)
            return _Told([] if data is None else [(worker, data)], 1, "pipe")
        except (UserError, NobodyListens):
            if not channels.has_redis:
                raise
    return _tell_by_redis(channels, worker, command)


def _tell_all_by_pipe(shared: Path, command: Command) -> _Told:
    answers: list[tuple[str, dict[str, Any]]] = []
    heard = 0
    for name in known_workers(shared):
        try:
            data = tell_by_pipe(WorkerLayout.under(shared, name), name, command, within_s=_WAIT_S)
        except NobodyListens:
            continue
        heard += 1
        if data is not None:
            answers.append((name, data))
    if not heard:
        raise UserError(
            f"No worker listens on a pipe in {shared}; one does so while it runs in the mode hooks or hybrid."
        )
    return _Told(answers, heard, "pipe")


def _tell_by_redis(channels: Channels, worker: str | None, command: Command) -> _Told:
    from orchestrator_service.cli.redis_tasks import check_name
    from orchestrator_service.control_channels import tell_by_redis

    if worker is not None:
        check_name(worker)
    with channels.redis() as client:
        answers = tell_by_redis(client, worker, command, within_s=_WAIT_S)
    if answers.heard == 0:
        whom = "No worker" if worker is None else f"No worker {worker!r}"
        raise UserError(
            f"{whom} listens in {channels.redis_words}; one does so while it runs there in any mode but polling, and "
            "`codehornets status` shows who does."
        )
    return _Told(answers.found, answers.heard, "redis")


def _print_answers(worker: str, command: Command, told: _Told, as_json: bool) -> int:
    if as_json:
        _print_json(worker, command, told)
    else:
        _print_lines(worker, command, told)
    good = [bool(data.get("ok")) for _, data in told.answers]
    # A task is held by one of the replicas; the others rightly say that they have none of that id.
    if any(good) and command.name is CommandName.CANCEL:
        return 0
    if not all(good):
        return 1
    return EXIT_GAVE_UP if told.silent else 0


def _print_json(worker: str, command: Command, told: _Told) -> None:
    answers = [{"worker": name, "answer": data} for name, data in told.answers]
    print_json(
        {
            "worker": worker,
            "command": command.name.value,
            "by": told.by,
            "heard": told.heard,
            "answer": told.answers[0][1] if told.answers else None,
            "answers": answers,
        }
    )


def _print_lines(worker: str, command: Command, told: _Told) -> None:
    answers = told.answers
    if command.name is CommandName.CANCEL and any(data.get("ok") for _, data in answers):
        answers = [(name, data) for name, data in answers if data.get("ok")]
    for name, data in answers:
        _print_answer(name, command, data)
    if not told.silent:
        if told.by == "redis" and told.heard is not None and told.heard > 1:
            print(f"{told.heard} workers heard it.")
        return
    if told.heard == 1 or (told.heard is None and not told.answers):
        who = "The workers were" if worker == _ALL else f"{worker} was"
        why = "; somebody else may read its status pipe" if told.by == "pipe" else ""
        print(f"{who} told to {command.name.value}, and no answer came within {_WAIT_S:g} s{why}.")
    elif told.heard is not None:
        print(f"{told.heard} workers heard it, and {told.silent} of them did not answer within {_WAIT_S:g} s.")


def _print_answer(worker: str, command: Command, data: dict[str, Any]) -> None:
    if not data.get("ok"):
        print(f"{worker} says no: {harmless(str(data.get('message')))}")
    elif command.name is CommandName.STATUS:
        print_json(data.get("status"))
    elif command.name is CommandName.CANCEL:
        print(f"{worker} cancels task {command.task_id}, which was {data.get('found')}.")
    else:
        print(f"{worker} {_DONE[command.name]}.")
