"""The directories and pipes that a service needs: made where they are missing, and really tried before it starts."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent_bus.layout import WorkerLayout
from agent_bus.pipes import make_pipe
from orchestrator_service.container.refusal import Refused
from orchestrator_service.team import Team
from service_kit.places import USUAL_SHARED_DIR, has_shared_directory


def choose_shared(environ: Mapping[str, str], team: Team | None) -> Path | None:
    """Return the shared directory: SHARED_DIR, else the team's, else /shared; None for a worker on Redis alone."""
    if given := environ.get("SHARED_DIR"):
        return Path(given).absolute()
    if team is not None and team.shared_dir is not None:
        return team.shared_dir
    has_redis = bool(environ.get("REDIS_URL") or environ.get("REDIS_URL_FILE"))
    if has_redis and not has_shared_directory(environ):
        return None
    return USUAL_SHARED_DIR


def make_places(layout: WorkerLayout, name: str, *, pipes: bool) -> None:
    """Make every directory of a worker, and its pipes where it has them.

    Raises:
        Refused: a directory cannot be made or written to.
        agent_bus.pipes.PipeUnavailable: a pipe cannot be made.
    """
    need_directory(layout.shared)
    for directory in (
        *(layout.triggers, layout.tasks, layout.results, layout.heartbeats, layout.logs, layout.events, layout.gates),
        *(layout.orchestrator_triggers, layout.released, layout.sessions, layout.dead_letters, layout.inflight),
    ):
        need_directory(directory)
    # Rules may be mounted for reading only, and pipes matter to those alone who have some.
    for directory in (layout.hooks_config, layout.pipes):
        _make(directory)
    if pipes:
        make_pipe(layout.control_pipe(name))
        make_pipe(layout.status_pipe(name))


def need_directory(path: Path) -> None:
    """Make the directory where it is missing, and make sure that files can be written there.

    Raises:
        Refused: one of the two cannot be done.
    """
    _make(path)
    # Neither the mode nor the owner tells: what counts is the mount, the quota and the room that is left.
    trial = path / f".writable-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused(_sentence(path, error)) from error
    finally:
        with suppress(OSError):
            trial.unlink()


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(_sentence(path, error)) from error


def _sentence(path: Path, error: OSError) -> str:
    user = os.geteuid()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} is full ({error.strerror}); make room there."
    if error.errno == errno.EROFS:
        return f"{path} is on a read-only file system; mount a volume there."
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{path} is not a directory and cannot become one; mount a volume there."
    if error.errno not in (errno.EACCES, errno.EPERM):
        return f"{path} cannot be used ({error.strerror or error}); mount a volume there."
    place = _nearest(path)
    owner = _owner(place)
    if place != path:
        return (
            f"{path} cannot be made by user {user} ({place} belongs to {owner}); chown {place}, or mount a volume at "
            f"{path} that user {user} may write to."
        )
    return (
        f"{path} is not writable by user {user} (it belongs to {owner}); chown it, or mount a volume there that user "
        f"{user} may write to."
    )


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest of its parents that is there for this process."""
    for place in (path, *path.parents):
        with suppress(OSError):
            place.stat()
            return place
    return path


def _owner(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "somebody else"
    mine = f", mode {status.st_mode & 0o7777:04o}" if status.st_uid == os.geteuid() else ""
    return f"user {status.st_uid}{mine}"
