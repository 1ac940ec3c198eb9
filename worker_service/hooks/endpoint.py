"""`POST /hooks/{event}`: for Claude sessions outside the pool whose http hooks report here.

The pool's own sessions do not use it, so its token is in no environment of theirs.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from agent_bus.hooks.events import HOOKS, HookPayloadError
from worker_service.hooks.bridge import HookBridge
from worker_service.metrics import Metrics

LARGEST_BODY: Final = 1 << 20
"""Bytes; a tool's output is in it."""


class _Refused(Exception):
    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason


def add_hook_route(app: FastAPI, bridge: HookBridge, metrics: Metrics, token: str) -> None:
    """Take hook events over HTTP: from this machine alone, and with the token alone."""
    wanted = f"Bearer {token}".encode()

    @app.post("/hooks/{event}")
    async def take_hook(event: str, request: Request) -> Response:
        try:
            _check_sender(request, wanted)
            if event not in HOOKS:
                raise _Refused(404, "unknown_event", f"There is no hook {event[:80]!r}; known are {', '.join(HOOKS)}.")
            bridge.receive(event, await _json_of(request))
        except _Refused as refusal:
            metrics.hook_requests_refused.labels(bridge.worker, refusal.reason).inc()
            return PlainTextResponse(f"{refusal}\n".encode("utf-8", "backslashreplace"), status_code=refusal.status)
        except HookPayloadError as error:
            metrics.hook_requests_refused.labels(bridge.worker, "bad_body").inc()
            return PlainTextResponse(f"{error}\n".encode("utf-8", "backslashreplace"), status_code=422)
        return Response(status_code=204)


def _check_sender(request: Request, wanted: bytes) -> None:
    if request.client is None or not _is_loopback(request.client.host):
        raise _Refused(403, "not_loopback", "Hooks are taken from this machine alone; call 127.0.0.1.")
    given = request.headers.get("authorization")
    if given is None:
        raise _Refused(401, "no_token", "The header `Authorization: Bearer TOKEN` with HOOK_TOKEN is missing.")
    # In bytes: compare_digest refuses text beyond ASCII. It takes the same time wherever the difference is.
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted):
        raise _Refused(401, "wrong_token", "The token is not this worker's HOOK_TOKEN.")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


async def _json_of(request: Request) -> object:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise _Refused(413, "too_large", f"The body is larger than {LARGEST_BODY:,} bytes.")
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(422, "bad_body", f"The body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise _Refused(422, "bad_body", "The body must be a JSON object, as Claude Code sends it.")
    return value
