"""The HTTP API over httpx: the questions of `calls`, and streams that are taken up again where they broke off."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, TypeVar

import anyio
import httpx

from orchestrator_service.client.calls import PREFIX, ApiAway, ApiPlace, ApiRefused, Call, away, refuse, understand
from orchestrator_service.records import StreamEvent

T = TypeVar("T")

_CONNECT_S: Final = 5.0
_SILENT_S: Final = 45.0
"""The server says something every 15 s: whoever is silent for longer is gone."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_LONGEST_LINE: Final = 64 * 1024 * 1024


class ApiClient:
    """One API, with its connections kept open; an async context manager."""

    def __init__(self, place: ApiPlace) -> None:
        self.place = place
        self._http = httpx.AsyncClient(
            headers=place.headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            # A proxy in the environment is for the web, not for the machine itself.
            trust_env=False,
        )

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def _url(self, target: str) -> str:
        return self.place.url.rstrip("/") + target

    async def ask(self, call: Call[T]) -> T:
        """Ask, and return the answer.

        Raises:
            ApiAway: nobody answers there.
            ApiRefused: the orchestrator said no.
        """
        timeout = httpx.Timeout(call.timeout_s, connect=_CONNECT_S)
        try:
            answer = await self._http.request(
                call.method, self._url(call.target), content=call.body, headers=call.all_headers, timeout=timeout
            )
        except (httpx.HTTPError, OSError) as error:
            raise away(
                self.place, error, sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            ) from None
        kind = answer.headers.get("Content-Type", "")
        return understand(self.place, call, answer.status_code, kind, answer.content)

    async def stream(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        after: str | None = None,
        endless: bool = False,
        on_lost: Callable[[ApiAway], None] = lambda error: None,
        on_open: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[StreamEvent]:
        """Yield server-sent events until the server ends the stream in order; a broken one is taken up again.

        Args:
            path: Behind `/api/v1`.
            query: As the endpoint has it.
            after: The `id` of the last event that was seen.
            endless: Whether the stream has no end of its own: then one comes from a server that stops.
            on_lost: Told when the connection is lost; it is tried again for as long as this does not raise.
            on_open: Told whenever the server has answered.

        Raises:
            ApiAway: nobody has answered at all.
            ApiRefused: the orchestrator said no.
        """
        answered, pause_s = False, _FIRST_PAUSE_S
        position = after

        def opened() -> None:
            nonlocal answered, pause_s
            answered, pause_s = True, _FIRST_PAUSE_S
            on_open()

        while True:
            try:
                async with aclosing(self._stream_once(path, query, position, opened)) as events:
                    async for event in events:
                        position = event.id or position
                        yield event
                if not endless:
                    return
                raise ApiAway(f"The API at {self.place.url} has ended the stream ({self.place.source} names it)")
            except ApiAway as error:
                if not answered:
                    raise
                on_lost(error)
            except ApiRefused as refusal:
                if not answered or not refusal.passes:
                    raise
                on_lost(ApiAway(str(refusal)))
            await anyio.sleep(random.uniform(pause_s / 2, pause_s))
            self.place = self.place.now()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _stream_once(
        self, path: str, query: Sequence[tuple[str, str]], after: str | None, on_open: Callable[[], None]
    ) -> AsyncGenerator[StreamEvent]:
        headers = {"Accept": "text/event-stream", **({} if after is None else {"Last-Event-ID": after})}
        timeout = httpx.Timeout(_SILENT_S, connect=_CONNECT_S)
        try:
            async with self._http.stream(
                "GET", self._url(PREFIX + path), params=list(query), headers=headers, timeout=timeout
            ) as answer:
                kind = answer.headers.get("Content-Type", "")
                if answer.status_code == httpx.codes.NO_CONTENT:
                    on_open()
                    return
                if answer.status_code != httpx.codes.OK or "text/event-stream" not in kind:
                    refuse(self.place, answer.status_code, kind, await answer.aread())
                on_open()
                async with aclosing(_events(answer.aiter_bytes())) as events:
                    async for event in events:
                        yield event
        except (httpx.HTTPError, OSError) as error:
            raise away(self.place, error, sent=False) from None


async def _events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[StreamEvent]:
    """Yield the events of a stream, as the HTML standard reads it (with the line ends that our server writes)."""
    pending = b""
    position, name, data = "", "message", list[bytes]()
    async for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > _LONGEST_LINE:
            raise httpx.StreamError("an event is longer than can be taken")
        for line in lines:
            field, _, value = line.removesuffix(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if not field and not value:
                if data and name == "problem":
                    raise httpx.StreamError("the orchestrator has broken it off")
                if data:
                    yield StreamEvent(id=position, event=name, data=b"\n".join(data))
                position, name, data = "", "message", []
            elif field == b"data":
                data.append(value)
            elif field == b"event":
                name = value.decode("utf-8", "replace")
            elif field == b"id":
                position = value.decode("utf-8", "replace")
