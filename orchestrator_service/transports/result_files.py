"""Results as files, read with the care that a directory deserves in which anybody may write."""

from __future__ import annotations

import os
from typing import Final

from pydantic import ValidationError

from agent_bus.errors import BusError, DeadLetterReason, TriggerRejected
from agent_bus.files import read_untrusted
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result

MOST_RESULT_BYTES: Final = 256 * 1024 * 1024
"""No agent says so much; what is larger is not read."""

_REFUSALS: Final = {
    DeadLetterReason.NOT_A_FILE: "it is no plain file; links are not followed",
    DeadLetterReason.TOO_LARGE: f"it has more than {MOST_RESULT_BYTES:,} bytes",
    DeadLetterReason.UNREADABLE: f"user id {os.geteuid()} may not read it; mend its mode or owner",
}


class BrokenResult(BusError):
    """There is a result that cannot be understood; the text is one sentence that names it."""


def read_result_file(layout: WorkerLayout, worker: str, task_id: str) -> Result | None:
    """Return the result of a task, or None while there is none.

    Raises:
        BrokenResult: it cannot be read or understood, or is another one's.
    """
    path = os.fspath(layout.result(task_id))
    try:
        body, _ = read_untrusted(path, max_bytes=MOST_RESULT_BYTES, owners=None)
    except FileNotFoundError:
        return None
    except TriggerRejected as refusal:
        raise BrokenResult(
            f"The result {path} cannot be read: {_REFUSALS.get(refusal.reason, refusal.message)}."
        ) from refusal
    except OSError as error:
        raise BrokenResult(f"The result {path} cannot be read: {error.strerror or error}.") from error
    return read_result(body, path, worker, task_id)


def read_result(body: bytes, where: str, worker: str, task_id: str) -> Result:
    """Return the result in `body`, which was found at `where`.

    Raises:
        BrokenResult: it cannot be understood, or is another one's.
    """
    try:
        result = Result.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = f"{field}: {first['msg']}" if field else first["msg"]
        raise BrokenResult(f"{where} is no result that this version understands ({what}).") from error
    if result.task_id != task_id:
        raise BrokenResult(f"{where} says that it is the result of another task, {result.task_id[:128]!r}.")
    if result.worker != worker:
        raise BrokenResult(f"{where} says that it comes from another worker, {result.worker[:80]!r}.")
    return result
