"""Reading variables: each is parsed where it is asked for, and a wrong one gives one sentence.

pydantic-settings would do, but its import alone takes a tenth of a second and 7 MB, which is much of what a worker
may cost; and a wrong value must give one sentence that names the variable, the value and what is allowed.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from agent_bus.layout import is_worker_name
from agent_bus.redis.url import parse_redis_url

T = TypeVar("T")
D = TypeVar("D")

SECRET_VARIABLES: Final = (
    "REDIS_URL",
    "HOOK_TOKEN",
    "API_TOKEN",
    "API_TOKENS",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
)
"""Each may come as `X_FILE` naming a file that holds it; none is ever shown."""


_FILE_VARIABLES: Final = (*(f"{variable}_FILE" for variable in SECRET_VARIABLES), "REDIS_PASSWORD_FILE")


class SettingsError(Exception):
    """A setting is wrong; the text is one sentence with the variable, its value and what is allowed."""


def with_secrets_from_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the content of each `X_FILE` as X.

    Raises:
        SettingsError: such a file cannot be read.
    """
    merged = dict(environ)
    for variable in SECRET_VARIABLES:
        path = merged.pop(f"{variable}_FILE", "")
        if not path:
            continue
        try:
            merged[variable] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(
                f"{variable}_FILE is {path!r}, which cannot be read ({reason}); name a readable file."
            ) from error
    return merged


def secret_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files that the environment names as those of secrets, whether they are there or not."""
    return tuple(Path(environ[name]).absolute() for name in _FILE_VARIABLES if environ.get(name))


class Environment:
    """The variables, and how to ask for one; an empty one counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def value(
        self, variable: str, parse: Callable[[str], T], allowed: str, default: D, *, given: str | None = None
    ) -> T | D:
        """Return the variable as `parse` reads it, or `default`; `given` wins over the environment.

        Raises:
            SettingsError: `parse` raised ValueError; the sentence says what is `allowed`.
        """
        text = given if given is not None else self._environ.get(variable, "")
        if text == "":
            return default
        try:
            return parse(text)
        except (ValueError, OverflowError) as error:
            if variable in SECRET_VARIABLES:
                # Only what the parser says on purpose, which holds no secret, is passed on.
                raise SettingsError(
                    f"{variable} is set and cannot be used: {str(error) or f'allowed is {allowed}'}."
                ) from None
            shown = repr(text if len(text) <= 80 else f"{text[:77]}…")
            raise SettingsError(f"{variable} is {shown}; allowed is {allowed}.") from error

    def seconds(
        self, variable: str, default: float, *, at_least: float = 0.001, at_most: float = 7 * 86_400.0
    ) -> float:
        """Return a number of seconds within the bounds, or `default`.

        Raises:
            SettingsError: it is none.
        """

        def parse(text: str) -> float:
            number = float(text)
            if not math.isfinite(number) or not at_least <= number <= at_most:
                raise ValueError
            return number

        return self.value(variable, parse, f"a number of seconds from {at_least:g} to {at_most:g}", default)


def worker_name(text: str) -> str:
    """Read a worker's name."""
    if not is_worker_name(text):
        raise ValueError
    return text


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within the bounds."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError
        return number

    return parse


def positive(text: str) -> float:
    """Read a number above 0."""
    number = float(text)
    if not math.isfinite(number) or number <= 0:
        raise ValueError
    return number


def switch(text: str) -> bool:
    """Read 1, true, yes or on; 0, false, no or off."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return parse


def names(text: str) -> tuple[str, ...]:
    """Read names divided by commas."""
    # A comma inside parentheses belongs to a permission rule such as `Bash(git log:*, git show:*)`.
    return tuple(name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip())


def shell_words(text: str) -> tuple[str, ...]:
    """Split a command line as a shell would."""
    return tuple(shlex.split(text))


def usual_owners() -> frozenset[int]:
    """Return the user ids whose files are taken in any case: root's and this process's own."""
    return frozenset((0, os.geteuid()))


def owners(text: str) -> frozenset[int] | None:
    """Read user ids divided by commas, beside the usual ones; `any` gives None."""
    if text.strip() == "any":
        return None
    return usual_owners() | {int(part) for part in text.split(",")}


def directory(text: str) -> Path:
    """Read the path of a directory that exists."""
    path = Path(text).absolute()
    if not path.is_dir():
        raise ValueError
    return path


def program(text: str) -> Path:
    """Read the path of an executable file."""
    path = Path(text).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ValueError
    return path


def model(text: str) -> str:
    """Read a model's name."""
    if not re.fullmatch(r"[^-\s]\S*", text):
        raise ValueError
    return text


def redis_url(text: str) -> str:
    """Read the URL of a Redis.

    Raises:
        ValueError: it cannot be used; the text says why and holds no password.
    """
    parse_redis_url(text)
    return text


def log_level(text: str) -> str:
    """Read a log level."""
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError
    return text.upper()
