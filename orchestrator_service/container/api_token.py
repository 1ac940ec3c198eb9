"""The API token that an orchestrator in a container makes for itself, since it listens to more than its own machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from orchestrator_service.container.refusal import Refused

FILE_NAME: Final = "api-token"
_GIVEN: Final = ("API_TOKEN", "API_TOKEN_FILE", "API_TOKENS", "API_TOKENS_FILE")
_BYTES: Final = 32


def given_tokens(environ: Mapping[str, str]) -> list[str]:
    """Return the variables by which somebody has chosen tokens; then none is made."""
    return [variable for variable in _GIVEN if environ.get(variable)]


def need_token(directory: Path) -> Path:
    """Return the file of the token in that directory; it is made at the first start, for its owner alone.

    Raises:
        Refused: it cannot be made or read.
    """
    path = directory / FILE_NAME
    try:
        if not _has_content(path):
            _make(path)
    except OSError as error:
        raise Refused(
            f"the API token {path} cannot be made or read by user {os.geteuid()} ({error.strerror or error}); chown "
            "it, or give a token in API_TOKEN_FILE."
        ) from error
    return path


def find_token(directory: Path) -> Path | None:
    """Return the file of the token if this process may read one; none is made."""
    path = directory / FILE_NAME
    with suppress(OSError):
        if _has_content(path):
            return path
    return None


def _has_content(path: Path) -> bool:
    try:
        return bool(path.read_bytes().strip())
    except FileNotFoundError:
        return False


def _make(path: Path) -> None:
    # Loaded for the one start that makes it.
    import secrets

    staged = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    room = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Of two that start at once one makes it, and both use it. Closing the directory lets go of the lock.
        fcntl.flock(room, fcntl.LOCK_EX)
        if _has_content(path):
            return
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{secrets.token_urlsafe(_BYTES)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        os.fsync(room)
    finally:
        staged.unlink(missing_ok=True)
        os.close(room)
