"""The four modes: what wakes a worker, whether Claude's hooks are bridged, and how many slots it has by default."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service_kit.environment import Environment, SettingsError, one_of, switch


class Mode(StrEnum):
    """How a worker is woken, in one word."""

    POLLING = "polling"
    """By a timer, every `POLL_INTERVAL`."""
    EVENT_DRIVEN = "event-driven"
    """By one source of events, `ACTIVATION_MODE`."""
    HOOKS = "hooks"
    """By inotify, a named pipe and, where there is one, Redis; Claude Code's hooks become events."""
    HYBRID = "hybrid"
    """By all of them, with as many slots as event-driven."""


DEFAULT_SLOTS: Final = {Mode.POLLING: 1, Mode.EVENT_DRIVEN: 10, Mode.HOOKS: 5, Mode.HYBRID: 10}


class Activation(StrEnum):
    """What finds new files in the mode event-driven."""

    INOTIFY = "inotify"
    REDIS = "redis"
    """Messages on `activate:NAME`."""
    POLLING = "polling"


@dataclass(frozen=True, kw_only=True)
class WakeUps:
    """The sources that a worker's mode gives it."""

    mode: Mode = Mode.POLLING
    activation: Activation = Activation.POLLING
    """What finds new files; the timer stands in for it where it does not work."""
    pipes: bool = False
    """Whether the worker has a control and a status pipe."""
    redis: bool = False
    """Whether it listens on Redis channels."""

    @property
    def bridges_hooks(self) -> bool:
        """Whether Claude Code's hooks become events."""
        return self.mode in (Mode.HOOKS, Mode.HYBRID)


def read_wake_ups(read: Environment, *, has_redis: bool, has_files: bool) -> WakeUps:
    """Return the sources: `WORKER_MODE`, or else what the older two variables say.

    Args:
        read: The environment.
        has_redis: Whether there is a Redis.
        has_files: Whether there is a shared directory.

    Raises:
        SettingsError: a variable is wrong, or a source is asked for that is not there.
    """
    mode = read.value("WORKER_MODE", Mode, "polling, event-driven, hooks or hybrid", None)
    wrapper = read.value("ACTIVATION_WRAPPER", switch, "1 or 0", False)
    hooks = read.value("HOOKS_MODE", switch, "1 or 0", False)
    if mode is None:
        mode = {
            (False, False): Mode.POLLING,
            (True, False): Mode.EVENT_DRIVEN,
            (False, True): Mode.HOOKS,
            (True, True): Mode.HYBRID,
        }[wrapper, hooks]
    if mode is Mode.POLLING:
        return WakeUps()
    activation = Activation.INOTIFY
    if mode is Mode.EVENT_DRIVEN:
        usual = "inotify" if has_files else "redis"
        word = read.value("ACTIVATION_MODE", one_of("inotify", "redis", "polling"), "inotify, redis or polling", usual)
        activation = Activation(word)
        if activation is Activation.REDIS and not has_redis:
            raise SettingsError("ACTIVATION_MODE is 'redis' and REDIS_URL is not set; say which Redis that is.")
    if not has_files:
        activation = Activation.REDIS
    return WakeUps(
        mode=mode,
        activation=activation,
        pipes=mode in (Mode.HOOKS, Mode.HYBRID),
        # A queue on Redis has its bell in every mode but the one that is woken by nothing but a timer.
        redis=has_redis and activation is not Activation.POLLING,
    )
