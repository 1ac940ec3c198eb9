"""Where Redis is: the URL as people write it, checked without a connection and without loading the Redis library.

Beside what redis-py takes (`redis://`, `rediss://`, `unix://`) there are two forms for which it has classes and no
URL: `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB` and `redis+cluster://HOST:PORT,HOST:PORT`.
Both exist with `rediss+`, which means TLS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

COMMAND_TIMEOUT_S: Final = 3.0
"""A command that is not answered after this long counts as failed."""
_LONGEST_TIMEOUT_S: Final = 9.9

_USERINFO = re.compile(r"(?<=://).*@", re.DOTALL)
_USERINFO_IN_TEXT = re.compile(r"(?<=://)[^\s@]*@")
_SECRET_OPTION = re.compile(r"([?&][^=&#\s]*password[^=&#\s]*=)[^&#\s]*", re.IGNORECASE)
_SCHEMES: Final = (
    "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
)
_DEFAULT_PORT: Final = 6379
_DEFAULT_SENTINEL_PORT: Final = 26379

_TEXTS: Final = frozenset(
    {
        *("username", "password", "client_name", "sentinel_username", "sentinel_password"),
        *("ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"),
        *("ssl_ciphers", "ssl_password"),
    }
)
_NUMBERS: Final = frozenset(
    {"db", "socket_read_size", "max_connections", "health_check_interval", "protocol", "ssl_min_version"}
)
_SECONDS: Final = frozenset({"socket_timeout", "socket_connect_timeout"})
_SWITCHES: Final = frozenset({"socket_keepalive", "ssl_check_hostname", "require_full_coverage"})
_TRUE: Final = frozenset({"1", "y", "yes", "true", "t", "on"})
_FALSE: Final = frozenset({"0", "n", "no", "false", "f", "off"})


class RedisKind(StrEnum):
    """Which of redis-py's clients speaks to it."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """A checked URL. Its text forms hold no password."""

    kind: RedisKind
    shown: str
    """The URL without its secrets, for logs and errors."""
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    """A Unix socket, in place of hosts."""
    master: str | None = None
    """The name under which the sentinels know the master."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int = 0
    options: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)
    """What else redis-py is to be told, by the names that it uses."""

    def __str__(self) -> str:
        return self.shown

    @property
    def secrets(self) -> list[str]:
        """What must never be shown, the longest first."""
        found = [self.password, *(value for name, value in self.options.items() if "password" in name)]
        return sorted({secret for secret in found if secret}, key=len, reverse=True)

    def without_secrets(self, text: str) -> str:
        """Return `text` with every secret of this address blotted out."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return _USERINFO_IN_TEXT.sub("***@", text)


def redact(url: str) -> str:
    """Return the URL, right or wrong, without its passwords; the user's name stays.

    Whatever stands before the last `@` counts as secret, since a password may hold any character.
    """

    def shown(match: re.Match[str]) -> str:
        user, colon, _ = match.group()[:-1].partition(":")
        return f"{user}:***@" if colon else f"{user}@"

    return _SECRET_OPTION.sub(r"\1***", _USERINFO.sub(shown, url))


