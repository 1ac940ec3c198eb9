"""The file under the ledger: one writing thread that commits in groups, and threads that read beside it.

Writes that come at the same time share one transaction and one flush to the disk; each is a savepoint of its own, so
that one that fails takes nothing with it. WAL lets readers go on meanwhile. `synchronous=FULL` makes a write that was
answered survive a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.ledger.schema import LedgerTooNew, migrate, version_of

T = TypeVar("T")

log = logging.getLogger(__name__)

_MOST_TOGETHER: Final = 256
"""So many writes share a transaction at most: the first one must not wait for ever."""
_READERS: Final = 2
_BUSY_S: Final = 5.0

_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]


class LedgerInUse(Exception):
    """Another process has this ledger open; the text is one sentence."""


class Database:
    """The open file. Made by `open_database`."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why it cannot be used now; None while it can."""
        self.on_rollback: Callable[[bool], None] = lambda whole: None
        """Called in the writing thread when changes were taken back, so that what mirrors them is read anew: True for
        the whole transaction, False for the last change alone."""
        self._loop = loop
        self._orders: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-reader")
        self._mine = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._writer = threading.Thread(target=self._write_forever, name="ledger-writer", daemon=True)
        self._connection: sqlite3.Connection | None = None
        self._locked: int | None = None

    # -- for everybody

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` in a transaction and return its value once that is durable.

        It runs in the writing thread, alone; what it raises undoes it and is raised here.

        Raises:
            LedgerUnavailable: the file cannot be written (a full disk, say); nothing was changed.
        """
        return await self.begin_write(change)

    def begin_write(self, change: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Do the same for who does not wait for it here: the future gets what `write` returns or raises."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._orders.put((change, answer))
        return answer

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run `question` in a reading thread, on what is committed.

        Raises:
            LedgerUnavailable: the file cannot be read.
        """
        return await self._loop.run_in_executor(self._readers, self._read, question)

    @property
    def writes(self) -> bool:
        """Whether the writing thread lives."""
        return self._writer.is_alive()

    # -- in the threads

    def start(self) -> None:
        """Open the file and begin to write. A file that cannot be used leaves `trouble`, and is tried no more.

        Raises:
            LedgerInUse: another process has it.
        """
        try:
            self._connection = self._open_for_writing()
        except LedgerTooNew as error:
            self.trouble = str(error)
        except (sqlite3.Error, OSError) as error:
            self.trouble = (
                f"the ledger {self.path} cannot be opened: {error}; mend it, or name another one in LEDGER_PATH"
            )
        if self.trouble is not None:
            log.error("%s", self.trouble, extra={"action": "ledger_unusable"})
        self._writer.start()

    def _open_for_writing(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock()
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)
        self._open.append(connection)
        # Before anything else: a file of a later version is left as it is.
        version_of(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cache_size=-16000")
        connection.execute("PRAGMA journal_size_limit=67108864")
        migrate(connection)
        return connection

    def _lock(self) -> None:
        locked = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(locked)
            raise LedgerInUse(
                f"The ledger {self.path} is in use by another orchestrator; stop that one, or name another LEDGER_PATH."
            ) from error
        self._locked = locked

    def _write_forever(self) -> None:
        while True:
            orders = [self._orders.get()]
            while len(orders) < _MOST_TOGETHER:
                try:
                    orders.append(self._orders.get_nowait())
                except queue.Empty:
                    break
            wanted = [order for order in orders if order is not None]
            if wanted:
                answers = self._carry_out(wanted)
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(_give, answers)
            if len(wanted) < len(orders):
                return

    def _carry_out(
        self, orders: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]]
    ) -> list[_Answer]:
        connection = self._connection
        if connection is None:
            return [(answer, None, LedgerUnavailable(f"{self.trouble}.")) for _, answer in orders]
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = [self._carry_out_one(connection, change, answer) for change, answer in orders]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            self.on_rollback(True)
            trouble = f"the ledger {self.path} cannot be written: {error}"
            if self.trouble is None:
                log.error("%s", trouble, extra={"action": "ledger_unwritable"})
            self.trouble = trouble
            return [(answer, None, LedgerUnavailable(f"{trouble}; nothing was changed.")) for _, answer in orders]
        if self.trouble is not None:
            log.info("the ledger can be written again", extra={"action": "ledger_writable"})
            self.trouble = None
        return answers

    def _carry_out_one(
        self, connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], Any], answer: asyncio.Future[Any]
    ) -> _Answer:
        connection.execute("SAVEPOINT one")
        try:
            value = change(connection)
        except BaseException as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                # Not this change's fault (a full disk, a broken file): the whole group is given up.
                raise
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            self.on_rollback(False)
            return answer, None, error
        connection.execute("RELEASE one")
        return answer, value, None

    def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise LedgerUnavailable(f"{self.trouble}.")
        try:
            connection: sqlite3.Connection | None = getattr(self._mine, "connection", None)
            if connection is None:
                uri = f"{self.path.absolute().as_uri()}?mode=ro"
                connection = sqlite3.connect(
                    uri, uri=True, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
                )
                self._open.append(connection)
                connection.execute("PRAGMA query_only=ON")
                connection.execute("PRAGMA cache_size=-8000")
                self._mine.connection = connection
            connection.execute("BEGIN")
            try:
                return question(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"The ledger {self.path} cannot be read: {error}.") from error

    def stop(self) -> None:
        """Write what was asked for, then close the file. Blocks until that is done."""
        self._orders.put(None)
        if self._writer.is_alive():
            self._writer.join()
        self._readers.shutdown(wait=True)
        for connection in self._open:
            with suppress(sqlite3.Error):
                connection.close()
        if self._locked is not None:
            os.close(self._locked)


def _give(answers: list[_Answer]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open the ledger for the length of the block.

    Raises:
        LedgerInUse: another process has it.
    """
    loop = asyncio.get_running_loop()
    database = Database(path, loop)
    await loop.run_in_executor(None, database.start)
    try:
        yield database
    finally:
        await loop.run_in_executor(None, database.stop)
