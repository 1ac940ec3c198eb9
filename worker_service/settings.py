"""The environment, read once and turned into one frozen object.

pydantic-settings would do, but its import alone takes a tenth of a second and 7 MB, which is much of what a worker
may cost; and a wrong value must give one sentence that names the variable, the value and what is allowed.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from agent_bus.layout import WorkerLayout, is_worker_name

T = TypeVar("T")
D = TypeVar("D")

SECRET_VARIABLES: Final = ("REDIS_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
"""Each may come as `X_FILE` naming a file that holds it."""


class SettingsError(Exception):
    """A setting is wrong; the text is one sentence with the variable, its value and what is allowed."""


class Mode(StrEnum):
    """How a worker is woken, in one word."""

    POLLING = "polling"
    """By a timer, every `POLL_INTERVAL`."""
    EVENT_DRIVEN = "event-driven"
    """By inotify, and by the timer where that does not work."""


class AgentKind(StrEnum):
    """Who does the work."""

    CLAUDE = "claude"
    COMMAND = "command"
    ECHO = "echo"


@dataclass(frozen=True, kw_only=True)
class ClaudeSettings:
    """What every Claude session of this worker is started with."""

    cli: Path | None = None
    """`CLAUDE_CLI`: the program; None means the one that the SDK brings, else `claude` on the PATH."""
    warm_processes: int = 1
    """`WARM_PROCESSES`: how many wait ready for the next task. Each takes about 160 MB and, frozen, no CPU."""
    freeze: bool = True
    """`FREEZE_IDLE`: stop (SIGSTOP) the waiting processes, so that they cost no CPU."""
    model: str | None = None
    """`MODEL`: None means Claude Code's own default."""
    output_style: str | None = None
    """`OUTPUT_STYLE`: the path of a style file, whose text is added to the system prompt; or the name of a style."""
    allowed_tools: tuple[str, ...] = ()
    """`ALLOWED_TOOLS`: tools that need no permission, divided by commas."""
    permission_mode: str = "acceptEdits"
    """`PERMISSION_MODE`: as Claude Code's own; nobody is there to answer a question, so what it would ask is denied."""
    max_turns: int | None = None
    """`MAX_TURNS`: None means no bound."""
    max_budget_usd: float | None = None
    """`MAX_BUDGET_USD`: per task; None means no bound."""
    park_on_limit: bool = True
    """`PARK_ON_LIMIT`: hold tasks back until a usage limit is over; 0 fails them at once."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Everything that a worker is told from outside."""

    worker: str
    instance: str
    """This process among its replicas; never used again."""
    layout: WorkerLayout
    mode: Mode = Mode.POLLING
    agent: AgentKind = AgentKind.CLAUDE
    command: tuple[str, ...] = ()
    """`AGENT_COMMAND`, split as a shell would."""
    agent_environment: Mapping[str, str] = field(default_factory=dict)
    """All that an agent's process sees: the allow-list applied to this process's environment."""
    workspace: Path = Path()
    """`WORKSPACE`: where agents work unless the task names another place."""
    slots: int = 1
    """`MAX_CONCURRENT`: tasks at the same time."""
    task_timeout_s: float = 3600.0
    max_attempts: int = 3
    """`MAX_ATTEMPTS`: how often a task may be begun before it is buried; a task's own value wins."""
    shutdown_grace_s: float = 50.0
    """Keep it below the pod's termination grace period."""
    poll_interval_s: float = 1.0
    rescan_interval_s: float = 30.0
    """`RESCAN_INTERVAL`: the net under all wake-ups."""
    heartbeat_interval_s: float = 10.0
    probe_interval_s: float = 60.0
    """`PROBE_INTERVAL`: how often a probe goes through the real watcher to the dispatcher."""
    max_trigger_bytes: int = 1_048_576
    settle_s: float = 2.0
    """`SETTLE_TIME`: how old a file that does not parse must be before it is set aside."""
    trigger_owners: frozenset[int] | None = None
    """`TRIGGER_OWNERS`: user ids whose files are accepted beside the worker's own and root's; None accepts any."""
    sync_results: bool = True
    """`SYNC_RESULTS`: whether a result must be on the disk before its task is let go."""
    http_host: str = "127.0.0.1"
    http_port: int = 8080
    """0 means any free one; the heartbeat tells which."""
    redis_url: str | None = None
    log_level: str = "INFO"
    claude: ClaudeSettings = field(default_factory=ClaudeSettings)


_AGENT_ENV_WORDS: Final = (
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TERM TMPDIR XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME",
    "HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy",
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO",
    "DISABLE_AUTOUPDATER DISABLE_TELEMETRY DISABLE_ERROR_REPORTING API_TIMEOUT_MS BASH_DEFAULT_TIMEOUT_MS",
)

AGENT_ENV_EXACT: Final = frozenset(" ".join(_AGENT_ENV_WORDS).split())
"""System basics, proxies and certificates."""

