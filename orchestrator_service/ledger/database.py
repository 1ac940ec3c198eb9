"""The file under the ledger: one writer that commits in groups, and threads that read beside it.

Writes that come while the disk is busy share the next transaction and its one flush; each is a savepoint of its own, so
that one that fails takes nothing with it. WAL lets readers go on meanwhile. `synchronous=FULL` makes a write that was
answered survive a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).

Small changes run in the loop and only the flush in a thread: two threads of Python code take turns at the interpreter,
and with each system call of the loop the other one has it for a millisecond. Large ones run in the thread as a whole,
so that the loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.ledger.schema import LedgerTooNew, migrate, version_of

T = TypeVar("T")

log = logging.getLogger(__name__)

_SLICE_S: Final = 0.005
"""After this long no further change comes along: the loop has other things to do, and the first must not wait."""
_READERS: Final = 2
_BUSY_S: Final = 5.0
_BUSY_IN_LOOP_MS: Final = 20

_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]


class _Order(NamedTuple):
    """A change that is to be made."""

    change: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]
    large: bool


class LedgerInUse(Exception):
    """Another process has this ledger open; the text is one sentence."""


class Database:
    """The open file. Made by `open_database`."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why it cannot be used now; None while it can."""
        self.on_rollback: Callable[[bool], None] = lambda whole: None
        """Called when changes were taken back, so that what mirrors them is read anew: True for
        the whole transaction, False for the last change alone."""
        self._loop = loop
        self._waiting: deque[_Order] = deque()
        self._under_way: asyncio.Future[list[_Answer]] | None = None
        """The transaction that a thread has now."""
        self._begun_at = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-reader")
        self._mine = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._connection: sqlite3.Connection | None = None
        self._locked: int | None = None

    # -- for everybody

    async def write(self, change: Callable[[sqlite3.Connection], T], *, large: bool = False) -> T:
        """Run `change` in a transaction and return its value once that is durable.

        It runs alone; what it raises undoes it and is raised here.

        Args:
            change: What is to be done.
            large: Whether it may take more than a few milliseconds: then it runs in a thread.

        Raises:
            LedgerUnavailable: the file cannot be written (a full disk, say); nothing was changed.
        """
        return await self.begin_write(change, large=large)

    def begin_write(self, change: Callable[[sqlite3.Connection], T], *, large: bool = False) -> asyncio.Future[T]:
        """Do the same for who does not wait for it here: the future gets what `write` returns or raises."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Order(change, answer, large))
        if self._under_way is None and len(self._waiting) == 1:
            # In the next turn: whoever else is at it in this one comes along.
            self._loop.call_soon(self._begin)
        return answer

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run `question` in a reading thread, on what is committed.

        Raises:
            LedgerUnavailable: the file cannot be read.
        """
        return await self._loop.run_in_executor(self._readers, self._read, question)

    def stuck_s(self) -> float:
        """Return for how many seconds the present transaction has been under way; 0 where there is none."""
        return 0.0 if self._under_way is None else time.monotonic() - self._begun_at

    # -- writing, in the loop

    def _begin(self) -> None:
        """Begin the next transaction, if nothing is under way."""
        if self._under_way is not None or not self._waiting:
            return
        connection = self._connection
        if connection is None:
            orders = list(self._waiting)
            self._waiting.clear()
            _give([(order.answer, None, LedgerUnavailable(f"{self.trouble}.")) for order in orders])
            return
        self._begun_at = time.monotonic()
        if self._waiting[0].large:
            order = self._waiting.popleft()
            self._hand_over(lambda: self._carry_out(connection, [order]))
            return
        orders = []
        answers: list[_Answer] = []
        until = self._begun_at + _SLICE_S
        try:
            connection.execute("BEGIN IMMEDIATE")
            while self._waiting and not self._waiting[0].large and (not orders or time.monotonic() < until):
                orders.append(self._waiting.popleft())
                answers.append(self._carry_out_one(connection, orders[-1]))
        except sqlite3.Error as error:
            _give(self._given_up(connection, orders, error))
            self._loop.call_soon(self._begin)
            return
        self._hand_over(lambda: self._commit(connection, orders, answers))

    def _hand_over(self, work: Callable[[], list[_Answer]]) -> None:
        self._under_way = self._loop.run_in_executor(self._writer, work)
        self._under_way.add_done_callback(self._committed)

    def _committed(self, done: asyncio.Future[list[_Answer]]) -> None:
        self._under_way = None
        if not done.cancelled():
            _give(done.result())
        if self._waiting:
            self._begin()

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
        # Nobody else writes here. Should somebody do so all the same, the loop must not wait for them.
        connection.execute(f"PRAGMA busy_timeout={_BUSY_IN_LOOP_MS}")
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

    def _carry_out(self, connection: sqlite3.Connection, orders: list[_Order]) -> list[_Answer]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = [self._carry_out_one(connection, order) for order in orders]
        except sqlite3.Error as error:
            return self._given_up(connection, orders, error)
        return self._commit(connection, orders, answers)

    def _carry_out_one(self, connection: sqlite3.Connection, order: _Order) -> _Answer:
        connection.execute("SAVEPOINT one")
        try:
            value = order.change(connection)
        except BaseException as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                # Not this change's fault (a full disk, a broken file): the whole group is given up.
                raise
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            self.on_rollback(False)
            return order.answer, None, error
        connection.execute("RELEASE one")
        return order.answer, value, None

    def _commit(self, connection: sqlite3.Connection, orders: list[_Order], answers: list[_Answer]) -> list[_Answer]:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            return self._given_up(connection, orders, error)
        if self.trouble is not None:
            log.info("the ledger can be written again", extra={"action": "ledger_writable"})
            self.trouble = None
        return answers

    def _given_up(self, connection: sqlite3.Connection, orders: list[_Order], error: sqlite3.Error) -> list[_Answer]:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        self.on_rollback(True)
        trouble = f"the ledger {self.path} cannot be written: {error}"
        if self.trouble is None:
            log.error("%s", trouble, extra={"action": "ledger_unwritable"})
        self.trouble = trouble
        return [(order.answer, None, LedgerUnavailable(f"{trouble}; nothing was changed.")) for order in orders]

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

    async def aclose(self) -> None:
        """Write what was asked for, then close the file."""
        while self._under_way is not None or self._waiting:
            self._begin()
            if self._under_way is not None:
                await asyncio.wait([self._under_way])
                # Its end is told in the loop's next turn.
                await asyncio.sleep(0)
        await self._loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writer.shutdown(wait=True)
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
        await database.aclose()
