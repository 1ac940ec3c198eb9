"""Ports that nobody else takes between the choice and the use."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

_KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_AMONG = 12_000


def free_port() -> int:
    """Return a loopback port that nobody listens on now, and that the kernel gives to no connection."""
    first_own = int(_KERNELS_OWN.read_text().split()[0])
    for _ in range(100):
        # Not the kernel's choice: what it gave away once, it may give again at once to a connection of another test.
        port = first_own - 1 - secrets.randbelow(_AMONG) if first_own > 1024 + _AMONG else 0
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            found: int = listener.getsockname()[1]
            return found
    raise AssertionError("no free port was found below those of the kernel")
