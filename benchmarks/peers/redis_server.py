"""A Redis server for one run of the bench: loopback only, nothing written to disk."""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .processes import PeerError, open_process

START_S = 10.0
"""Seconds the server may take until it answers a PING."""


@contextmanager
def open_redis() -> Iterator[str]:
    """Start redis-server on a free loopback port in a temporary folder and yield its URL once it answers.

    Raises PeerError if there is no redis-server or if it does not answer within START_S.
    """
    if (program := shutil.which("redis-server")) is None:
        raise PeerError("redis-server is not on the PATH, so no peer can be measured.")
    with tempfile.TemporaryDirectory(prefix="peer-redis-") as folder:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        with open_process(command, Path(folder) / "redis.log") as server:
            deadline = time.monotonic() + START_S
            while not _answers(port):
                server.check()
                if time.monotonic() > deadline:
                    raise PeerError(f"redis-server did not answer within {START_S:.0f} s.")
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(7) == b"+PONG\r\n"
    return False
