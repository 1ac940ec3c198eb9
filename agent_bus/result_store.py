"""Results on the disk: written whole, durable before they are visible, and never one over another."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent_bus.errors import BusError, ResultNotStored
from agent_bus.files import publish_once, write_new
from agent_bus.group_commit import GroupCommit, is_in_memory
from agent_bus.messages import Result, encode_result
from agent_bus.result_notices import ResultNotices


class ResultStore:
    """The result directory of one worker."""

    def __init__(
        self,
        results: Path,
        staging: str,
        *,
        sync: bool,
        mend: Callable[[], None],
        notices: ResultNotices,
    ) -> None:
        """Write to `results`, by way of `staging`, a path's beginning below which this instance has its own files.

        Staged files lie beside the results where `staging` is on another mount. With `sync` a result is on the disk
        before it is visible, unless there is no disk below it. `mend` makes missing directories again. `notices` are
        told of each result that is there.
        """
        self._notices = notices
        self._mend = mend
        self._results = results
        self._prefix = f"{results}/"
        self._one_mount = os.stat(results).st_dev == os.stat(staging).st_dev
        self._staging = staging if self._one_mount else self._prefix
        self._commit = GroupCommit(results) if sync and not is_in_memory(results) else None

    async def run_forever(self) -> None:
        """Serve the flushes that `store` waits for."""
        if self._commit is not None:
            await self._commit.run_forever()

    def path(self, task_id: str) -> str:
        """Return where the task's result is or will be."""
        return f"{self._prefix}{task_id}.json"

    def has(self, task_id: str) -> bool:
        """Tell whether the task has its result."""
        return os.access(f"{self._prefix}{task_id}.json", os.F_OK)

    async def store(self, result: Result, uid: str) -> bool:
        """Put the result in place, durably; False when there is one already, which stays.

        Args:
            result: The result.
            uid: A name that nobody else stages under.

        Raises:
            ResultNotStored: it could not be written; nothing is left behind.
        """
        staged = f"{self._staging}.{uid}.result"
        try:
            write_new(staged, encode_result(result))
            if self._commit is not None:
                await self._commit.flushed()
            stored = publish_once(staged, self.path(result.task_id))
            if self._commit is not None and not self._one_mount:
                # The claim is on another file system, whose journal knows nothing of this one's order.
                await self._commit.flushed()
        except OSError as error:
            raise self._not_stored(result, staged, error) from error
        self._tell(result, stored)
        return stored

    def store_now(self, result: Result, uid: str) -> bool:
        """Put the result in place without waiting for the disk; for refusals, which can be told again.

        Raises:
            ResultNotStored: it could not be written.
        """
        staged = f"{self._staging}.{uid}.result"
        try:
            write_new(staged, encode_result(result))
            stored = publish_once(staged, self.path(result.task_id))
        except OSError as error:
            raise self._not_stored(result, staged, error) from error
        self._tell(result, stored)
        return stored

    def tell_again(self, task_id: str) -> None:
        """Tell of a result that is there already; whoever wrote it may have died before it could."""
        with suppress(OSError, ValueError):
            standing = Result.model_validate_json(Path(self.path(task_id)).read_bytes())
            self._tell(standing, stored=True)

    def _tell(self, result: Result, stored: bool) -> None:
        if not stored:
            self.tell_again(result.task_id)
            return
        error = None if result.error is None else result.error.message
        self._notices.tell(result.task_id, result.status, self.path(result.task_id), error)

    def _not_stored(self, result: Result, staged: str, error: OSError) -> ResultNotStored:
        with suppress(OSError):
            os.unlink(staged)
        if isinstance(error, FileNotFoundError):
            with suppress(OSError, BusError):
                self._mend()
        return ResultNotStored(
            f"the result of task {result.task_id} cannot be written to {self._results}: "
            f"{error.strerror or error}; make room or mend the directory, the task is kept"
        )
