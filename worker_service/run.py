"""One worker from its environment: settings, log, and the sentences for what is wrong with them."""

from __future__ import annotations

import gc
import logging
import os
import sys

import anyio

from agent_bus.errors import QueueUnavailable
from agent_bus.hooks.rules import RuleError
from agent_bus.logs import JsonLines, SharedRotatingFile, TerminalLines
from agent_bus.pipes import PipeUnavailable
from service_kit.environment import SettingsError
from service_kit.http_server import AddressUnavailable
from worker_service.agents.choice import AgentUnavailable
from worker_service.lifetime import run_worker
from worker_service.settings import WorkerSettings, read_settings

_USAGE = "usage: python -m worker_service [NAME]    (all settings come from the environment, see docs/settings.md)"
_WRONG_SETTING = 2
_REFUSALS = (SettingsError, AddressUnavailable, AgentUnavailable, QueueUnavailable, PipeUnavailable, RuleError)


def main() -> int:
    """Run the worker; returns the exit code: 0 after a clean stop, 2 for a wrong setting."""
    arguments = sys.argv[1:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        asked = arguments in (["-h"], ["--help"])
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else _WRONG_SETTING
    try:
        settings = read_settings(os.environ, arguments[0] if arguments else None)
        open_log(settings)
        spare_the_collector()
        anyio.run(run_worker, settings)
    except _REFUSALS as error:
        return _refuse(error)
    except BaseExceptionGroup as group:
        wrong, rest = group.split(_REFUSALS)
        if wrong is None or rest is not None:
            raise
        return _refuse(next(iter(_leaves(wrong))))
    return 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _refuse(error: BaseException) -> int:
    print(f"worker_service: {error}", file=sys.stderr)
    return _WRONG_SETTING


def spare_the_collector() -> None:
    """Keep the cyclic collector from looking at what never changes, and from looking too often at the rest."""
    # What is imported by now lives as long as the worker.
    gc.freeze()
    gc.enable()
    # Tasks come and go as small objects without cycles; fewer collections find just as much.
    gc.set_threshold(20_000, 20, 50)


def open_log(settings: WorkerSettings) -> None:
    """Write the log to its file and to the terminal."""
    root = logging.getLogger()
    root.setLevel(settings.log_level)
    to_file = SharedRotatingFile(settings.layout.log(settings.worker))
    to_file.setFormatter(JsonLines(worker=settings.worker, instance=settings.instance))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setFormatter(TerminalLines(settings.worker))
    to_terminal.setLevel(max(logging.INFO, root.level))
    root.handlers = [to_file, to_terminal]
    for chatty in ("httpx", "uvicorn.error", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
