"""Telling a worker on this machine what to do, by its pipes, and hearing what it answers."""

from __future__ import annotations

import json
import os
import select
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent_bus.commands import Command
from agent_bus.errors import BusError
from agent_bus.layout import WorkerLayout
from agent_bus.pipes import PipeUnavailable, open_for_reading, open_for_writing

_CHUNK_BYTES: Final = 65_536


class NobodyListens(BusError):
    """No worker reads the control pipe; the text is one sentence."""


def tell_by_pipe(layout: WorkerLayout, worker: str, command: Command, *, within_s: float) -> dict[str, Any] | None:
    """Write the command and return the data of the answer that carries its id; None when none came in time.

    Whoever else reads the status pipe may get the answer instead: a pipe gives each line to one reader. What this
    reader got that was meant for others is written back.

    Raises:
        NobodyListens: there is no pipe, or no worker reads it.
    """
    path = layout.control_pipe(worker)
    try:
        pipe = open_for_writing(path)
    except (OSError, PipeUnavailable) as error:
        raise NobodyListens(
            f"{worker} does not listen on {path}; it does so while it runs in the mode hooks or hybrid"
        ) from error
    try:
        answers = _open_status(layout.status_pipe(worker))
        try:
            os.write(pipe, command.encode())
            return None if answers is None else _find_answer(answers, command, within_s, layout.status_pipe(worker))
        finally:
            if answers is not None:
                os.close(answers)
    except OSError as error:
        raise NobodyListens(f"{path} takes nothing now: {error.strerror or error}; try again") from error
    finally:
        os.close(pipe)


def _open_status(path: Path) -> int | None:
    try:
        return open_for_reading(path)
    except PipeUnavailable:
        return None


def _find_answer(descriptor: int, command: Command, within_s: float, path: Path) -> dict[str, Any] | None:
    others: list[bytes] = []
    try:
        return _read_answer(descriptor, command, within_s, others)
    finally:
        if others:
            _give_back(path, others)


def _read_answer(descriptor: int, command: Command, within_s: float, others: list[bytes]) -> dict[str, Any] | None:
    deadline = time.monotonic() + within_s
    pending = b""
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left_s)[0]:
            return None
        chunk = os.read(descriptor, _CHUNK_BYTES)
        if not chunk:
            # The worker has not opened its end yet, or it has left.
            time.sleep(min(0.01, left_s))
            continue
        *lines, pending = (pending + chunk).split(b"\n")
        found = [_answer_in(line, command) for line in lines]
        others += [line for line, data in zip(lines, found, strict=True) if data is None]
        if (answer := next((data for data in found if data is not None), None)) is not None:
            return answer
    return None


def _give_back(path: Path, lines: list[bytes]) -> None:
    """Write to the pipe what another reader may wait for; where there is none, the kernel drops it."""
    with suppress(OSError, PipeUnavailable):
        pipe = open_for_writing(path)
        try:
            for line in lines:
                os.write(pipe, line + b"\n")
        finally:
            os.close(pipe)


def _answer_in(line: bytes, command: Command) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
        data = event["data"] if event["event"] == "answer" else {}
    except (ValueError, TypeError, KeyError):
        return None
    return data if isinstance(data, dict) and data.get("id") == command.id else None
