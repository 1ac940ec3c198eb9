"""Which API a command talks to: one that is named, else the one that runs on the shared directory, else none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agent_bus.errors import BusError
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import place_of_shared_dir
from orchestrator_service.cli.where import API, URL_VARIABLE, Where
from orchestrator_service.team import TeamError

if TYPE_CHECKING:
    from orchestrator_service.client.calls import ApiPlace

T = TypeVar("T")


def find_api(where: Where) -> ApiPlace | None:
    """Return the API to use; None where there is none, or where another way was asked for.

    A Redis that is typed is meant for itself, as `--via file` and `--via redis` are.

    Raises:
        UserError: what names it, or its token, is wrong; or `--via api` and there is none.
        orchestrator_service.team.TeamError: `./team.toml` would say where the shared directory is, and is wrong.
    """
    if where.via not in (None, API) or (where.redis is not None and where.api is None and where.via is None):
        return None
    place = _named(where) if where.names_api else _discovered(where)
    if place is None and where.via == API:
        raise UserError(f"--via is 'api', and there is none; {_MEND}.")
    return place


def need_api(where: Where, what: str) -> ApiPlace:
    """Return the API for something that nothing else can do.

    Raises:
        UserError: there is none.
    """
    place = find_api(where)
    if place is None:
        raise UserError(f"{what} needs the orchestrator, and there is none; {_MEND}.")
    return place


_MEND: Final = f"start it with `codehornets up`, or name its API with --api or {URL_VARIABLE}"


def or_without(place: ApiPlace, work: Callable[[ApiPlace], T]) -> T | None:
    """Return what the work gives; None, with a line on stderr, where nobody named the API and it is away.

    Raises:
        ApiAway: somebody named it, or the question may have arrived.
        ApiRefused: it said no.
    """
    from orchestrator_service.client.calls import ApiAway

    try:
        return work(place)
    except ApiAway as error:
        if not place.discovered or error.sent:
            raise
        print(f"codehornets: {error}; going on without it.", file=sys.stderr, flush=True)
        return None


def _named(where: Where) -> ApiPlace:
    from urllib.parse import urlsplit

    from orchestrator_service.client.calls import ApiPlace

    source = "--api" if where.api is not None else URL_VARIABLE
    url = (where.api if where.api is not None else os.environ[URL_VARIABLE]).strip().rstrip("/")
    allowed = "allowed is a URL such as http://127.0.0.1:8700"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    # A URL with a password must not be shown, and ours never has one.
    if not good or parts.username is not None or parts.query or parts.fragment:
        shown = url[:80] if "@" not in url else "a text with an @"
        raise UserError(f"{source} is {shown!r}; {allowed}.")
    return ApiPlace(url=url, token=_token(where.token_file), source=source)


def _discovered(where: Where) -> ApiPlace | None:
    shared = place_of_shared_dir(where.shared_dir)
    path = shared / "heartbeats" / "orchestrator.json"
    if not path.exists():
        return None
    from orchestrator_service.client.calls import ApiPlace, living_port, local_url

    if (port := living_port(path)) is None:
        return None
    return ApiPlace(url=local_url(port), token=_token(where.token_file), source=str(path), heartbeat=path)


def quietly(where: Where) -> ApiPlace | None:
    """Return the API if there is one, whatever may be wrong: for what must not disturb, such as completion."""
    with suppress(UserError, TeamError, BusError, OSError):
        return find_api(where)
    return None


def _token(given: Path | None) -> str | None:
    path = str(given) if given is not None else None
    source = "--token-file"
    if path is None and (text := os.environ.get("API_TOKEN")):
        return _checked(text, "API_TOKEN")
    if path is None:
        path, source = os.environ.get("API_TOKEN_FILE") or None, "API_TOKEN_FILE"
    if path is None:
        return None
    try:
        return _checked(Path(path).read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"{source} is {path!r}, which cannot be read ({reason}); name a readable file.") from None


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{source} holds no token; allowed are printable ASCII characters without spaces.")
    return token
