"""What a shell offers for a half-written word: quickly, and in silence whatever may be wrong."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from orchestrator_service.cli.api_place import quietly
from orchestrator_service.cli.places import known_workers, place_of_shared_dir
from orchestrator_service.cli.where import Where

_MOST: Final = 100
_WITHIN_S: Final = 1.0
"""Longer nobody waits for a completion."""


def complete_worker(incomplete: str) -> list[str]:
    """Return the workers whose names begin so."""
    names: set[str] = set()
    with suppress(Exception):
        names.update(known_workers(place_of_shared_dir(None)))
    place = quietly(Where())
    # The files of this machine tell the names sooner than a question does.
    if place is not None and not (names and place.discovered):
        from dataclasses import replace

        from orchestrator_service.client.calls import ApiError, ask, workers

        with suppress(ApiError):
            names.update(worker.name for worker in ask(place, replace(workers(), timeout_s=_WITHIN_S)))
    return sorted(name for name in names if name.startswith(incomplete))


def complete_task(incomplete: str) -> list[str]:
    """Return the newest tasks whose ids begin so."""
    ids: list[str] = []
    if (place := quietly(Where())) is not None:
        from dataclasses import replace

        from orchestrator_service.client.calls import ApiError, ask, tasks

        with suppress(ApiError):
            page = ask(place, replace(tasks([("limit", str(_MOST))]), timeout_s=_WITHIN_S))
            ids = [task.task_id for task in page.tasks]
    if not ids:
        with suppress(Exception):
            from orchestrator_service.cli.file_tasks import seen_tasks

            ids = [seen.task_id for seen in seen_tasks(place_of_shared_dir(None), limit=_MOST)]
    return [task_id for task_id in ids if task_id.startswith(incomplete)]
