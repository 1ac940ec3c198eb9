"""What processes of a test run share with each other, and with other runs of the same user: the machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def lock_path(name: str) -> Path:
    """Return where a lock of this user is."""
    return Path(tempfile.gettempdir()) / f"codehornets-tests-{os.geteuid()}-{name}.lock"


@contextmanager
def machine_lock(name: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock of this user on this machine; it ends with its process, whatever becomes of that."""
    descriptor = os.open(lock_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(*, alone: bool, house: str = "machine") -> Iterator[None]:
    """Run beside others, or alone: once those that run have ended, and before any other begins."""
    with ExitStack() as held:
        # Whoever waits to be alone stands in the door, so that a stream of others cannot keep it waiting.
        with machine_lock(f"{house}-door"):
            held.enter_context(machine_lock(f"{house}-inside", shared=not alone))
        yield
