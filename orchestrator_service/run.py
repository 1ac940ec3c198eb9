"""The orchestrator from its environment: settings, log, and the sentences for what is wrong with them."""

from __future__ import annotations

import os
import sys
from typing import Final

import anyio

from orchestrator_service.ledger.database import LedgerInUse
from orchestrator_service.lifetime import run_orchestrator
from orchestrator_service.settings import read_settings
from service_kit.entry import WRONG_SETTING, open_log, run_or_refuse, spare_the_collector
from service_kit.environment import SettingsError
from service_kit.http_server import AddressUnavailable

_USAGE: Final = (
    "usage: python -m orchestrator_service    (all settings come from the environment, see docs/orchestrator.md)"
)
_SWITCH_INTERVAL_S: Final = 0.001


def main() -> int:
    """Run the orchestrator; returns the exit code: 0 after a clean stop, 2 for a wrong setting."""
    arguments = sys.argv[1:]
    if arguments:
        asked = arguments in (["-h"], ["--help"])
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else WRONG_SETTING
    return run_or_refuse("orchestrator_service", (SettingsError, AddressUnavailable, LedgerInUse), _run)


def _run() -> None:
    settings = read_settings(os.environ)
    open_log(settings.logs, settings.log_level, "orchestrator", component="orchestrator")
    # The writing thread and the loop take turns: with Python's usual 5 ms each would wait for the other's turn.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    spare_the_collector()
    # A fifth more requests a second than asyncio's own loop, measured with eight clients and two workers beside it.
    anyio.run(run_orchestrator, settings, backend_options={"use_uvloop": True})
