"""`codehornets logs`: a worker's log, or the events of one task, as lines for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import anyio

from agent_bus.layout import ORCHESTRATOR
from agent_bus.messages import Event, is_task_id
from orchestrator_service.changes import open_changes
from orchestrator_service.cli.api_place import find_api, or_without
from orchestrator_service.cli.channels import Channels, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import find_shared_dir, find_worker
from orchestrator_service.cli.tasks import find_result, find_task
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.waiting import in_words
from orchestrator_service.cli.where import Where

_BLOCK_BYTES: Final = 65_536
_SHOWN_ELSEWHERE: Final = frozenset(
    ("timestamp", "level", "message", "worker", "instance", "action", "exception", "task_id")
)
_COLOURS: Final = {"warning": "33", "error": "31", "critical": "31;1"}


def logs(worker: str | None, *, task_id: str | None, follow: bool, lines: int, as_json: bool, where: Where) -> int:
    """Print the last lines and, with `follow`, go on until Ctrl-C (for a task: until it has its result)."""
    if task_id is not None and worker is None and _by_api(where, task_id, follow, lines, as_json):
        return 0
    channels = find_channels(where.shared_dir, where.redis) if task_id is not None else None
    if channels is not None and task_id is not None and _by_redis(channels, task_id, worker, follow, lines, as_json):
        return 0
    shared = find_shared_dir(where.shared_dir)
    if task_id is not None:
        path = _find_journal(shared, task_id, worker)
        write, done = _event_line, lambda: find_result(shared, task_id) is not None
    elif worker == ORCHESTRATOR:
        path = shared / "watcher-logs" / f"{ORCHESTRATOR}.log"
        write, done = _log_line, lambda: False
        if not path.exists() and not follow:
            raise UserError(f"The orchestrator has no log in {path.parent}; it writes one when it starts.")
    elif worker is not None:
        path = find_worker(shared, worker).log(worker)
        write, done = _log_line, lambda: False
        if not path.exists() and not follow:
            raise UserError(f"{worker} has no log in {path.parent}; it writes one when it starts.")
    else:
        raise UserError("Name a worker (`codehornets logs marie`), or a task with --task ID.")
    show: Callable[[str], str] = (lambda line: line) if as_json else write
    position = _print_last(path, lines, show)
    if follow:
        anyio.run(_follow, path, position, show, done)
    return 0


def _by_api(where: Where, task_id: str, follow: bool, lines: int, as_json: bool) -> bool:
    """Show the events of a task that the orchestrator knows, if there is one."""
    if not is_task_id(task_id) or (place := find_api(where)) is None:
        return False
    from orchestrator_service.cli.api_streams import task_log

    def show(line: str) -> None:
        print(line if as_json else _event_line(line), flush=True)

    return bool(or_without(place, partial(task_log, task_id=task_id, follow=follow, lines=lines, show=show)))


def _by_redis(channels: Channels, task_id: str, worker: str | None, follow: bool, lines: int, as_json: bool) -> bool:
    """Show the events of a task in Redis; False where files tell of it, or nothing does and there are files."""
    if not is_task_id(task_id) or not channels.has_redis:
        return False
    if (shared := channels.shared) is not None:
        journals = shared.glob(f"events/*/{task_id}.jsonl")
        if any(journals) or find_task(shared, task_id) is not None or find_result(shared, task_id) is not None:
            return False
    from orchestrator_service.cli.redis_logs import has_ended_in_redis, logs_from_redis

    show: Callable[[str], str] = (lambda line: line) if as_json else _event_line
    kept = None if shared is None else shared / "orchestrator" / "events" / f"{task_id}.jsonl"
    if kept is not None and kept.exists():
        # The orchestrator listens, and has written down what came before this moment as well.
        position = _print_last(kept, lines, show)
        if follow:
            with channels.redis() as client:
                anyio.run(_follow, kept, position, show, partial(has_ended_in_redis, client, task_id))
        return True
    return logs_from_redis(channels, task_id, worker, follow=follow, show=show)


def _find_journal(shared: Path, task_id: str, worker: str | None) -> Path:
    if not is_task_id(task_id):
        raise UserError(f"{task_id[:80]!r} is no task id.")
    if worker is not None:
        return find_worker(shared, worker).event_journal(task_id)
    for path in shared.glob(f"events/*/{task_id}.jsonl"):
        return path
    where = find_task(shared, task_id)
    if where is None:
        raise UserError(f"Task {task_id} has no events in {shared / 'events'}.")
    return find_worker(shared, where.worker).event_journal(task_id)


def _last_lines(stream: BinaryIO, count: int, end: int) -> list[str]:
    """Return the last `count` of the lines that end at byte `end`, reading no more than is needed."""
    chunk = b""
    start = end
    while start > 0 and chunk.count(b"\n") <= count:
        start = max(0, start - _BLOCK_BYTES)
        stream.seek(start)
        chunk = stream.read(min(_BLOCK_BYTES, end - start - len(chunk))) + chunk
    lines = chunk.split(b"\n")[:-1]
    return [line.decode("utf-8", "replace") for line in lines[len(lines) - min(count, len(lines)) :]]


def _print_last(path: Path, count: int, show: Callable[[str], str]) -> tuple[int, int]:
    """Print the last lines; returns which file that was and up to where, so that following misses nothing."""
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            whole = _whole_lines_end(stream, status.st_size)
            lines = _last_lines(stream, count, whole)
        if len(lines) < count:
            lines = [*_lines_before(path, count - len(lines)), *lines]
    except FileNotFoundError:
        return (0, 0)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    for line in lines:
        print(show(line))
    sys.stdout.flush()
    return (status.st_ino, whole)


def _lines_before(path: Path, count: int) -> list[str]:
    """Return the last lines of the file that was rotated away last."""
    try:
        with path.with_name(f"{path.name}.1").open("rb") as stream:
            return _last_lines(stream, count, stream.seek(0, os.SEEK_END))
    except FileNotFoundError:
        return []


def _whole_lines_end(stream: BinaryIO, size: int) -> int:
    """Return where the last whole line ends; what stands behind it is still being written."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        stream.seek(start)
        if (last := stream.read(end - start).rfind(b"\n")) >= 0:
            return start + last + 1
        end = start
    return 0


