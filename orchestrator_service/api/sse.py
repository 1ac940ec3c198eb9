"""Server-sent events: one client, one stream of the desk, at the pace at which the client reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import anyio
from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator_service.api.problems import ProblemKind, RequestRefused, as_refusal, problem
from orchestrator_service.errors import OrchestratorError
from orchestrator_service.records import StreamEvent

log = logging.getLogger(__name__)

_PACE_S: Final = 0.00025
"""A stream sends at most once in this time for each stream that is open, and what comes meanwhile goes together: so
hundreds of them, on a busy team, take their share of a processor and no more. Alone a stream waits for nothing."""
_MOST_UNSENT_BYTES: Final = 262_144
HEARTBEAT_S: Final = 15.0
"""A comment is sent when nothing else was for so long, so that proxies keep the connection."""
_PATIENCE_S: Final = 0.1
"""So long a refusal of the desk may take and still become a status; later ones become an event `problem`."""
_LAST_WORD_S: Final = 0.5
"""So long a client that does not read may hold up the end of its stream."""
LAST_EVENT_ID: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The `id` of the last event that was seen: goes on behind it.",
    "schema": {"type": "string", "maxLength": 200},
}
"""How the OpenAPI document describes the header."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Streams:
    """Opens streams, and ends all of them when the service stops."""

    def __init__(self, closing: anyio.Event, clients: Gauge, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._closing, self._clients, self._heartbeat_s = closing, clients, heartbeat_s
        self._open = 0

    def pause_s(self) -> float:
        """Return for how long a stream that has just sent leaves the line to the others."""
        return _PACE_S * (self._open - 1)

    def opened(self) -> None:
        """Count a stream that begins."""
        self._open += 1
        self._clients.inc()

    def closed(self) -> None:
        """Count a stream that has ended."""
        self._open -= 1
        self._clients.dec()

    async def open(self, events: AsyncIterator[StreamEvent], *, resumed: bool) -> Response:
        """Return the answer that sends what `events` gives.

        The iterator is closed whatever happens.

        Args:
            events: What is sent.
            resumed: Whether the client was here before; then a stream that has nothing more is answered with 204, which
                tells a browser not to come again.

        Raises:
            OrchestratorError: the desk refuses.
        """
        first = asyncio.ensure_future(anext(events, None))
        try:
            done, _ = await asyncio.wait((first,), timeout=_PATIENCE_S)
            if done and first.result() is None and resumed:
                await close(events)
                return Response(status_code=204, headers=_HEADERS)
        except BaseException:
            first.cancel()
            await asyncio.wait((first,))
            await close(events)
            raise
        return _EventStream(events, first, self, self._closing, self._heartbeat_s)


def position(request: Request) -> str | None:
    """Return behind which event the client wants to go on: its `Last-Event-ID`, else its `after`."""
    given = request.headers.get("last-event-id") or request.query_params.get("after")
    return given or None


def frame(event: StreamEvent) -> bytes:
    """Return an event as it goes over the line."""
    if event.framed is None:
        event.framed = _frame(event)
    return event.framed


def _frame(event: StreamEvent) -> bytes:
    data = event.data.replace(b"\r", b"").replace(b"\n", b"\ndata: ") if b"\n" in event.data else event.data
    head = f"id: {event.id}\nevent: {event.event}\n" if event.id else f"event: {event.event}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


class _EventStream(Response):
    def __init__(
        self,
        events: AsyncIterator[StreamEvent],
        first: asyncio.Future[StreamEvent | None],
        streams: Streams,
        closing: anyio.Event,
        heartbeat_s: float,
    ) -> None:
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events, self._first = events, first
        self._streams, self._closing, self._heartbeat_s = streams, closing, heartbeat_s
        self._sent_at = 0.0
        self._unsent = bytearray()
        self._at_end = False
        self._news, self._room = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["codehornets.stream"] = True
        self._streams.opened()
        parts: list[asyncio.Future[None]] = []
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(send, b"retry: 1000\n\n")
            parts = [
                asyncio.ensure_future(part)
                for part in (self._pump(send), _until_gone(receive), self._until_closing(), self._beat(send))
            ]
            ends = list(parts)
            parts.append(asyncio.ensure_future(self._collect(scope)))
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            self._streams.closed()
            open_parts: list[asyncio.Future[Any]] = [*parts, self._first]
            for one in open_parts:
                one.cancel()
            await asyncio.gather(*open_parts, return_exceptions=True)
            await close(self._events)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, body: bytes) -> None:
        # Waits until the client has taken what came before: the one place where it may fall behind is the desk's.
        self._sent_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _collect(self, scope: Scope) -> None:
        """Put what comes together, as long as there is room for it."""
        try:
            event = await self._first
            while event is not None:
                self._unsent += frame(event)
                self._news.set()
                while len(self._unsent) > _MOST_UNSENT_BYTES:
                    self._room.clear()
                    await self._room.wait()
                event = await anext(self._events, None)
        except OrchestratorError as error:
            self._unsent += _problem_frame(as_refusal(error, asked=True), scope["path"])
        except Exception:
            log.exception("A stream broke: %s", scope["path"][:200], extra={"action": "stream_failed"})
            refusal = RequestRefused(ProblemKind.INTERNAL, "The stream broke; the orchestrator's log says why.")
            self._unsent += _problem_frame(refusal, scope["path"])
        self._at_end = True
        self._news.set()

    async def _pump(self, send: Send) -> None:
        """Send what is there, at the client's pace; returns when all is sent and nothing more comes."""
        while True:
            await self._news.wait()
            self._news.clear()
            at_end = self._at_end
            if self._unsent:
                body = bytes(self._unsent)
                self._unsent.clear()
                self._room.set()
                await self._send(send, body)
            if at_end:
                return
            if (pause_s := self._streams.pause_s()) > 0:
                await asyncio.sleep(pause_s)

    async def _until_closing(self) -> None:
        await self._closing.wait()

    async def _beat(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            rest = self._sent_at + self._heartbeat_s - clock()
            if rest > 0:
                await asyncio.sleep(rest)
            else:
                await self._send(send, b":\n\n")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def close(events: AsyncIterator[StreamEvent]) -> None:
    """End an iterator of events, whatever it waits for."""
    aclose = getattr(events, "aclose", None)
    if aclose is not None:
        await aclose()


def _problem_frame(refusal: RequestRefused, path: str) -> bytes:
    told = problem(refusal, path).model_dump_json().encode()
    return b"event: problem\ndata: %b\n\n" % told
