"""Who asks, and what they may do: bearer tokens, or everybody on this machine where there are none."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Scope

from orchestrator_service.api.problems import ProblemKind, RequestRefused
from orchestrator_service.desk import Asker
from orchestrator_service.settings import LOOPBACK, ApiSettings, Role

LOCAL: Final = "local"
"""Who asks where there are no tokens."""
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="codehornets"'}


@dataclass(frozen=True)
class Caller:
    """Somebody whose token is good."""

    name: str
    role: Role


class Doorkeeper:
    """Finds out who sends a request."""

    def __init__(self, settings: ApiSettings) -> None:
        self._known = [
            (hashlib.sha256(token.secret.encode()).digest(), Caller(token.name, token.role))
            for token in settings.tokens
        ]
        self._local = Caller(LOCAL, Role.ADMIN)
        self._origins = frozenset(settings.cors_origins)

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
        if origin is not None and origin not in self._origins and origin != f"{scope['scheme']}://{host}":
            raise RequestRefused(
                ProblemKind.ORIGIN_REFUSED,
                f"Origin is {origin[:200]!r}; pages of other sites may ask only where CORS_ORIGINS names them.",
            )

    def admit(self, scope: Scope) -> Caller:
        """Return who sends a request.

        Raises:
            RequestRefused: there are tokens, and it brings none of them.
        """
        if not self._known:
            return self._local
        given = header(scope, b"authorization")
        if given is None:
            raise RequestRefused(
                ProblemKind.UNAUTHORIZED, "There is no token; send `Authorization: Bearer TOKEN`.", headers=_CHALLENGE
            )
        scheme, _, secret = given.partition(" ")
        digest = hashlib.sha256(secret.strip().encode("latin-1")).digest()
        found: Caller | None = None
        # All are compared, whichever it is, so that the time tells nothing of the tokens.
        for known, caller in self._known:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None or scheme.lower() != "bearer":
            raise RequestRefused(
                ProblemKind.UNAUTHORIZED,
                "The token is not one of this orchestrator's; send `Authorization: Bearer TOKEN` with one that is.",
                headers={"WWW-Authenticate": f'{_CHALLENGE["WWW-Authenticate"]}, error="invalid_token"'},
            )
        return found


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


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