async def _follow(path: Path, position: tuple[int, int], show: Callable[[str], str], done: Callable[[], bool]) -> None:
    inode, offset = position
    stream: BinaryIO | None = None
    with open_changes([path.parent]) as changes:
        try:
            while True:
                finished = done()
                if stream is None:
                    with suppress(FileNotFoundError):
                        stream = path.open("rb")
                        # The file may have been rotated between the last lines and now: then all of it is new.
                        stream.seek(offset if os.fstat(stream.fileno()).st_ino == inode else 0)
                if stream is not None:
                    _print_new(stream, show)
                    if _was_replaced(stream, path):
                        _print_new(stream, show)
                        stream.close()
                        stream, inode = None, 0
                        continue
                if finished:
                    return
                await changes.wait()
        finally:
            if stream is not None:
                stream.close()


def _print_new(stream: BinaryIO, show: Callable[[str], str]) -> None:
    for line in iter(stream.readline, b""):
        if not line.endswith(b"\n"):
            stream.seek(-len(line), os.SEEK_CUR)
            break
        print(show(line[:-1].decode("utf-8", "replace")))
    sys.stdout.flush()


def _was_replaced(stream: BinaryIO, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _log_line(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return harmless(line)
    if not isinstance(entry, dict):
        return harmless(line)
    level = str(entry.get("level", "info"))
    extras = " ".join(f"{key}={_brief(value)}" for key, value in entry.items() if key not in _SHOWN_ELSEWHERE)
    text = f"{_clock(entry.get('timestamp'))} {level:<7} {entry.get('message', '')}"
    text = harmless(f"{text}  {extras}" if extras else text)
    if entry.get("exception"):
        text += "\n" + harmless(str(entry["exception"]))
    colour = _COLOURS.get(level)
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and sys.stdout.isatty() else text


def _event_line(line: str) -> str:
    try:
        event = Event.model_validate({"worker": "-", **_without_nothing(json.loads(line))})
    except (ValueError, TypeError):
        return harmless(line)
    return harmless(f"{_clock(event.timestamp.isoformat())} {in_words(event)}")


def _without_nothing(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clock(timestamp: object) -> str:
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return "-"
