"""Clients of the API in a process of their own: what they cost is not counted as the orchestrator's.

`python -m benchmarks.api_clients post PORT CLIENTS TASKS PREFIX` hands in tasks, each client one after the other, and
prints what it took as JSON. `… listen PORT CLIENTS DEAF RECORD PREFIX TASKS EVENT` follows the team, prints `ready`
when all follow, and notes when each client sees EVENT of task PREFIX-N: client C in slot C × TASKS + N of the record.
DEAF further ones never read. It ends by SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.orchestrator_rig import API, length_of, request
from benchmarks.peers.record import Record
from benchmarks.rig import WORKER

HOST = "127.0.0.1"
GAP_S = (0.004, 0.006)
_WITHIN_S = 60.0
_DEAF_BYTES = 4096


async def _post(port: int, clients: int, tasks: int, prefix: str) -> None:
    numbers = iter(range(tasks))
    samples_ms: list[float] = []
    began_ns = time.monotonic_ns()
    gaps = random.Random(1)

    async def post_some() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        for number in numbers:
            order = {"task_id": f"{prefix}-{number}", "description": "no work", "worker": WORKER}
            message = request("POST", f"{API}/tasks", order)
            sent_ns = time.monotonic_ns()
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(length_of(head))
            samples_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
            if clients == 1:
                await asyncio.sleep(gaps.uniform(*GAP_S))
        writer.close()

    await asyncio.gather(*(post_some() for _ in range(clients)))
    print(json.dumps({"seconds": (time.monotonic_ns() - began_ns) / 1e9, "samples_ms": samples_ms}))


class _Follower(asyncio.Protocol):
    """One client that reads."""

    def __init__(self, pattern: re.Pattern[bytes], note: Callable[[int, int], None]) -> None:
        self._pattern, self._note = pattern, note
        self._rest = b""
        self.follows = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(request("GET", f"{API}/events"))

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self.follows.done() and b"retry:" in self._rest + data:
            self.follows.set_result(None)
        whole, separator, self._rest = (self._rest + data).rpartition(b"\n\n")
        if separator:
            for match in self._pattern.finditer(whole):
                self._note(int(match[1]), now_ns)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.follows.done():
            self.follows.set_exception(RuntimeError("The orchestrator closed a stream."))


def _open_deaf(port: int) -> socket.socket:
    deaf = socket.socket()
    # Little room on the way, so that the orchestrator is the one who has to wait.
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DEAF_BYTES)
    deaf.connect((HOST, port))
    deaf.sendall(request("GET", f"{API}/events"))
    return deaf


async def _listen(port: int, clients: int, deaf: int, path: Path, prefix: str, tasks: int, event: str) -> None:
    record = Record(path)
    pattern = re.compile(rb'event: %b\r?\ndata: [^\n]*?"task_id":"%b-(\d+)"' % (event.encode(), prefix.encode()))
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    silent = [_open_deaf(port) for _ in range(deaf)]
    followers: list[_Follower] = []
    for client in range(clients):

        def note(number: int, now_ns: int, first: int = client * tasks) -> None:
            record.write(first + number, 0, now_ns)

        follower = _Follower(pattern, note)
        followers.append(follower)
        await loop.create_connection(lambda follower=follower: follower, HOST, port)  # type: ignore[misc]
    async with asyncio.timeout(_WITHIN_S):
        await asyncio.gather(*(follower.follows for follower in followers))
    print("ready", flush=True)
    await ended.wait()
    for connection in silent:
        connection.close()


def main() -> None:
    """Do what the arguments say."""
    what, port, clients, *rest = sys.argv[1:]
    if what == "post":
        asyncio.run(_post(int(port), int(clients), int(rest[0]), rest[1]))
    else:
        deaf, path, prefix, tasks, event = rest
        asyncio.run(_listen(int(port), int(clients), int(deaf), Path(path), prefix, int(tasks), event))


if __name__ == "__main__":
    main()
