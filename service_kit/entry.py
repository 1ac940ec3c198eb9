"""How a service's process begins: what its collector looks at, and how a wrong setting is told."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent_bus.logs import JsonLines, SharedRotatingFile, TerminalLines

WRONG_SETTING: Final = 2
"""Exit code for a start that was refused."""


def run_or_refuse(program: str, refusals: tuple[type[Exception], ...], run: Callable[[], None]) -> int:
    """Run a service and return its exit code: 0 after a clean stop, 2 where it was refused, with one sentence.

    Args:
        program: What the sentence begins with.
        refusals: The errors that are a person's to mend; any other one is raised.
        run: The service.
    """
    try:
        run()
    except refusals as error:
        return _refuse(program, error)
    except BaseExceptionGroup as group:
        wrong, rest = group.split(refusals)
        if wrong is None or rest is not None:
            raise
        return _refuse(program, next(iter(_leaves(wrong))))
    return 0


def _refuse(program: str, error: BaseException) -> int:
    print(f"{program}: {error}", file=sys.stderr)
    return WRONG_SETTING


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def spare_the_collector() -> None:
    """Keep the cyclic collector from looking at what never changes, and from looking too often at the rest."""
    # What is imported by now lives as long as the process.
    gc.freeze()
    gc.enable()
    # Tasks come and go as small objects without cycles; fewer collections find just as much.
    gc.set_threshold(20_000, 20, 50)


def open_log(path: Path, level: str, name: str, **constant: str) -> None:
    """Write the log to its file, with the `constant` fields on each line, and to the terminal under `name`."""
    root = logging.getLogger()
    root.setLevel(level)
    to_file = SharedRotatingFile(path)
    to_file.setFormatter(JsonLines(**constant))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setFormatter(TerminalLines(name))
    to_terminal.setLevel(max(logging.INFO, root.level))
    root.handlers = [to_file, to_terminal]
    for chatty in ("httpx", "uvicorn.error", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
