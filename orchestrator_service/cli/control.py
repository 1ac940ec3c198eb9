"""`codehornets control`: tell a running worker what to do, over whichever channel there is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from agent_bus.commands import BadCommand, Command, CommandName
from agent_bus.messages import is_task_id
from orchestrator_service.cli.errors import EXIT_GAVE_UP, UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir, find_worker
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.control_pipes import tell_by_pipe

_WAIT_S: Final = 5.0
_DONE: Final = {
    CommandName.PAUSE: "takes no new tasks until it is told to resume",
    CommandName.RESUME: "takes tasks again",
    CommandName.DRAIN: "takes no new tasks and ends when the running ones have ended",
    CommandName.SHUTDOWN: "ends; running tasks have their grace period",
    CommandName.WAKE: "looks at its queues",
    CommandName.RELOAD: "has read its hook rules anew",
}


def control(worker: str, word: str, task_id: str | None, *, shared_dir: Path | None, as_json: bool) -> int:
    """Send one command and print the answer; the exit code is 0 when the worker did it, 1 when it said no."""
    command = _command(word, task_id)
    shared = find_shared_dir(shared_dir)
    data = tell_by_pipe(find_worker(shared, worker), worker, command, within_s=_WAIT_S)
    return _print_answer(worker, command, data, as_json=as_json)


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


def _print_answer(worker: str, command: Command, data: dict[str, Any] | None, *, as_json: bool) -> int:
    if as_json:
        print_json({"worker": worker, "command": command.name.value, "answer": data})
    if data is None:
        if not as_json:
            print(
                f"{worker} was told to {command.name.value}, and no answer came within {_WAIT_S:g} s; somebody else "
                "may read its status pipe."
            )
        return EXIT_GAVE_UP
    if as_json:
        pass
    elif not data.get("ok"):
        print(f"{worker} says no: {harmless(str(data.get('message')))}")
    elif command.name is CommandName.STATUS:
        print_json(data.get("status"))
    elif command.name is CommandName.CANCEL:
        print(f"{worker} cancels task {command.task_id}, which was {data.get('found')}.")
    else:
        print(f"{worker} {_DONE[command.name]}.")
    return 0 if data.get("ok") else 1
