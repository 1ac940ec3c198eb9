"""Logging in to the dashboard by a token, and out again."""

from __future__ import annotations

import json
import math
from http.cookies import SimpleCookie
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator_service.api.auth import Doorkeeper, check_same_origin, header, session_cookie
from orchestrator_service.api.problems import ProblemKind, RequestRefused
from orchestrator_service.dashboard.attempts import Attempts
from orchestrator_service.dashboard.sessions import COOKIE

_LONGEST_BODY: Final = 4096
_KEPT_LONGER_S: Final = 30 * 86_400
_NO_STORE: Final = {"Cache-Control": "no-store"}


def add_login_routes(app: FastAPI, doorkeeper: Doorkeeper) -> None:
    """Add `/login`, `/logout` and `/session` to `app`."""
    attempts = Attempts()

    async def login(request: Request) -> Response:
        """Open a session for whoever has a token."""
        check_same_origin(request.scope)
        if not doorkeeper.has_tokens:
            return JSONResponse(_told(doorkeeper, request), headers=_NO_STORE)
        source = request.client.host if request.client is not None else ""
        if (wait_s := attempts.wait_s(source)) > 0:
            seconds = math.ceil(wait_s)
            raise RequestRefused(
                ProblemKind.TOO_MANY_REQUESTS,
                f"Too many wrong tokens came from here; try again in {seconds} s.",
                headers={"Retry-After": str(seconds)},
            )
        caller = doorkeeper.bearer(await _token_of(request))
        if caller is None:
            attempts.failed(source)
            raise RequestRefused(
                ProblemKind.UNAUTHORIZED,
                "That token is none of this orchestrator's; look at API_TOKEN or API_TOKENS, or ask whoever runs it.",
            )
        attempts.succeeded(source)
        secret, lasts_s = doorkeeper.sessions.open(caller.name)
        answer = JSONResponse({"name": caller.name, "role": caller.role.value, "login": True}, headers=_NO_STORE)
        _set_cookie(answer, request, secret, int(lasts_s))
        return answer

    async def logout(request: Request) -> Response:
        """End the session that the cookie stands for."""
        check_same_origin(request.scope)
        if (secret := session_cookie(request.scope)) is not None:
            doorkeeper.sessions.close(secret)
        answer = Response(status_code=204, headers=_NO_STORE)
        _set_cookie(answer, request, "", 0)
        return answer

    async def session(request: Request) -> Response:
        """Tell who asks."""
        return JSONResponse(_told(doorkeeper, request), headers=_NO_STORE)

    app.add_route("/login", login, methods=["POST"], include_in_schema=False)
    app.add_route("/logout", logout, methods=["POST"], include_in_schema=False)
    app.add_route("/session", session, methods=["GET"], include_in_schema=False)


def _told(doorkeeper: Doorkeeper, request: Request) -> dict[str, Any]:
    caller = doorkeeper.admit(request.scope)
    return {"name": caller.name, "role": caller.role.value, "login": doorkeeper.has_tokens}


async def _token_of(request: Request) -> str:
    body = await request.body()
    try:
        token = json.loads(body)["token"] if len(body) <= _LONGEST_BODY else None
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token.strip():
        raise RequestRefused(ProblemKind.NOT_JSON, 'Send {"token": "…"}, at most 4096 bytes.')
    return token.strip()


def _set_cookie(answer: Response, request: Request, secret: str, lasts_s: int) -> None:
    cookie: SimpleCookie = SimpleCookie()
    cookie[COOKIE] = secret
    morsel = cookie[COOKIE]
    morsel["path"] = "/"
    # Longer than the session: then a page that comes too late is told that its time is over, rather than nothing.
    morsel["max-age"] = str(lasts_s + _KEPT_LONGER_S if secret else 0)
    morsel["httponly"] = True
    morsel["samesite"] = "Strict"
    # Behind a proxy that ends TLS only the browser knows how it came here; it says so in Origin.
    if request.url.scheme == "https" or (header(request.scope, b"origin") or "").startswith("https://"):
        morsel["secure"] = True
    answer.headers.append("Set-Cookie", morsel.OutputString())
