"""The `codehornets` command. Each command imports what it needs when it is run, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Final

from orchestrator_service.cli.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USER_ERROR
from orchestrator_service.cli.terminal import give_up_stdout, harmless

_COMPLETING: Final = "_CODEHORNETS_COMPLETE"
"""Set by a shell that asks what a half-written command line may become."""


def main() -> None:
    """Run the command line and exit with its code; a person's mistake is one sentence and exit code 2."""
    if sys.argv[1:2] == ["hook"] and not {"-h", "--help"}.intersection(sys.argv):
        # Claude Code starts it for each event: without the command line's own imports it takes half the time.
        from orchestrator_service.cli.hook import run_hook

        sys.exit(run_hook(sys.argv[2:]))
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _judge(error)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    from orchestrator_service.cli.commands import app

    try:
        code = app(arguments, standalone_mode=False, prog_name="codehornets")
    except SystemExit as end:
        if not end.code or _COMPLETING in os.environ:
            return int(end.code or 0)
        # Nothing here calls sys.exit but typer and rich, for completion, and for a broken pipe: their exit code 1
        # would say that a task failed.
        give_up_stdout()
        return EXIT_BROKEN_PIPE
    except BaseException as error:
        return _judge(error)
    return code if isinstance(code, int) else 0


def _judge(error: BaseException) -> int:
    """Return the exit code of an expected error, with a sentence where one helps; raise any other again."""
    import typer

    from agent_bus.errors import BusError
    from orchestrator_service.cli.errors import UserError
    from orchestrator_service.team import TeamError

    # Whatever raises it has loaded it.
    calls = sys.modules.get("orchestrator_service.client.calls")
    if calls is not None and isinstance(error, calls.ApiError):
        return _refuse(f"{error}.")
    match error:
        case BaseExceptionGroup() if len(error.exceptions) == 1:
            # What goes wrong inside a task group comes wrapped.
            return _judge(error.exceptions[0])
        case UserError() | TeamError() | BusError():
            return _refuse(str(error))
        case typer.TyperException():
            return _refuse(f"{_sentence(error)} (`codehornets --help` shows all commands.)")
        case KeyboardInterrupt() | typer.Abort():
            return EXIT_INTERRUPTED
        case BrokenPipeError():
            give_up_stdout()
            return EXIT_BROKEN_PIPE
        case OSError():
            give_up_stdout()
            place = f"{error.filename}: " if error.filename else ""
            return _refuse(f"{place}{error.strerror or error}.")
        case _:
            raise error


def _sentence(error: Exception) -> str:
    said = getattr(error, "format_message", lambda: str(error))()
    return " ".join(str(said).split())


def _refuse(sentence: str) -> int:
    print(f"codehornets: {harmless(sentence)}", file=sys.stderr)
    return EXIT_USER_ERROR
