"""The `codehornets` command. Each command imports what it needs when it is run, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Final

from orchestrator_service.cli.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USER_ERROR

_STDOUT: Final = 1


def main() -> None:
    """Run the command line and exit with its code; a person's mistake is one sentence and exit code 2."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    import typer

    from agent_bus.errors import BusError
    from orchestrator_service.cli.commands import app
    from orchestrator_service.cli.errors import UserError
    from orchestrator_service.team import TeamError

    try:
        code = app(arguments, standalone_mode=False, prog_name="codehornets")
    except typer.TyperException as error:
        return _refuse(f"{_sentence(error)} (`codehornets --help` shows all commands.)")
    except (UserError, TeamError, BusError) as error:
        return _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # Nothing here calls sys.exit but typer and rich, and they for a broken pipe: their exit code 1 would say
        # that a task failed.
        return _reader_gone()
    return code if isinstance(code, int) else 0


def _sentence(error: Exception) -> str:
    said = getattr(error, "format_message", lambda: str(error))()
    return " ".join(str(said).split())


def _refuse(sentence: str) -> int:
    print(f"codehornets: {sentence}", file=sys.stderr)
    return EXIT_USER_ERROR


def _reader_gone() -> int:
    """Let what is still buffered go nowhere: whoever read us (`head`, say) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return EXIT_BROKEN_PIPE
