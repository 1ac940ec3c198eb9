"""Refusals: a file that can never become a task is set aside with its reason, and its task gets an answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from agent_bus.claim_names import original_name
from agent_bus.claim_store import ClaimStore
from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.errors import TriggerRejected
from agent_bus.files import read_untrusted
from agent_bus.messages import refusal_result, utc_now
from agent_bus.result_store import ResultStore
from agent_bus.trigger_reader import TaskBody, read_body, task_id_in_name


class Refusals:
    """Sets files aside for one worker."""

    def __init__(
        self,
        *,
        worker: str,
        instance: str,
        max_bytes: int,
        store: ClaimStore,
        box: DeadLetterBox,
        results: ResultStore,
        buried: Callable[[DeadLetter], None],
    ) -> None:
        """Tell `buried` of each file that was set aside."""
        self._worker = worker
        self._instance = instance
        self._max_bytes = max_bytes
        self._store = store
        self._box = box
        self._results = results
        self._buried = buried

    def answer(self, refusal: TriggerRejected, *, apart_from: str = "") -> None:
        """Write a failed result for the refused task, unless its id is unknown, answered, or somebody's who goes on.

        Args:
            refusal: Why it was refused.
            apart_from: The path of the refused claim itself.

        Raises:
            agent_bus.errors.ResultNotStored: it could not be written.
        """
        task_id = refusal.task_id
        if task_id is None or self._results.has(task_id) or self.is_claimed(task_id, apart_from):
            return
        answer = refusal_result(
            task_id,
            kind=refusal.reason.value,
            message=refusal.message,
            worker=self._worker,
            instance=self._instance,
        )
        self._results.store_now(answer, self._store.new_uid())

    def bury(self, path: str, original: str, refusal: TriggerRejected, *, attempts: int) -> None:
        """Move the file to the dead letters.

        Raises:
            FileNotFoundError: it is gone.
            OSError: it cannot be moved.
        """
        letter = DeadLetter(
            name="",
            original_name=os.fsencode(original).decode("utf-8", "replace"),
            reason=refusal.reason.value,
            message=refusal.message,
            worker=self._worker,
            instance=self._instance,
            buried_at=utc_now(),
            task_id=refusal.task_id,
            attempts=attempts,
        )
        self._buried(self._box.bury(path, letter))

    def is_claimed(self, task_id: str, apart_from: str = "") -> bool:
        """Tell whether anybody holds the task now, or held it and died; looks at every claim there is."""
        for path in self._store.all_claims():
            name = original_name(os.path.basename(path))
            if path == apart_from:
                continue
            if task_id_in_name(name) == task_id:
                return True
            with suppress(OSError, TriggerRejected):
                body, _ = read_untrusted(path, max_bytes=self._max_bytes, owners=None)
                meaning = read_body(body, name)
                if isinstance(meaning, TaskBody) and meaning.fields.get("task_id") == task_id:
                    return True
        return False
