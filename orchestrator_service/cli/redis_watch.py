"""`codehornets watch` by Redis: the events of all hosts, through losses of Redis."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pydantic import ValidationError

from agent_bus.errors import QueueUnavailable
from agent_bus.messages import Event, Heartbeat
from orchestrator_service.cli.channels import Channels
from orchestrator_service.cli.patience import Patience
from orchestrator_service.cli.redis_tasks import check_name

_LOOK_S = 3600.0
"""How long one wait lasts at most; it ends with an event, or when Redis gives no sign of life."""


def watch_redis(channels: Channels, worker: str | None, *, show: Callable[[Event], None]) -> None:
    """Show the events of one worker or of all until Ctrl-C.

    Raises:
        UserError: Redis cannot be used from the beginning; later on it is waited for.
    """
    if worker is not None:
        check_name(worker)
    patience = Patience()
    with channels.redis() as client:
        beats = client.heartbeats(worker)
        began = False
        while True:
            try:
                with client.listen(worker) as subscription:
                    patience.answered()
                    if not began:
                        began = True
                        whom = worker if worker is not None else "all workers"
                        print(f"Watching {whom} in {channels.redis_words} (Ctrl-C ends it).", file=sys.stderr)
                        _tell_of_silent(beats, worker)
                        sys.stderr.flush()
                    while True:
                        if (heard := subscription.next(_LOOK_S)) is not None:
                            _show(heard[1], show)
            except QueueUnavailable as error:
                if not began:
                    raise
                time.sleep(patience.lost(error))


def _tell_of_silent(beats: list[Heartbeat], worker: str | None) -> None:
    if worker is not None and not beats:
        print(f"codehornets: No worker {worker!r} lives there now.", file=sys.stderr)
    silent = sorted({beat.worker for beat in beats if beat.mode == "polling"})
    if silent:
        print(
            f"codehornets: {', '.join(silent)} will not be heard: a worker in the mode polling says nothing by Redis; "
            "--via file shows its files.",
            file=sys.stderr,
        )


def _show(line: bytes, show: Callable[[Event], None]) -> None:
    try:
        event = Event.model_validate_json(line)
    except ValidationError:
        return
    show(event)
