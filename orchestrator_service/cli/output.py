"""How results are printed."""

from __future__ import annotations

import json
import sys
from typing import Any

from agent_bus.dead_letters import DeadLetter
from agent_bus.messages import Result
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.waiting import Ending


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_ending(ending: Ending, task_id: str, *, as_json: bool) -> int:
    """Print how a task ended and return the exit code; the answer goes to stdout, what went wrong to stderr."""
    if ending.result is not None:
        _print_result(ending.result, as_json=as_json)
    elif ending.letter is not None:
        _print_letter(ending.letter, task_id, as_json=as_json)
    elif as_json:
        print_json({"task_id": task_id, "status": None})
    else:
        print(
            f"codehornets: Task {task_id} has no result yet; `codehornets result {task_id} --wait` waits on.",
            file=sys.stderr,
        )
    return ending.exit_code


def _print_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    # A pipe gets the answer as it is, a terminal what is harmless.
    output = harmless(result.output) if sys.stdout.isatty() else result.output
    if output:
        print(output)
    if result.structured_output is not None:
        print_json(result.structured_output)
    if result.status.value != "completed":
        reason = "" if result.error is None else f": {result.error.message}"
        sys.stdout.flush()
        status = result.status.value.replace("_", " ")
        print(f"codehornets: Task {result.task_id} {status}{harmless(reason)}", file=sys.stderr)


def _print_letter(letter: DeadLetter, task_id: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"task_id": task_id, "status": "set_aside", "dead_letter": letter.model_dump(mode="json")})
        return
    print(
        f"codehornets: Task {task_id} was set aside: {harmless(letter.message)}; see `codehornets dead-letters show "
        f"{letter.name}`.",
        file=sys.stderr,
    )
