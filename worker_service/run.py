"""One worker from its environment: settings, log, and the sentences for what is wrong with them."""

from __future__ import annotations

import os
import sys

import anyio

from agent_bus.errors import QueueUnavailable
from agent_bus.hooks.rules import RuleError
from agent_bus.pipes import PipeUnavailable
from service_kit.entry import WRONG_SETTING, open_log, run_or_refuse, spare_the_collector
from service_kit.environment import SettingsError
from service_kit.http_server import AddressUnavailable
from worker_service.agents.choice import AgentUnavailable
from worker_service.lifetime import run_worker
from worker_service.settings import read_settings

_USAGE = "usage: python -m worker_service [NAME]    (all settings come from the environment, see docs/settings.md)"
_REFUSALS = (SettingsError, AddressUnavailable, AgentUnavailable, QueueUnavailable, PipeUnavailable, RuleError)


def main() -> int:
    """Run the worker; returns the exit code: 0 after a clean stop, 2 for a wrong setting."""
    arguments = sys.argv[1:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        asked = arguments in (["-h"], ["--help"])
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else WRONG_SETTING
    return run_or_refuse("worker_service", _REFUSALS, lambda: _run(arguments[0] if arguments else None))


def _run(name: str | None) -> None:
    settings = read_settings(os.environ, name)
    open_log(
        settings.layout.log(settings.worker),
        settings.log_level,
        settings.worker,
        worker=settings.worker,
        instance=settings.instance,
    )
    spare_the_collector()
    anyio.run(run_worker, settings)