AGENT_ENV_PREFIXES: Final = ("LC_", "ANTHROPIC_", "CLAUDE_", "AWS_", "GOOGLE_", "GCLOUD_", "CLOUD_ML_", "AZURE_")
"""Claude's own variables and those of the cloud providers that serve it."""

_NEVER_TO_AGENTS: Final = frozenset(("REDIS_URL", "API_TOKEN", "HOOK_TOKEN"))
_OWN_CLAUDE_VARIABLES: Final = frozenset(("CLAUDE_CLI",))

_OF_ANOTHER_SESSION: Final = (
    "CLAUDE_PID",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_MESSAGING_",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_SSE_PORT",
)
"""What Claude Code tells the shell commands it runs: a worker that is started by one must not pass it on."""


def agent_environment(environ: Mapping[str, str], named: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what of `environ` an agent may see: the allow-list and what `AGENT_ENV` names, never our own secrets."""

    def allowed(name: str) -> bool:
        if name in _NEVER_TO_AGENTS or name in _OWN_CLAUDE_VARIABLES or name.removesuffix("_FILE") in _NEVER_TO_AGENTS:
            return False
        if name.startswith(_OF_ANOTHER_SESSION):
            return False
        return name in named or name in AGENT_ENV_EXACT or name.startswith(AGENT_ENV_PREFIXES)

    return {name: value for name, value in environ.items() if allowed(name)}


def read_settings(environ: Mapping[str, str], worker: str | None = None) -> WorkerSettings:
    """Turn the environment into settings; `worker`, where given, wins over `WORKER_NAME`.

    Raises:
        SettingsError: a value is wrong or missing.
    """
    environ = _with_secrets_from_files(environ)
    read = _Reader(environ)
    name = read.value("WORKER_NAME", _worker_name, _WORKER_NAMES, None, given=worker)
    if name is None:
        raise SettingsError("WORKER_NAME is not set; name the worker: `python -m worker_service NAME`.")
    mode = _mode(read)
    agent = read.value("AGENT", AgentKind, "claude, command or echo", AgentKind.CLAUDE)
    command = read.value("AGENT_COMMAND", _shell_words, "a command line as a shell would take it", ())
    if agent is AgentKind.COMMAND and not command:
        raise SettingsError("AGENT is 'command' and AGENT_COMMAND is not set; name the program to run.")
    slots = read.value(
        "MAX_CONCURRENT", _whole(1, 1000), "a whole number from 1 to 1000", 1 if mode is Mode.POLLING else 10
    )
    claude = _claude_settings(read, slots)
    return WorkerSettings(
        worker=name,
        instance=_new_instance(),
        layout=_layout(read, name),
        mode=mode,
        agent=agent,
        command=command,
        agent_environment=agent_environment(environ, read.value("AGENT_ENV", _names, "variable names", ())),
        workspace=read.value("WORKSPACE", _directory, "a directory that exists", Path.cwd()),
        slots=slots,
        task_timeout_s=read.seconds("TASK_TIMEOUT", 3600.0, at_most=30 * 86_400.0),
        max_attempts=read.value("MAX_ATTEMPTS", _whole(1, 1000), "a whole number from 1 to 1000", 3),
        shutdown_grace_s=read.seconds("SHUTDOWN_GRACE", 50.0, at_least=0.0),
        poll_interval_s=read.seconds("POLL_INTERVAL", 1.0, at_least=0.01),
        rescan_interval_s=read.seconds("RESCAN_INTERVAL", 30.0, at_least=0.1),
        heartbeat_interval_s=read.seconds("HEARTBEAT_INTERVAL", 10.0, at_least=0.1),
        probe_interval_s=read.seconds("PROBE_INTERVAL", 60.0, at_least=0.1),
        max_trigger_bytes=read.value(
            "MAX_TRIGGER_BYTES", _whole(1024, 2**30), "a whole number from 1024 to 1073741824", 1_048_576
        ),
        settle_s=read.seconds("SETTLE_TIME", 2.0, at_least=0.0),
        trigger_owners=read.value("TRIGGER_OWNERS", _owners, "`any` or user ids divided by commas", _usual_owners()),
        sync_results=read.value("SYNC_RESULTS", _switch, "1 or 0", True),
        http_host=read.value("HTTP_HOST", str, "an address of this machine", "127.0.0.1"),
        http_port=read.value("HTTP_PORT", _whole(0, 65535), "a whole number from 0 to 65535", 8080),
        redis_url=read.value("REDIS_URL", _redis_url, "a redis://, rediss:// or unix:// URL", None),
        log_level=read.value("LOG_LEVEL", _log_level, "DEBUG, INFO, WARNING or ERROR", "INFO"),
        claude=claude,
    )


def _mode(read: _Reader) -> Mode:
    later = {"hooks", "hybrid"}
    word = read.value("WORKER_MODE", str, "", None)
    if word is not None:
        if word in later:
            raise SettingsError(f"WORKER_MODE is {word!r}; this version has polling and event-driven.")
        return read.value("WORKER_MODE", Mode, "polling or event-driven", Mode.POLLING)
    if read.value("HOOKS_MODE", _switch, "1 or 0", False):
        raise SettingsError("HOOKS_MODE is '1'; this version has polling (0) and event-driven (ACTIVATION_WRAPPER=1).")
    if not read.value("ACTIVATION_WRAPPER", _switch, "1 or 0", False):
        return Mode.POLLING
    activation = read.value("ACTIVATION_MODE", _one_of("inotify", "polling"), "inotify or polling", "inotify")
    return Mode.POLLING if activation == "polling" else Mode.EVENT_DRIVEN


def _claude_settings(read: _Reader, slots: int) -> ClaudeSettings:
    return ClaudeSettings(
        cli=read.value("CLAUDE_CLI", _program, "the path of an executable file", None),
        warm_processes=read.value("WARM_PROCESSES", _whole(0, 100), "a whole number from 0 to 100", min(2, slots)),
        freeze=read.value("FREEZE_IDLE", _switch, "1 or 0", True),
        model=read.value("MODEL", _model, "the name of a model, without spaces", None),
        output_style=read.value("OUTPUT_STYLE", str, "a style's file or name", None),
        allowed_tools=read.value("ALLOWED_TOOLS", _names, "tool names divided by commas", ()),
        permission_mode=read.value(
            "PERMISSION_MODE",
            _one_of("default", "acceptEdits", "plan", "dontAsk", "bypassPermissions", "auto"),
            "default, acceptEdits, plan, dontAsk, auto or bypassPermissions",
            "acceptEdits",
        ),
        max_turns=read.value("MAX_TURNS", _whole(1, 10_000), "a whole number from 1 to 10000", None),
        max_budget_usd=read.value("MAX_BUDGET_USD", _positive, "a number above 0", None),
        park_on_limit=read.value("PARK_ON_LIMIT", _switch, "1 or 0", True),
    )


def _layout(read: _Reader, name: str) -> WorkerLayout:
    shared = read.value("SHARED_DIR", Path, "a directory", Path("/shared")).absolute()
    usual = WorkerLayout.under(shared, name)

    def place(variable: str, default: Path) -> Path:
        return read.value(variable, Path, "a directory", default).absolute()

    return WorkerLayout(
        triggers=place("TRIGGER_DIR", usual.triggers),
        tasks=place("TASK_DIR", usual.tasks),
        results=place("RESULT_DIR", usual.results),
        heartbeats=place("HEARTBEAT_DIR", usual.heartbeats),
        logs=place("LOG_DIR", usual.logs),
        events=usual.events,
        gates=usual.gates,
    )


def _with_secrets_from_files(environ: Mapping[str, str]) -> dict[str, str]:
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


def _new_instance() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:40] or "host"
    return f"{host}-{os.getpid()}-{os.urandom(4).hex()}"


def _usual_owners() -> frozenset[int]:
    return frozenset((0, os.geteuid()))


_WORKER_NAMES: Final = "1 to 63 letters, digits, dots, dashes or underscores, the first a letter or digit"


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def value(
        self, variable: str, parse: Callable[[str], T], allowed: str, default: D, *, given: str | None = None
    ) -> T | D:
        text = given if given is not None else self._environ.get(variable, "")
        if text == "":
            return default
        try:
            return parse(text)
        except (ValueError, OverflowError) as error:
            shown = "set" if variable in SECRET_VARIABLES else repr(text if len(text) <= 80 else f"{text[:77]}…")
            raise SettingsError(f"{variable} is {shown}; allowed is {allowed}.") from error

    def seconds(
        self, variable: str, default: float, *, at_least: float = 0.001, at_most: float = 7 * 86_400.0
    ) -> float:
        def parse(text: str) -> float:
            number = float(text)
            if not math.isfinite(number) or not at_least <= number <= at_most:
                raise ValueError
            return number

        return self.value(variable, parse, f"a number of seconds from {at_least:g} to {at_most:g}", default)


def _worker_name(text: str) -> str:
    if not is_worker_name(text):
        raise ValueError
    return text


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError
        return number

    return parse


def _positive(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number <= 0:
        raise ValueError
    return number


def _switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return parse


def _names(text: str) -> tuple[str, ...]:
    # A comma inside parentheses belongs to a permission rule such as `Bash(git log:*, git show:*)`.
    return tuple(name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip())


def _shell_words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _owners(text: str) -> frozenset[int] | None:
    if text.strip() == "any":
        return None
    return _usual_owners() | {int(part) for part in text.split(",")}


def _directory(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_dir():
        raise ValueError
    return path


def _program(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ValueError
    return path


def _model(text: str) -> str:
    if not re.fullmatch(r"[^-\s]\S*", text):
        raise ValueError
    return text


def _redis_url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError
    return text


def _log_level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError
    return text.upper()
