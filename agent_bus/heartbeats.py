"""Heartbeat files: written by workers, read by whoever wants to know how they are."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from agent_bus.files import write_atomic
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now

MISSED_BEATS: float = 3.0
"""After this many intervals without a new heartbeat a worker counts as silent."""


def write_heartbeat(path: Path, heartbeat: Heartbeat) -> None:
    """Replace the heartbeat file at once and whole.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, heartbeat.model_dump_json().encode())


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Return the heartbeat, or None when there is none or it cannot be understood."""
    try:
        return Heartbeat.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_heartbeats(directory: Path) -> list[Heartbeat]:
    """Return every readable heartbeat below `directory`, by worker name."""
    beats = (read_heartbeat(path) for path in directory.glob("*-watcher.json"))
    return sorted((beat for beat in beats if beat is not None), key=lambda beat: beat.worker)


def age_seconds(heartbeat: Heartbeat) -> float:
    """Return the seconds since the heartbeat was written, by this machine's clock."""
    return (utc_now() - heartbeat.timestamp).total_seconds()


def is_alive(heartbeat: Heartbeat) -> bool:
    """Tell whether the heartbeat is fresh and not the last one of a worker that stopped."""
    fresh = age_seconds(heartbeat) <= MISSED_BEATS * heartbeat.interval_seconds
    return fresh and heartbeat.status is not WorkerStatus.STOPPED
