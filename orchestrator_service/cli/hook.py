"""`codehornets hook`: report the hook event on stdin. Started by Claude Code for each event, so it is quick and quiet.

It prints nothing, since Claude Code reads what a hook prints, and always ends with 0: a report that fails is no reason
to stop a person's session. What went wrong is in the worker's log.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

USUAL_WORKER: Final = "orchestrator"

_LONGEST_INPUT: Final = 8 << 20
_PATIENCE_S: Final = 5


class _OutOfTime(BaseException):
    """Raised by the alarm."""


def _give_up(number: int, frame: FrameType | None) -> None:
    raise _OutOfTime


def run_hook(arguments: list[str]) -> int:
    """Report one event; `arguments` are `--worker`, `--shared-dir` and `--rules`, all optional. Always returns 0."""
    if os.environ.get("CODEHORNETS_WORKER"):
        # A session of a worker's pool, or one that it started: the worker's own bridge tells of it.
        return 0
    words = [part for word in arguments for part in word.split("=", 1)]
    options = dict(zip(words[::2], words[1::2], strict=False))
    worker = options.get("--worker") or USUAL_WORKER
    shared = Path(options.get("--shared-dir") or os.environ.get("SHARED_DIR") or "shared").absolute()
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_PATIENCE_S)
    try:
        _report(worker, shared, options.get("--rules"))
    except _OutOfTime:
        pass
    except Exception as error:
        _complain(shared, worker, [f"{type(error).__name__}: {error}"])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return 0


def _report(worker: str, shared: Path, rules: str | None) -> None:
    from agent_bus.hooks.events import HookPayloadError, read_hook
    from agent_bus.hooks.report import ReportPlaces, report_hook
    from agent_bus.layout import is_worker_name

    body = sys.stdin.buffer.read(_LONGEST_INPUT + 1)
    if not is_worker_name(worker) or not shared.is_dir():
        # Nowhere to report to, and no place for a log either.
        return
    if len(body) > _LONGEST_INPUT:
        _complain(shared, worker, [f"the input is larger than {_LONGEST_INPUT >> 20} MiB"])
        return
    try:
        event = read_hook(json.loads(body), worker=worker)
    except (ValueError, RecursionError) as error:
        _complain(shared, worker, [f"the input is not JSON: {error}"])
        return
    except HookPayloadError as error:
        _complain(shared, worker, [str(error)])
        return
    environ = {**os.environ, "HOOKS_CONFIG": rules} if rules else os.environ
    if troubles := report_hook(event, ReportPlaces.under(shared, worker, environ)):
        _complain(shared, worker, troubles)


def _complain(shared: Path, worker: str, troubles: list[str]) -> None:
    from agent_bus.layout import is_worker_name
    from agent_bus.logs import JsonLines, SharedRotatingFile

    if not is_worker_name(worker) or not shared.is_dir():
        return
    folder = Path(os.environ.get("LOG_DIR") or shared / "watcher-logs")
    file = SharedRotatingFile(folder / f"{worker}-watcher.log")
    file.setFormatter(JsonLines(worker=worker))
    for trouble in troubles:
        record = logging.makeLogRecord(
            {
                "msg": "a hook could not be reported: %s",
                "args": (trouble,),
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "action": "hook_failed",
            }
        )
        file.emit(record)
    file.close()
