"""The pipes of a worker: that they are pipes, and that a command goes in and its answer comes out."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent_bus.commands import Command, CommandName
from orchestrator_service.control_pipes import NobodyListens, tell_by_pipe
from orchestrator_service.field_check.sidecar import counted
from orchestrator_service.field_check.subject import Subject
from orchestrator_service.findings import Finding, Grade

_ANSWER_S: Final = 3.0
_COMMANDS: Final = "codehornets_control_commands_total"


def check_pipes(subject: Subject, *, speak: bool) -> Iterator[Finding]:
    """Judge both pipes, then ask for the status through them; `speak` tells whether anybody may be there to answer."""
    paths = (subject.layout.control_pipe(subject.name), subject.layout.status_pipe(subject.name))
    wrong = [trouble for path in paths if (trouble := _trouble(path)) is not None]
    for text, mend in wrong:
        yield Finding("pipes", Grade.BROKEN, text, mend)
    if not wrong:
        yield Finding("pipes", Grade.GOOD, f"{paths[0]} and {paths[1].name} are named pipes")
    if wrong or not speak:
        yield Finding("round trip", Grade.LEFT_OUT, "see above")
        return
    yield _round_trip(subject)


def _trouble(path: Path) -> tuple[str, str] | None:
    again = "its worker makes the pipe anew at its next heartbeat"
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return f"there is no {path}", again
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}", "mend the owner or mode of its directory"
    if not stat.S_ISFIFO(mode):
        return f"{path} is no named pipe", f"`rm {path}`; {again}"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} cannot be used by user id {os.geteuid()}", "mend its owner or mode, or check as another user"
    return None


def _round_trip(subject: Subject) -> Finding:
    before = counted(subject, _COMMANDS, command="status", source="pipe")
    started = time.monotonic()
    try:
        answer = tell_by_pipe(
            subject.layout,
            subject.name,
            Command(name=CommandName.STATUS, id=os.urandom(8).hex()),
            within_s=_ANSWER_S,
        )
    except NobodyListens as error:
        return Finding("round trip", Grade.BROKEN, str(error), f"see `codehornets logs {subject.name}`")
    taken_ms = (time.monotonic() - started) * 1000
    if answer is not None:
        figures = {"answer_ms": round(taken_ms, 3)}
        return Finding("round trip", Grade.GOOD, f"its status came back in {taken_ms:.1f} ms", figures=figures)
    after = counted(subject, _COMMANDS, command="status", source="pipe")
    if before is not None and after is not None and after > before:
        # A pipe gives each line to one of its readers.
        return Finding("round trip", Grade.NOTE, "the command was carried out; its answer went to another reader")
    mend = f"see `codehornets logs {subject.name}`; if nothing there tells why, start it anew"
    return Finding("round trip", Grade.BROKEN, f"no answer within {_ANSWER_S:g} s", mend)
