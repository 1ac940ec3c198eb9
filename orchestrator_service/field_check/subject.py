"""Who is checked: a service by its heartbeat, and what can be seen of its process from here."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat
from service_kit.places import PLACE_VARIABLES, layout_of

_READ: Final = {
    *PLACE_VARIABLES,
    "HOOKS_CONFIG",
    "POLL_INTERVAL",
    "RESCAN_INTERVAL",
    "ACTIVATION_MODE",
    "LOG_LEVEL",
    "HTTP_HOST",
}
"""All that is taken from a process's environment: it holds secrets as well."""
_LONGEST_HOST: Final = 40
_STATES: Final = {
    "T": "is stopped (SIGSTOP)",
    "t": "is held by a debugger",
    "Z": "has ended",
    "X": "has ended",
}


@dataclass(frozen=True, kw_only=True)
class Process:
    """What `/proc` says of a service's process."""

    pid: int
    trouble: str | None = None
    """Why it cannot work, or None."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The places and intervals that it was started with; empty where its environment may not be read."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One service under check."""

    name: str
    layout: WorkerLayout
    beat: Heartbeat
    is_here: bool
    """Whether it runs on this host, by the name of the host: then its process and its port can be reached."""
    process: Process | None = None
    """None where it runs elsewhere, or was not to be looked at."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What is known of its settings."""
        return {} if self.process is None else self.process.settings

    def seconds(self, variable: str, usual: float) -> float:
        """Return a setting in seconds, or the usual value."""
        with suppress(ValueError):
            return float(self.settings.get(variable) or usual)
        return usual


def look_at(name: str, layout: WorkerLayout, beat: Heartbeat, *, program: str, sees_processes: bool) -> Subject:
    """Return the service whose heartbeat this is.

    Args:
        name: What it is called.
        layout: Its directories at their default places.
        beat: Its latest heartbeat.
        program: A word that is on its command line, such as `worker_service`.
        sees_processes: Whether its process is to be looked for.
    """
    here = is_here(beat)
    if not (here and sees_processes):
        return Subject(name=name, layout=layout, beat=beat, is_here=here)
    process = read_process(beat.pid, program)
    moved = layout_of(process.settings, layout.shared, name)
    return Subject(name=name, layout=moved, beat=beat, is_here=True, process=process)


def is_here(beat: Heartbeat) -> bool:
    """Tell whether the service runs where this process does: its instance begins with its host and its process id."""
    host, instance = _plain(socket.gethostname()), _plain(beat.instance)
    marks = (f"{host}-{beat.pid}", f"{host[:_LONGEST_HOST]}-{beat.pid}")
    return any(instance == mark or instance.startswith(f"{mark}-") for mark in marks)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")


def read_process(pid: int, program: str, proc: Path = Path("/proc")) -> Process:
    """Return what is known of a process that should run this program."""
    folder = proc / str(pid)
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
        # The program's name may hold brackets and spaces; what follows the last bracket does not.
        state = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return Process(pid=pid, trouble="is not there")
    if state in _STATES:
        return Process(pid=pid, trouble=_STATES[state])
    if not any(program.encode() in word for word in words):
        return Process(pid=pid, trouble=f"is another program: {words[0].decode('utf-8', 'replace')[:80]}")
    return Process(pid=pid, settings=_settings_of(folder))


def _settings_of(folder: Path) -> dict[str, str]:
    try:
        pairs = [pair.partition(b"=") for pair in (folder / "environ").read_bytes().split(b"\0")]
        start = os.readlink(folder / "cwd")
    except OSError:
        return {}
    found = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if value}
    known = {name: value for name, value in found.items() if name in _READ}
    places = {name: os.path.join(start, value) for name, value in known.items() if name.endswith(("_DIR", "_CONFIG"))}
    return known | places
