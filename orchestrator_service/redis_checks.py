"""The Redis that workers would use, looked at for `codehornets doctor`: is it there, and does it keep what it takes?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent_bus.redis.url import RedisAddress, RedisKind, parse_redis_url
from orchestrator_service.findings import Finding, Grade
from orchestrator_service.team import Team

_SUBJECT: Final = "redis"
_OLDEST: Final = (6, 2)


def check_redis(team: Team | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the Redis that is named, if one is; no text holds a password."""
    source, url = "REDIS_URL", environ.get("REDIS_URL", "")
    if file := environ.get("REDIS_URL_FILE"):
        source = "REDIS_URL_FILE"
        try:
            url = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            yield Finding(_SUBJECT, Grade.BROKEN, f"REDIS_URL_FILE is {file!r}, which cannot be read", "mend the file")
            return
    if not url and team is not None and team.redis_url is not None:
        source, url = "redis_url", team.redis_url
    if not url:
        return
    try:
        address = parse_redis_url(url)
    except ValueError as error:
        yield Finding(_SUBJECT, Grade.BROKEN, f"{source} cannot be used: {error}", f"mend {source}")
        return
    yield from _check_server(address, source)


def _check_server(address: RedisAddress, source: str) -> Iterator[Finding]:
    from agent_bus.redis.connection import explain, failures, make_blocking_client

    client: Any = None
    try:
        client = make_blocking_client(address)
        client.ping()
        infos = _ask(client, address)
    except failures() as error:
        told = explain(error, address)
        if "NOPERM" in str(error) or "NoPermissionError" in type(error).__name__:
            yield Finding(_SUBJECT, Grade.NOTE, f"{told}: INFO", "allow INFO, so that this can be checked")
        else:
            yield Finding(_SUBJECT, Grade.BROKEN, told, f"start Redis, or mend {source}")
        return
    finally:
        if client is not None:
            client.close()
    for info in infos:
        yield from judge_server(info, address)


def _ask(client: Any, address: RedisAddress) -> list[dict[str, Any]]:
    """Return what each server tells of itself: of a cluster every primary, else the one."""
    if address.kind is not RedisKind.CLUSTER:
        return [client.info()]
    return [client.info(target_nodes=node) for node in client.get_primaries()]


def judge_server(info: Mapping[str, Any], address: RedisAddress) -> Iterator[Finding]:
    """Judge a server by what INFO tells of it."""
    version = str(info.get("redis_version", "unknown"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers and numbers < _OLDEST:
        yield Finding(
            _SUBJECT,
            Grade.BROKEN,
            f"Redis {version} at {address.shown} is too old",
            "install Redis 6.2 or newer (or Valkey)",
        )
        return
    yield Finding(_SUBJECT, Grade.GOOD, f"Redis {version} at {address.shown} answers")
    if str(info.get("aof_enabled", "0")) == "1":
        yield Finding(_SUBJECT, Grade.GOOD, "it keeps an append-only file: accepted tasks survive its restart")
    else:
        yield Finding(
            _SUBJECT,
            Grade.NOTE,
            "appendonly is no: accepted tasks do not survive a restart of Redis",
            "set `appendonly yes` in redis.conf, or `redis-cli CONFIG SET appendonly yes` and then CONFIG REWRITE",
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        yield Finding(_SUBJECT, Grade.GOOD, "maxmemory-policy is noeviction: no task is thrown away for memory")
    else:
        yield Finding(
            _SUBJECT,
            Grade.NOTE,
            f"maxmemory-policy is {policy}: where memory gets short, Redis may throw tasks and results away",
            "set `maxmemory-policy noeviction`",
        )
