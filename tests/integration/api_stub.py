"""A small HTTP server for the tests of the client: real sockets, answers as the test wants them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from agent_bus.heartbeats import write_heartbeat
from agent_bus.messages import Heartbeat, utc_now


@dataclass
class Asked:
    """One request that came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Stub:
    """Answers by `(method, path)`; remembers what it was asked."""

    answers: dict[tuple[str, str], Callable[[Asked, Any], None]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, content: object, status: int = 200) -> None:
        """Answer with JSON, a problem document where the status says so."""
        kind = "application/problem+json" if status >= 400 else "application/json"
        self.answers[(method, path)] = lambda asked, handler: send(handler, status, kind, json.dumps(content).encode())

    def stream(self, path: str, *parts: bytes) -> None:
        """Answer each further request with the next part of an event stream; the connection breaks after it."""
        left = list(parts)

        def give(asked: Asked, handler: Any) -> None:
            if not left:
                return
            part = left.pop(0)
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
            # The length promises more than comes unless this is the last part.
            handler.send_header("Content-Length", str(len(part) + (10 if left else 0)))
            handler.end_headers()
            handler.wfile.write(part)

        self.answers[("GET", path)] = give

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]


def send(handler: Any, status: int, kind: str, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def running_stub() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(
                self.command,
                parts.path.removeprefix("/api/v1"),
                parse_qs(parts.query),
                dict(self.headers.items()),
                json.loads(body) if body else None,
            )
            stub.asked.append(asked)
            self.close_connection = True
            answer = stub.answers.get((asked.method, asked.path))
            if answer is None:
                problem = {"status": 404, "title": "Not found", "detail": f"There is nothing at {asked.path}."}
                send(self, 404, "application/problem+json", json.dumps(problem).encode())
            else:
                answer(asked, self)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tell_of(shared: Path, port: int, **changes: object) -> None:
    """Leave the heartbeat of an orchestrator."""
    fields = {
        "worker": "orchestrator",
        "instance": "host-1-a",
        "component": "orchestrator",
        "timestamp": utc_now(),
        "status": "idle",
        "mode": "api",
        "pid": 1,
        "http_port": port,
        "version": "1",
        **changes,
    }
    path = shared / "heartbeats" / "orchestrator.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_heartbeat(path, Heartbeat.model_validate(fields))
