"""Which way a command takes: the shared directory, Redis, or both. The one place that decides it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent_bus.errors import QueueUnavailable
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.places import is_named, missing, place_of_shared_dir, team_here
from orchestrator_service.team import Team, TeamError

if TYPE_CHECKING:
    from agent_bus.redis.client import RedisClient
    from agent_bus.redis.url import RedisAddress

FILE: Final = "file"
REDIS: Final = "redis"


@dataclass(frozen=True)
class Channels:
    """The ways there are: a shared directory, a Redis, or both. Nothing of Redis is loaded before it is used."""

    shared: Path | None
    """The shared directory, which is there; None where there is none."""
    redis_source: str | None
    """What named the Redis, such as `--redis`; None where none is named."""
    given_redis: str | None = None
    """What was typed behind `--redis`."""

    @property
    def has_redis(self) -> bool:
        """Whether a Redis is named."""
        return self.redis_source is not None

    @property
    def words(self) -> str:
        """Where is looked, for sentences."""
        places = [str(self.shared)] if self.shared is not None else []
        if self.has_redis:
            places.append(self.redis_words)
        return " and ".join(places)

    @property
    def redis_words(self) -> str:
        """The Redis, for sentences."""
        return f"Redis at {self.address().shown}"

    def address(self) -> RedisAddress:
        """Return where Redis is.

        Raises:
            UserError: its URL is wrong; the text holds no password.
        """
        from agent_bus.redis.url import parse_redis_url

        try:
            return parse_redis_url(_read_url(self.given_redis))
        except ValueError as error:
            # A text that is no URL may be a password: the errors of the parser show what is safe.
            raise UserError(f"{self.redis_source} cannot be used: {error}.") from None

    @contextmanager
    def redis(self) -> Iterator[RedisClient]:
        """Open a client for the length of the block.

        Raises:
            UserError: the URL is wrong, or Redis cannot be used, here or inside the block.
        """
        from agent_bus.redis.client import RedisClient

        address = self.address()
        try:
            client = RedisClient(address)
            try:
                yield client
            finally:
                client.close()
        except QueueUnavailable as error:
            raise self.away(error) from None

    def away(self, error: QueueUnavailable) -> RedisAway:
        """Return the error for a person: what is wrong, and where the URL comes from."""
        return RedisAway(f"{error} ({self.redis_source} names it; `codehornets doctor` tells more).")


class RedisAway(UserError):
    """Redis is named and cannot be used now."""


def find_channels(shared_dir: Path | None, redis: str | None) -> Channels:
    """Return the ways that a client command has.

    A shared directory that is named must be there; the usual one may be missing where a Redis is named.

    Args:
        shared_dir: What `--shared-dir` says.
        redis: What `--redis` says; without it REDIS_URL_FILE and REDIS_URL count, as for workers.

    Raises:
        UserError: there is neither, or a directory that was named is not there.
        orchestrator_service.team.TeamError: `./team.toml` would say where they are, and is wrong.
    """
    shared = place_of_shared_dir(shared_dir)
    source = _redis_source(redis)
    if shared.is_dir():
        return Channels(shared, source, redis)
    if source is None or is_named(shared_dir, beside_redis=redis is not None):
        raise missing(shared)
    return Channels(None, source, redis)


def check_via(via: str | None, channels: Channels) -> str | None:
    """Return the way that `--via` asks for, or None.

    Raises:
        UserError: it is none, or there is no such way here.
    """
    if via not in (None, FILE, REDIS):
        raise UserError(f"--via is {via!r}; allowed are api, file or redis.")
    if via == REDIS and not channels.has_redis:
        raise UserError("--via is 'redis', and no Redis is named; name one with --redis or REDIS_URL.")
    if via == FILE and channels.shared is None:
        raise missing(place_of_shared_dir(None))
    return via


def _redis_source(given: str | None) -> str | None:
    if given is not None:
        return "--redis"
    for variable in ("REDIS_URL_FILE", "REDIS_URL"):
        if os.environ.get(variable):
            return variable
    team = _team_if_right()
    return f"redis_url in {team.path}" if team is not None and team.redis_url is not None else None


def _team_if_right() -> Team | None:
    # A mistake in a file that nothing else is asked of must not stop a command that has its shared directory.
    with suppress(TeamError):
        return team_here()
    return None


def _read_url(given: str | None) -> str:
    if given is not None:
        return given
    if path := os.environ.get("REDIS_URL_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UserError(
                f"REDIS_URL_FILE is {path!r}, which cannot be read ({reason}); name a readable file."
            ) from None
    if url := os.environ.get("REDIS_URL"):
        return url
    team = _team_if_right()
    return "" if team is None or team.redis_url is None else team.redis_url
