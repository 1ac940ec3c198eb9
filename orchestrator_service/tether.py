"""Run a command that does not outlive its starter: `python tether.py STARTER_PID COMMAND …`.

The kernel is asked to send SIGTERM when the starter dies (PR_SET_PDEATHSIG), in whatever way, `kill -9` included; then
the command takes this process's place and keeps that wish and the process id. It is a program of its own because
code between fork and exec (`preexec_fn`) is not safe in a process with threads. Needs the standard library alone.

The wish is tied to the starter's thread: start it from one that lives as long as the process, such as the main one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Tie this process to its starter and become the command; never returns."""
    starter = int(sys.argv[1])
    # Failure means no Linux: the command still runs, and ends with its starter wherever that ends in order.
    getattr(ctypes.CDLL(None), "prctl", lambda *_: -1)(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != starter:
        # It died before the wish was heard.
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
