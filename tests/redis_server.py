"""A real Redis for the tests: on a free loopback port, with the options a test asks for, and ended with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from tests.ports import free_port
from tests.system_packages import find_program

START_S = 10.0


def redis_program() -> str:
    """Return the path of redis-server."""
    program = find_program("redis-server", "redis-server")
    if program is None:
        raise AssertionError(
            "redis-server is not on the PATH; install it (on Debian and Ubuntu: apt install redis-server)"
        )
    return program


class RedisServer:
    """One server process; `kill`, `restart`, `pause` and `resume` do to it what an operator or a crash would."""

    def __init__(self, folder: Path, *options: str, password: str | None = None, durable: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = password
        self._options = list(options)
        self._options += ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        if password is not None:
            self._options += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        """Return a client of the test's own."""
        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password, socket_timeout=5, protocol=2)

    def start(self) -> None:
        command = [redis_program(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        command += ["--save", "", "--daemonize", "no", *self._options]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "redis.log").read_text(errors="replace")
                self.kill()
                raise AssertionError(f"redis-server did not start:\n{text[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it without closing its connections: it neither answers nor refuses."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        # An error is an answer, too: it may want TLS or a password.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
            return answer.startswith(b"+PONG") or b"NOAUTH" in answer
        return False


@contextmanager
def running_redis(
    folder: Path, *options: str, password: str | None = None, durable: bool = False
) -> Iterator[RedisServer]:
    """Start a server and end it with the block."""
    server = RedisServer(folder, *options, password=password, durable=durable)
    server.start()
    try:
        yield server
    finally:
        server.kill()
