"""The HTTP server of a service: a uvicorn that does not tick, in the service's own process and loop."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from service_kit.findings import Finding

_LONGEST_MESSAGE: Final = 65_536
"""Bytes of one message from a client over a WebSocket."""


class AddressUnavailable(Exception):
    """The address cannot be listened on; the text is one sentence for a person."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 means any free one.

    Raises:
        AddressUnavailable: the address is in use or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise AddressUnavailable(
            f"HTTP_HOST {host!r} with HTTP_PORT {port} cannot be listened on: {reason}; "
            "choose another port (0 takes any free one)."
        ) from error
    # Accepted sockets inherit it. asyncio sets it by itself, but not on a socket that does not say its protocol: then
    # the second half of each answer waits 40 ms for the client's acknowledgement of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def answer_findings(findings: Iterable[Finding]) -> Response:
    """Return one line a part, with status 200 when all are well, else 503."""
    told = list(findings)
    text = "\n".join(str(finding) for finding in told) + "\n"
    well = all(finding.well for finding in told)
    return PlainTextResponse(text.encode("utf-8", "backslashreplace"), status_code=200 if well else 503)


class QuietServer(uvicorn.Server):
    """A uvicorn that does not tick: its own main loop wakes ten times a second, this one only to end."""

    def __init__(self, app: FastAPI, *, websockets: bool = False) -> None:
        """Serve `app`; WebSockets cost their library's memory, so they are served only where they are wanted."""
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                date_header=False,
                # Nothing here goes by the client's address, and whoever claims another one need not be believed.
                proxy_headers=False,
                server_header=False,
                ws="websockets-sansio" if websockets else "none",
                ws_max_size=_LONGEST_MESSAGE,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._stop = anyio.Event()

    async def main_loop(self) -> None:
        """Serve until `stop`."""
        await self._stop.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the entry point."""
        yield

    def stop(self) -> None:
        """Let `serve` end."""
        self.should_exit = True
        self._stop.set()


async def serve(server: QuietServer, listener: socket.socket, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
    """Serve on the socket; reports itself started at once, since the socket queues early callers."""
    task_status.started()
    await server.serve(sockets=[listener])
