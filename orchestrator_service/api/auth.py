"""Who asks, and what they may do: by a bearer token, a session of the dashboard, or, without tokens, this machine."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Scope

from orchestrator_service.api.problems import ProblemKind, RequestRefused
from orchestrator_service.dashboard.sessions import COOKIE, Session, Sessions
from orchestrator_service.desk import Asker
from orchestrator_service.settings import LOOPBACK, ApiSettings, Role

LOCAL: Final = "local"
"""Who asks where there are no tokens."""
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="codehornets"'}


@dataclass(frozen=True)
class Caller:
    """Somebody whose token is good."""

    name: str
    role: Role
    is_anybody: bool = False
    """Whether there are no tokens: whoever is on this machine."""


class Doorkeeper:
    """Finds out who sends a request."""

    def __init__(self, settings: ApiSettings, sessions_file: Path | None = None) -> None:
        """Know the tokens of `settings`, and the sessions that are kept in a file, if one is given."""
        self._known = [
            (hashlib.sha256(token.secret.encode()).digest(), Caller(token.name, token.role))
            for token in settings.tokens
        ]
        self._local = Caller(LOCAL, Role.ADMIN, is_anybody=True)
        self._origins = frozenset(settings.cors_origins)
        digests = {caller.name: digest for digest, caller in self._known}
        self._callers = {caller.name: caller for _, caller in self._known}
        self.sessions = Sessions(digests, lasts_s=settings.session_ttl_s, file=sessions_file)
        """Those of the dashboard."""

    @property
    def has_tokens(self) -> bool:
        """Whether one must say who one is."""
        return bool(self._known)

    def check_source(self, scope: Scope) -> None:
        """Refuse, where there are no tokens, what does not come from this machine's own user.

        A page of any site can make a browser on this machine ask for a loopback address: by a name that it points
        there (seen in `Host`), or directly (seen in `Origin`).

        Raises:
            RequestRefused: it does not.
        """
        if self._known:
            return
        host = header(scope, b"host") or ""
        if _host_name(host) not in LOOPBACK:
            raise RequestRefused(
                ProblemKind.HOST_REFUSED,
                f"Host is {host[:200]!r}; without tokens only 127.0.0.1, localhost and [::1] are served: ask for one "
                "of them, or set API_TOKEN.",
            )
        origin = header(scope, b"origin")
        if origin is not None and origin not in self._origins and origin != f"{_of_pages(scope['scheme'])}://{host}":
            raise RequestRefused(
                ProblemKind.ORIGIN_REFUSED,
                f"Origin is {origin[:200]!r}; pages of other sites may ask only where CORS_ORIGINS names them.",
            )

    def admit(self, scope: Scope) -> Caller:
        """Return who sends a request.

        Raises:
            RequestRefused: there are tokens, and it brings none of them and no session; or it brings a session and
                wants a change for the page of another site.
        """
        if not self._known:
            return self._local
        given = header(scope, b"authorization")
        if given is None:
            if (session := self.session(scope)) is not None:
                if scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS:
                    check_same_origin(scope)
                return self._callers[session.name]
            if session_cookie(scope) is not None:
                raise RequestRefused(ProblemKind.UNAUTHORIZED, "The session is over; log in again.", headers=_CHALLENGE)
            raise RequestRefused(
                ProblemKind.UNAUTHORIZED, "There is no token; send `Authorization: Bearer TOKEN`.", headers=_CHALLENGE
            )
        scheme, _, secret = given.partition(" ")
        found = self.bearer(secret.strip())
        if found is None or scheme.lower() != "bearer":
            raise RequestRefused(
                ProblemKind.UNAUTHORIZED,
                "The token is not one of this orchestrator's; send `Authorization: Bearer TOKEN` with one that is.",
                headers={"WWW-Authenticate": f'{_CHALLENGE["WWW-Authenticate"]}, error="invalid_token"'},
            )
        return found

    def session(self, scope: Scope) -> Session | None:
        """Return the session that a request's cookie stands for."""
        secret = session_cookie(scope)
        return None if secret is None else self.sessions.find(secret)

    def bearer(self, secret: str) -> Caller | None:
        """Return whose token this is."""
        digest = hashlib.sha256(secret.encode("latin-1", "replace")).digest()
        found: Caller | None = None
        # All are compared, whichever it is, so that the time tells nothing of the tokens.
        for known, caller in self._known:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def session_cookie(scope: Scope) -> str | None:
    """Return what a request's cookie says, if it has one of the dashboard's."""
    try:
        morsel = SimpleCookie(header(scope, b"cookie") or "").get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None or not morsel.value else morsel.value


def check_same_origin(scope: Scope) -> None:
    """Refuse what a page of another site asks for: a browser adds the cookie to that as well.

    Raises:
        RequestRefused: the request comes from elsewhere, or does not say from where.
    """
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    if origin is not None and site in (None, "same-origin"):
        # A proxy that ends TLS changes the scheme on the way, never the name.
        same = urlsplit(origin).netloc == (header(scope, b"host") or "") != ""
    else:
        same = origin is None and site == "same-origin"
    if not same:
        raise RequestRefused(
            ProblemKind.ORIGIN_REFUSED,
            f"The request comes from {(origin or site or 'nowhere that it names')[:200]!r}; with a session only the "
            "dashboard's own pages may ask for changes.",
        )


def need_role(scope: Scope, needed: Role) -> None:
    """Check that the caller may do what `needed` may.

    Raises:
        RequestRefused: it may not.
    """
    caller: Caller = scope["state"]["caller"]
    if not caller.role.allows(needed):
        raise RequestRefused(
            ProblemKind.FORBIDDEN,
            f"The token {caller.name} has the role {caller.role}; this needs the role {needed}.",
        )


def asker(request: Request, needed: Role) -> Asker:
    """Return for whom the desk is to act.

    Raises:
        RequestRefused: the caller's role is not enough.
    """
    need_role(request.scope, needed)
    who: Asker = request.scope["state"]["asker"]
    return who


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header of a request; `name` is in small letters."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found.decode("latin-1")
    return None


def _of_pages(scheme: str) -> str:
    """Return the scheme of the pages that may open a connection of this one."""
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