def parse_redis_url(url: str) -> RedisAddress:
    """Check the URL and take it apart.

    Raises:
        ValueError: it cannot be used; the text says what is wrong and what is allowed, and holds no password.
    """
    shown = redact(url)
    scheme, separator, _ = url.partition("://")
    base, _, variant = scheme.partition("+")
    known = base in ("redis", "rediss") and variant in ("", "sentinel", "cluster") and not scheme.endswith("+")
    if not separator or not (known or scheme == "unix"):
        raise ValueError(f"it must begin with {_SCHEMES}")
    escape = "write /, ?, #, [ and @ in a password as %2F, %3F, %23, %5B and %40"
    try:
        parts = urlsplit(url)
    except ValueError:
        # Its text may hold the password.
        raise ValueError(f"{shown} is no URL; {escape}") from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(f"{shown} has an '@' behind its host; {escape}")
    userinfo, _, places = parts.netloc.rpartition("@")
    if parts.fragment:
        raise ValueError(f"{shown} holds a '#'; write it as %23 where it belongs to the password")
    username, _, password = userinfo.partition(":")
    options = _options(parts.query)
    address: dict[str, Any] = {
        "shown": shown,
        "tls": base == "rediss",
        "username": options.pop("username", None) or unquote(username) or None,
        "password": options.pop("password", None) or unquote(password) or None,
    }
    steps = [unquote(step) for step in parts.path.split("/") if step]
    if scheme == "unix":
        # `unix://run/redis.sock` would name a host `run`: the path of a socket begins with a slash.
        if not parts.path.startswith("/") or places:
            raise ValueError(f"{shown} must name the socket by its whole path, as in unix:///run/redis/redis.sock")
        return RedisAddress(
            kind=RedisKind.SINGLE, path=unquote(parts.path), db=options.pop("db", 0), options=options, **address
        )
    port = _DEFAULT_SENTINEL_PORT if variant == "sentinel" else _DEFAULT_PORT
    hosts = tuple(_host(place, port, shown) for place in places.split(",")) if places else (("localhost", port),)
    if variant == "cluster":
        if steps or options.pop("db", 0) not in (None, 0):
            raise ValueError(f"{shown} names a database; a Redis Cluster has only number 0, so leave it out")
        return RedisAddress(kind=RedisKind.CLUSTER, hosts=hosts, options=options, **address)
    if variant == "sentinel":
        if not 1 <= len(steps) <= 2:
            raise ValueError(f"{shown} must name the master, as in redis+sentinel://HOST:26379/mymaster/0")
        db = options.pop("db", None)
        return RedisAddress(
            kind=RedisKind.SENTINEL,
            hosts=hosts,
            master=steps[0],
            db=_database(steps[1:], shown) if db is None else db,
            options=options,
            **address,
        )
    if len(hosts) > 1:
        raise ValueError(f"{shown} names several hosts; that is for redis+sentinel:// and redis+cluster://")
    db = options.pop("db", None)
    return RedisAddress(
        kind=RedisKind.SINGLE,
        hosts=hosts,
        db=_database(steps, shown) if db is None else db,
        options=options,
        **address,
    )


def _host(place: str, default_port: int, shown: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]*)(?::(\d{1,5}))?", place)
    if match is None or int(match[2] or default_port) not in range(1, 65_536):
        raise ValueError(f"{shown} must name its host as HOST or HOST:PORT, with a port from 1 to 65535")
    return unquote(match[1]).strip("[]") or "localhost", int(match[2] or default_port)


def _database(steps: list[str], shown: str) -> int:
    if not steps:
        return 0
    if len(steps) > 1 or not steps[0].isascii() or not steps[0].isdigit():
        raise ValueError(f"{shown} must end in the number of the database, as in redis://localhost:6379/0")
    return int(steps[0])


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _TEXTS:
            options[name] = value
        elif name in _NUMBERS:
            if not value.isascii() or not value.isdigit():
                raise ValueError(f"its option {name} is {value!r}; allowed is a whole number")
            options[name] = int(value)
        elif name in _SECONDS:
            options[name] = _seconds(name, value)
        elif name in _SWITCHES:
            if value.lower() not in _TRUE | _FALSE:
                raise ValueError(f"its option {name} is {value!r}; allowed is yes or no")
            options[name] = value.lower() in _TRUE
        else:
            known = ", ".join(sorted(_TEXTS | _NUMBERS | _SECONDS | _SWITCHES))
            raise ValueError(f"its option {name!r} is not known; allowed are {known}")
    return options


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= _LONGEST_TIMEOUT_S:
        raise ValueError(f"its option {name} is {value!r}; allowed are seconds above 0, up to {_LONGEST_TIMEOUT_S:g}")
    return seconds
