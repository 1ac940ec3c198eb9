"""`codehornets watch`: what the workers do, live, a line an event."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from asyncinotify import Inotify, Mask
from pydantic import ValidationError

from agent_bus.layout import TASK_SUFFIX, WorkerLayout
from agent_bus.messages import Event, Result
from orchestrator_service.cli.api_place import find_api, or_without
from orchestrator_service.cli.channels import FILE, REDIS, check_via, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import find_worker, known_workers
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.waiting import in_words
from orchestrator_service.cli.where import Where

_JOURNAL_SUFFIX: Final = ".jsonl"
_NEW: Final = Mask.CREATE | Mask.MOVED_TO
_LARGEST_RESULT_BYTES: Final = 64 * 1024 * 1024


def watch(worker: str | None, *, where: Where, as_json: bool) -> int:
    """Print events as they come, until Ctrl-C: by the API where there is one, else by Redis, else from the files."""
    show = partial(print_event, as_json=as_json)
    if (place := find_api(where)) is not None:
        from orchestrator_service.cli.api_streams import watch_api

        if or_without(place, partial(watch_api, worker=worker, show=show)):
            return 0
    channels = find_channels(where.shared_dir, where.redis)
    if (check_via(where.via, channels) or (REDIS if channels.has_redis else FILE)) == REDIS:
        from orchestrator_service.cli.redis_watch import watch_redis

        watch_redis(channels, worker, show=show)
        return 0
    shared = channels.shared
    assert shared is not None
    if worker is not None:
        find_worker(shared, worker)
    names = [worker] if worker is not None else known_workers(shared)
    if not names:
        raise UserError(f"No worker has run on {shared} yet; start some with `codehornets up`.")
    anyio.run(_watch_files, shared, names, as_json)
    return 0


def print_event(event: Event, *, as_json: bool) -> None:
    """Print one event on one line."""
    if as_json:
        print(event.model_dump_json())
    else:
        clock = event.timestamp.astimezone().strftime("%H:%M:%S")
        print(harmless(f"{clock} {event.worker:<8} {event.task_id or '-':<12} {in_words(event)}"))
    sys.stdout.flush()


async def _watch_files(shared: Path, names: list[str], as_json: bool) -> None:
    try:
        inotify = Inotify()
    except OSError as error:
        raise UserError(f"Changes cannot be watched: {error.strerror}; raise fs.inotify.max_user_instances.") from error
    with inotify:
        followers: dict[Path, _Follower] = {}
        for name in names:
            layout = WorkerLayout.under(shared, name)
            follower = _Follower(layout, name, as_json=as_json)
            for directory, mask in ((layout.events, _NEW | Mask.MODIFY), (layout.results, _NEW)):
                directory.mkdir(parents=True, exist_ok=True)
                inotify.add_watch(directory, mask | Mask.ONLYDIR)
                followers[directory] = follower
        print(f"Watching {', '.join(names)} (Ctrl-C ends it).", file=sys.stderr, flush=True)
        async for change in inotify:
            if change.watch is None or change.name is None:
                continue
            followers[Path(os.fspath(change.watch.path))].look(Path(os.fspath(change.watch.path)), str(change.name))


class _Follower:
    """Reads what is new in the journals of one worker, and its new results."""

    def __init__(self, layout: WorkerLayout, worker: str, *, as_json: bool) -> None:
        self._layout = layout
        self._worker = worker
        self._as_json = as_json
        self._read: dict[str, int] = {}
        if layout.events.is_dir():
            # What is there by now is the past.
            self._read = {entry.name: entry.stat().st_size for entry in os.scandir(layout.events)}

    def look(self, directory: Path, name: str) -> None:
        """Print what is new in the file."""
        if directory == self._layout.events and name.endswith(_JOURNAL_SUFFIX):
            self._look_at_journal(name)
        elif directory == self._layout.results and name.endswith(TASK_SUFFIX) and not name.startswith("."):
            self._look_at_result(directory / name)

    def _look_at_journal(self, name: str) -> None:
        try:
            with (self._layout.events / name).open("rb") as stream:
                stream.seek(self._read.get(name, 0))
                fresh = stream.read()
        except OSError:
            return
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read[name] = self._read.get(name, 0) + len(whole)
        for line in whole.splitlines():
            try:
                print_event(Event.model_validate_json(line), as_json=self._as_json)
            except ValidationError:
                continue

    def _look_at_result(self, path: Path) -> None:
        try:
            if path.stat().st_size > _LARGEST_RESULT_BYTES:
                return
            result = Result.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return
        self._read.pop(f"{result.task_id}{_JOURNAL_SUFFIX}", None)
        data = {
            "status": result.status.value,
            "duration_seconds": result.duration_seconds,
            "error": None if result.error is None else result.error.message,
        }
        ended = Event(
            event="task_ended", timestamp=result.completed_at, worker=self._worker, task_id=result.task_id, data=data
        )
        print_event(ended, as_json=self._as_json)
