"""Reports one hook event from a process of its own to where the worker's bridge reports, too.

For sessions outside the pool. Light to import, and nothing here waits longer than a moment: Claude may be waiting.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_bus.hooks.actions import RuleBook
from agent_bus.hooks.events import HookEvent
from agent_bus.hooks.rules import Places
from agent_bus.hooks.tool_use_log import ToolUseLog
from agent_bus.layout import WorkerLayout

_SESSION_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,80}")
_REDIS_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class ReportPlaces:
    """Where the events of one worker go."""

    worker: str
    layout: WorkerLayout
    rules: Path
    """The file of rules; it need not exist."""
    redis_url: str | None = None

    @classmethod
    def under(cls, shared: Path, worker: str, environ: Mapping[str, str]) -> ReportPlaces:
        """Return the places below a shared directory, but for those that the environment moves."""
        layout = WorkerLayout.under(shared, worker)
        moved = {
            field: Path(environ[variable]).absolute()
            for variable, field in (("LOG_DIR", "logs"), ("PIPE_DIR", "pipes"))
            if environ.get(variable)
        }
        if moved:
            layout = WorkerLayout(**{**layout.__dict__, **moved})
        named = environ.get("HOOKS_CONFIG")
        rules = Path(named) if named else layout.hooks_config / f"{worker}-hooks.json"
        return cls(worker=worker, layout=layout, rules=rules, redis_url=_redis_url(environ))


def _redis_url(environ: Mapping[str, str]) -> str | None:
    if named := environ.get("REDIS_URL_FILE"):
        try:
            return Path(named).read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None
    return environ.get("REDIS_URL") or None


def report_hook(event: HookEvent, places: ReportPlaces) -> list[str]:
    """Report an event everywhere; returns a sentence for each place that could not be told."""
    line = _line_of(event)
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("the tool-use log", lambda: _log(event, places)),
        ("the session's journal", lambda: _journal(event, places, line)),
        ("the status pipe", lambda: _pipe(event, places, line)),
        ("the hook rules", lambda: _rules(event, places)),
        ("Redis", lambda: _redis(places, line)),
    )
    troubles = []
    for name, step in steps:
        try:
            step()
        except Exception as error:
            # Each is told whatever becomes of the others. The text of a Redis error may hold the URL: not shown.
            reason = type(error).__name__ if name == "Redis" else str(error) or type(error).__name__
            troubles.append(f"{name}: {reason}")
    return troubles


def _line_of(event: HookEvent, data: dict[str, Any] | None = None) -> bytes:
    record = {
        "event": "hook",
        "timestamp": event.timestamp.isoformat().replace("+00:00", "Z"),
        "worker": event.worker,
        "task_id": event.task_id,
        "data": event.data() if data is None else data,
    }
    return json.dumps(record).encode() + b"\n"


def _log(event: HookEvent, places: ReportPlaces) -> None:
    log = ToolUseLog(places.layout.tool_use_log(places.worker), worker=places.worker)
    try:
        log.note(event)
        if log.lost_lines:
            raise OSError("it cannot be written")
    finally:
        log.close()


def _journal(event: HookEvent, places: ReportPlaces, line: bytes) -> None:
    if event.session_id is None or not _SESSION_NAME.fullmatch(event.session_id):
        return
    places.layout.events.mkdir(parents=True, exist_ok=True)
    path = places.layout.events / f"session-{event.session_id}.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        # One write: lines of several hooks at once do not mix.
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _pipe(event: HookEvent, places: ReportPlaces, line: bytes) -> None:
    try:
        descriptor = os.open(places.layout.status_pipe(places.worker), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            # No worker has made it, or nobody reads it.
            return
        raise
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
        if len(line) > select.PIPE_BUF:
            # Longer ones could mix with another writer's; the journal has it whole.
            kept = ("hook", "source", "session_id", "tool_name", "tool_use_id")
            line = _line_of(event, {key: value for key, value in event.data().items() if key in kept})
        try:
            os.write(descriptor, line)
        except BlockingIOError:
            return
    finally:
        os.close(descriptor)


def _rules(event: HookEvent, places: ReportPlaces) -> None:
    failed: list[str] = []
    layout = places.layout
    book = RuleBook(places.rules, Places(shared=layout.shared, logs=layout.logs), on_failure=failed.append)
    book.reload()
    book.apply(event)
    if failed:
        raise ValueError(f"could not be carried out: {', '.join(failed)}")


def _redis(places: ReportPlaces, line: bytes) -> None:
    if places.redis_url is None:
        return
    # A quarter of a second to import: only where there is one.
    import redis

    url, patience = places.redis_url, _REDIS_PATIENCE_S
    with redis.Redis.from_url(url, socket_timeout=patience, socket_connect_timeout=patience) as client:
        client.publish(f"hooks:{places.worker}", line.rstrip(b"\n"))
