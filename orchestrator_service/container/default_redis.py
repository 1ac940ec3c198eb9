"""The Redis that a deployment brings along, for the modes that want one when nobody has named another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from agent_bus.redis.url import parse_redis_url, redact
from orchestrator_service.container.refusal import Refused
from service_kit.environment import Environment
from service_kit.modes import Activation, Mode, WakeUps, read_wake_ups

_URL: Final = "DEFAULT_REDIS_URL"
_PASSWORD: Final = "REDIS_PASSWORD_FILE"


def wants_redis(environ: Mapping[str, str]) -> bool:
    """Tell whether the mode that the environment names lives by Redis.

    Raises:
        service_kit.environment.SettingsError: it names no mode that there is.
    """
    wake_ups: WakeUps = read_wake_ups(Environment(environ), has_redis=True, has_files=True)
    return wake_ups.mode is Mode.HYBRID or wake_ups.activation is Activation.REDIS


def with_default_redis(environ: Mapping[str, str], *, wanted: bool) -> dict[str, str]:
    """Return the environment with `REDIS_URL` where one is wanted, none is named and there is a default.

    Raises:
        Refused: the default, or the file of its password, cannot be used.
    """
    told = dict(environ)
    url = told.get(_URL, "")
    if not wanted or not url or told.get("REDIS_URL") or told.get("REDIS_URL_FILE"):
        return told
    told["REDIS_URL"] = _with_password(url, _password(told.get(_PASSWORD, "")))
    return told


def _with_password(url: str, password: str) -> str:
    try:
        has_one = bool(parse_redis_url(url).password)
    except ValueError as error:
        raise Refused(f"{_URL} is {redact(url)!r} and cannot be used: {error}.") from None
    if has_one or not password:
        return url
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    return f"{scheme}://{user.removesuffix(':') if at else ''}:{quote(password, safe='')}@{host}{slash}{path}"


def _password(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(f"{_PASSWORD} is {path!r}, which cannot be read ({reason}); name a readable file.") from None
