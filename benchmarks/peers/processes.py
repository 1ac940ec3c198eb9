"""Child processes that never outlive the bench."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

STOP_S = 5.0
"""Seconds a process may use to end after SIGTERM before its whole group gets SIGKILL."""


class PeerError(Exception):
    """A peer, or the Redis server, cannot be measured; the message is one sentence for the user."""


@dataclass(frozen=True)
class Child:
    """A process with the file that its output goes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise PeerError, with the last line it printed, if the process has ended."""
        if (status := self.process.poll()) is not None:
            last = (self.log.read_text(errors="replace").strip() or "no output").splitlines()[-1]
            raise PeerError(f"A process ended early with status {status}: {last}")


@contextmanager
def open_process(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run ``command`` in a session of its own; on leaving, end it and all its children within twice STOP_S."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield Child(process, log)
    finally:
        # A second Ctrl-C must not cut the clean-up short; it is delivered afterwards.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(STOP_S)
            with suppress(ProcessLookupError):  # children that outlived the leader keep the group alive
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
