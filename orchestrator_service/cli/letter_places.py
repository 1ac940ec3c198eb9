"""Where dead letters lie: in the directory of a worker, or in its stream in Redis. The same deeds for both."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.errors import QueueUnavailable
from agent_bus.files import kind_of
from agent_bus.layout import WorkerLayout
from orchestrator_service.cli.channels import Channels, RedisAway
from orchestrator_service.cli.places import find_worker, known_workers
from orchestrator_service.cli.terminal import harmless

if TYPE_CHECKING:
    from agent_bus.redis.client import RedisClient, RedisLetter

_SHOWN_BYTES: Final = 4096


class LetterPlace(Protocol):
    """The dead letters of one worker in one place."""

    def letters(self) -> list[DeadLetter]:
        """Return all, oldest first."""

    def where(self, letter: DeadLetter) -> dict[str, str]:
        """Return where it lies, under the name that a program knows it by: `path` or `stream`."""

    def beginning(self, letter: DeadLetter) -> str:
        """Return the beginning of what was handed in, fit for a terminal."""

    def replay(self, letter: DeadLetter) -> str:
        """Hand it in again; returns where it went.

        Raises:
            agent_bus.dead_letters.DeadLetterError: it cannot be run again; the text says why.
        """

    def drop(self, letter: DeadLetter) -> None:
        """Delete it."""


@contextmanager
def open_places(channels: Channels, worker: str | None) -> Iterator[list[LetterPlace]]:
    """Open all places that there are, of one worker or of all; files go on without a Redis that is away.

    Raises:
        UserError: no worker of that name is known anywhere, or Redis is the only place and cannot be used.
    """
    places: list[LetterPlace] = []
    with ExitStack() as stack:
        if channels.has_redis:
            try:
                places += _in_redis(channels, stack.enter_context(channels.redis()), worker)
            except (RedisAway, QueueUnavailable) as error:
                if channels.shared is None:
                    raise
                away = error if isinstance(error, RedisAway) else channels.away(error)
                print(f"codehornets: {away}", file=sys.stderr)
        if channels.shared is not None:
            known = known_workers(channels.shared)
            if worker is None:
                places = [*(_Files(WorkerLayout.under(channels.shared, name)) for name in known), *places]
            elif worker in known or not places:
                places = [_Files(find_worker(channels.shared, worker)), *places]
        yield places


def _in_redis(channels: Channels, client: RedisClient, worker: str | None) -> list[LetterPlace]:
    from orchestrator_service.cli.redis_tasks import check_name

    names = client.workers()[0]
    if worker is None:
        return [_Stream(client, name) for name in names]
    check_name(worker)
    # Without a directory nobody else can say whether there is such a worker.
    return [_Stream(client, worker)] if worker in names or channels.shared is None else []


@dataclass(frozen=True)
class _Files:
    layout: WorkerLayout

    @property
    def _box(self) -> DeadLetterBox:
        return DeadLetterBox(self.layout)

    def letters(self) -> list[DeadLetter]:
        return list(self._box.letters())

    def where(self, letter: DeadLetter) -> dict[str, str]:
        return {"path": str(self.layout.dead_letters / letter.name)}

    def replay(self, letter: DeadLetter) -> str:
        return str(self._box.replay(letter))

    def drop(self, letter: DeadLetter) -> None:
        self._box.drop(letter)

    def beginning(self, letter: DeadLetter) -> str:
        """Read the first bytes of a plain file; nothing else is opened, since that could block."""
        path = self.layout.dead_letters / letter.name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return f"({kind_of(status.st_mode)}, not opened)"
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                body = os.read(descriptor, _SHOWN_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"(cannot be read: {error.strerror})"
        return _as_text(body, status.st_size)


class _Stream:
    def __init__(self, client: RedisClient, worker: str) -> None:
        self._client = client
        self._worker = worker
        self._found: dict[str, RedisLetter] = {}

    def letters(self) -> list[DeadLetter]:
        self._found = {letter.name: letter for letter in self._client.dead_letters(self._worker)}
        return [_as_letter(letter, self._worker) for letter in self._found.values()]

    def where(self, letter: DeadLetter) -> dict[str, str]:
        from agent_bus.redis.keys import WorkerKeys

        return {"stream": WorkerKeys(self._worker).dead_letters}

    def replay(self, letter: DeadLetter) -> str:
        from agent_bus.redis.keys import WorkerKeys

        return f"{WorkerKeys(self._worker).tasks} as {self._client.replay(self._worker, self._found[letter.name])}"

    def drop(self, letter: DeadLetter) -> None:
        self._client.drop(self._worker, self._found[letter.name])

    def beginning(self, letter: DeadLetter) -> str:
        body = self._found[letter.name].task
        return _as_text(body[:_SHOWN_BYTES], len(body))


def _as_letter(letter: RedisLetter, worker: str) -> DeadLetter:
    fields: dict[str, Any] = {
        "name": letter.name,
        "original_name": letter.entry,
        "reason": letter.reason,
        "message": letter.message,
        "worker": letter.worker or worker,
        "instance": letter.instance,
        "buried_at": _moment(letter.buried_at),
        "task_id": letter.task_id,
        "attempts": letter.attempts,
    }
    return DeadLetter.model_validate(fields)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _as_text(body: bytes, size: int) -> str:
    more = f"\n… {size:,} bytes in all" if size > len(body) else ""
    return (harmless(body.decode("utf-8", "replace")) or "(empty)") + more
