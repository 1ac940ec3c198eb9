"""The live channel: one WebSocket a page, over which come the team's events and those of the task that is looked at.

A browser allows six event streams of HTTP/1.1 to a host, over all its tabs; a WebSocket is not counted among them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs

import anyio
from starlette.types import Message, Receive, Scope, Send

from agent_bus import VERSION
from orchestrator_service.api.problems import as_refusal
from orchestrator_service.api.sse import Streams, close
from orchestrator_service.desk import Desk
from orchestrator_service.errors import OrchestratorError
from orchestrator_service.records import StreamEvent

log = logging.getLogger(__name__)

LIVE: Final = "/api/v1/live"
GOING_AWAY: Final = 1001
SESSION_OVER: Final = 4401
"""The session has ended: log in again."""
_MOST_IN_BATCH: Final = 200
_MOST_BYTES: Final = 65_536
_LONGEST_WISH: Final = 2048
"""Characters of a message from the page."""
_PACE_S: Final = 0.02
"""A page is sent at most fifty messages a second: what comes meanwhile goes together."""


class LiveChannel:
    """One page. Nothing is queued for it but one batch: who reads slowly is told later, from the ledger."""

    def __init__(self, desk: Desk, scope: Scope, receive: Receive, send: Send) -> None:
        self._desk, self._scope, self._receive, self._send = desk, scope, receive, send
        self._watched: asyncio.Task[None] | None = None
        self._line = asyncio.Lock()

    async def serve(self, over: Callable[[], Awaitable[int]]) -> None:
        """Serve it until the page goes, or `over` returns the code with which it is to end."""
        if (await self._receive())["type"] != "websocket.connect":
            return
        await self._send({"type": "websocket.accept"})
        query = parse_qs(self._scope.get("query_string", b"").decode("latin-1"))
        after = (query.get("after") or [self._desk.position()])[0][:64]
        # Said first: a page that loses its line before the first event knows from where to go on.
        await self._tell({"type": "hello", "at": after, "version": VERSION})
        parts = [
            asyncio.ensure_future(self._team(after)),
            asyncio.ensure_future(self._listen()),
            asyncio.ensure_future(over()),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            code = parts[2].result() if parts[2].done() else GOING_AWAY
        finally:
            open_parts = [*parts, *([] if self._watched is None else [self._watched])]
            for part in open_parts:
                part.cancel()
            for ended in await asyncio.gather(*open_parts, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, OSError):
                    log.error("a live channel broke", exc_info=ended, extra={"action": "live_failed"})
        if not parts[1].done() or parts[1].cancelled():
            with suppress(OSError, RuntimeError):
                await self._send({"type": "websocket.close", "code": code})

    async def _team(self, after: str) -> None:
        await self._forward(self._desk.events(after), {"type": "events"})

    async def _listen(self) -> None:
        """Do what the page asks for, until it goes."""
        while (message := await self._receive())["type"] != "websocket.disconnect":
            wish = _wish(message)
            if "watch" not in wish:
                continue
            if self._watched is not None:
                self._watched.cancel()
                await asyncio.gather(self._watched, return_exceptions=True)
                self._watched = None
            task_id, position = wish["watch"], wish.get("after")
            if isinstance(task_id, str) and task_id:
                position = position if isinstance(position, str) else None
                self._watched = asyncio.ensure_future(self._watch(task_id, position))

    async def _watch(self, task_id: str, after: str | None) -> None:
        events = self._desk.task_events(task_id, after, follow=True)
        with suppress(OSError):
            await self._forward(events, {"type": "task", "task_id": task_id})
            await self._tell({"type": "task_end", "task_id": task_id})

    async def _forward(self, events: AsyncIterator[StreamEvent], head: dict[str, str]) -> None:
        """Send events, together where they come together, at the pace at which the page takes them."""
        prefix = json.dumps(head)[:-1].encode() + b',"events":['
        following: asyncio.Future[StreamEvent | None] = asyncio.ensure_future(anext(events, None))
        try:
            while (event := await following) is not None:
                batch, size, ended = [_told(event)], len(event.data), False
                # A moment's patience gathers what is there already; the first event of a quiet hour waits for nothing.
                while len(batch) < _MOST_IN_BATCH and size < _MOST_BYTES:
                    following = asyncio.ensure_future(anext(events, None))
                    await asyncio.sleep(0)
                    if not following.done():
                        break
                    if (event := following.result()) is None:
                        ended = True
                        break
                    batch.append(_told(event))
                    size += len(event.data)
                else:
                    following = asyncio.ensure_future(anext(events, None))
                await self._send_text(prefix + b",".join(batch) + b"]}")
                if ended:
                    return
                await asyncio.sleep(_PACE_S)
        except OrchestratorError as error:
            refusal = as_refusal(error, asked=True)
            await self._tell({**head, "type": "problem", "problem": refusal.kind.slug, "detail": refusal.detail})
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await close(events)

    async def _tell(self, message: dict[str, Any]) -> None:
        await self._send_text(json.dumps(message).encode())

    async def _send_text(self, text: bytes) -> None:
        async with self._line:
            await self._send({"type": "websocket.send", "text": text.decode("utf-8", "replace")})


def until_over(closing: anyio.Event, left_s: float | None, ended: asyncio.Event | None) -> Callable[[], Awaitable[int]]:
    """Return what waits until the service stops (1001), or until a session is over (4401)."""

    async def over() -> int:
        stops = asyncio.ensure_future(closing.wait())
        leaves = asyncio.ensure_future((ended or asyncio.Event()).wait())
        try:
            await asyncio.wait((stops, leaves), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            return GOING_AWAY if stops.done() else SESSION_OVER
        finally:
            stops.cancel()
            leaves.cancel()
            await asyncio.gather(stops, leaves, return_exceptions=True)

    return over


class LiveServer:
    """Opens live channels, and counts them among the streams."""

    def __init__(self, desk: Desk, streams: Streams, closing: anyio.Event) -> None:
        self._desk, self._streams, self._closing = desk, streams, closing

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, left_s: float | None, ended: asyncio.Event | None
    ) -> None:
        """Serve one page; its session is good for `left_s` seconds more, or until `ended`."""
        self._streams.opened()
        try:
            await LiveChannel(self._desk, scope, receive, send).serve(until_over(self._closing, left_s, ended))
        finally:
            self._streams.closed()


def _told(event: StreamEvent) -> bytes:
    return b'{"id":%b,"event":%b,"data":%b}' % (
        json.dumps(event.id).encode(),
        json.dumps(event.event).encode(),
        event.data,
    )


def _wish(message: Message) -> dict[str, Any]:
    text = message.get("text")
    if not isinstance(text, str) or len(text) > _LONGEST_WISH:
        return {}
    try:
        wish = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return wish if isinstance(wish, dict) else {}
