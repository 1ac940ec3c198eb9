"""Answers that wait for something: they end when the client leaves or the service stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from orchestrator_service.api.problems import RETRY_AFTER_S, ProblemKind, RequestRefused

T = TypeVar("T")


async def wait_for(work: Coroutine[Any, Any, T], request: Request, closing: anyio.Event) -> T:
    """Return what `work` returns.

    Raises:
        RequestRefused: the service stops.
        ClientDisconnect: the client left.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    stopping = asyncio.ensure_future(closing.wait())
    parts: tuple[asyncio.Future[Any], ...] = (working, gone, stopping)
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if gone.done():
            gone.result()
            raise ClientDisconnect
        raise RequestRefused(
            ProblemKind.STOPPING,
            "The orchestrator is stopping; ask again in a moment.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
