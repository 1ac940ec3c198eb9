"""What the orchestrator is told from outside: the environment, read once, as one frozen object."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from agent_bus.layout import is_worker_name
from orchestrator_service.team import Team, TeamError, read_team
from service_kit.environment import (
    Environment,
    SettingsError,
    log_level,
    model,
    names,
    positive,
    program,
    redis_url,
    whole,
    with_secrets_from_files,
)

LOOPBACK: Final = frozenset(("127.0.0.1", "::1", "localhost"))
DEFAULT_PORT: Final = 8700


class Role(StrEnum):
    """What the bearer of a token may do; each may do what the ones before it may."""

    READ = "read"
    """Look at everything."""
    SUBMIT = "submit"
    """Hand in, cancel and retry tasks and goals."""
    APPROVE = "approve"
    """Answer the questions of agents."""
    ADMIN = "admin"
    """Pause workers, and change schedules."""

    def allows(self, needed: Role) -> bool:
        """Tell whether this role is enough."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Token:
    """One bearer token."""

    name: str
    """Who it stands for, in the ledger and in the log."""
    role: Role
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """How the API is reached, and by whom."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 means any free one; the heartbeat tells which."""
    tokens: tuple[Token, ...] = ()
    """None: everybody on this machine may do everything, and only loopback is listened on."""
    max_request_bytes: int = 16 * 1024 * 1024
    """`MAX_REQUEST_BYTES`."""
    rate_limit: float = 0.0
    """`RATE_LIMIT`: requests a second that each token may send on average; 0 means no limit."""
    rate_burst: int = 100
    """`RATE_BURST`: so many may come at once."""
    session_ttl_s: float = 7 * 86_400.0
    """`SESSION_TTL`: after so long who has logged in to the dashboard logs in again."""
    cors_origins: tuple[str, ...] = ()
    """`CORS_ORIGINS`: pages of these origins may ask; none by default."""


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """What may be spent, in US dollars; None means no bound."""

    task_usd: float | None = None
    """`TASK_BUDGET_USD`: a task that names no `max_budget_usd`, all its tries, and the most that one may name."""
    worker_day_usd: float | None = None
    """`WORKER_BUDGET_USD`: each worker, a day."""
    day_usd: float | None = None
    """`DAY_BUDGET_USD`: the whole team, a day."""
    timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    """`BUDGET_TIMEZONE`: where a day begins and ends."""


@dataclass(frozen=True, kw_only=True)
class GoalSettings:
    """How the orchestrator agent works on a goal."""

    cli: Path | None = None
    """`CLAUDE_CLI`: the program; None means the one that the SDK brings, else `claude` on the PATH."""
    model: str | None = None
    """`GOAL_MODEL`: None means Claude Code's own default."""
    max_tasks: int = 50
    """`GOAL_MAX_TASKS`."""
    max_depth: int = 3
    """`GOAL_MAX_DEPTH`."""
    timeout_s: float = 3600.0
    """`GOAL_TIMEOUT`."""
    max_budget_usd: float | None = None
    """`GOAL_BUDGET_USD`: the agent and its tasks together; None means no bound."""
    max_running: int = 2
    """`GOAL_MAX_RUNNING`: goals that are worked on at the same time; each takes a Claude process."""


@dataclass(frozen=True, kw_only=True)
class OrchestratorSettings:
    """Everything that the orchestrator is told from outside."""

    shared: Path
    ledger: Path
    """`LEDGER_PATH`."""
    team: Team | None = None
    """`TEAM_FILE`: gives roles and skills."""
    workers: tuple[str, ...] = ()
    """`WORKERS`: names that are known before a heartbeat comes; those of the team file are as well."""
    redis_url: str | None = field(default=None, repr=False)
    api: ApiSettings = ApiSettings()
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    goals: GoalSettings = GoalSettings()
    silent_after_s: float = 60.0
    """`WORKER_SILENT_AFTER`: a worker whose heartbeat is older is down."""
    max_in_flight: int | None = None
    """`MAX_IN_FLIGHT`: tasks at one worker at the same time; None means twice its slots."""
    ledger_keep_days: float = 0.0
    """`LEDGER_KEEP_DAYS`: tasks that ended longer ago are forgotten; 0 keeps all."""
    check_interval_s: float = 60.0
    """`CHECK_INTERVAL`: how often files, streams and ledger are compared."""
    rescan_interval_s: float = 30.0
    """`RESCAN_INTERVAL`: the net under all notices."""
    heartbeat_interval_s: float = 10.0
    log_level: str = "INFO"
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What of this process's environment the orchestrator agent may see is chosen from this."""

    @property
    def logs(self) -> Path:
        """Where the log is written."""
        return self.shared / "watcher-logs" / "orchestrator.log"

    @property
    def heartbeat(self) -> Path:
        """The orchestrator's own sign of life, by which the command line finds its API."""
        return orchestrator_heartbeat(self.shared)


def orchestrator_heartbeat(shared: Path) -> Path:
    """Return where the orchestrator of a shared directory leaves its heartbeat."""
    return shared / "heartbeats" / "orchestrator.json"


def read_settings(environ: Mapping[str, str]) -> OrchestratorSettings:
    """Return the settings that the environment gives.

    Raises:
        SettingsError: a variable is wrong.
    """
    merged = with_secrets_from_files(environ)
    read = Environment(merged)
    shared = read.value("SHARED_DIR", lambda text: Path(text).absolute(), "a directory", Path("/shared"))
    if not shared.is_dir():
        raise SettingsError(f"SHARED_DIR is {str(shared)!r}; allowed is a directory that exists.")
    team = read.value("TEAM_FILE", _team, "a team file", None)
    team_redis = None if team is None else team.redis_url
    return OrchestratorSettings(
        shared=shared,
        ledger=read.value(
            "LEDGER_PATH",
            lambda text: Path(text).absolute(),
            "the path of a file",
            shared / "orchestrator" / "ledger.sqlite3",
        ),
        team=team,
        workers=read.value("WORKERS", _workers, "names of workers, divided by commas", ()),
        redis_url=read.value("REDIS_URL", redis_url, "a redis://, rediss:// or unix:// URL", team_redis),
        api=_read_api(read),
        budget=_read_budget(read),
        goals=GoalSettings(
            cli=read.value("CLAUDE_CLI", program, "the path of an executable file", None),
            model=read.value("GOAL_MODEL", model, "the name of a model, without spaces", None),
            max_tasks=read.value("GOAL_MAX_TASKS", whole(1, 1000), "a whole number from 1 to 1000", 50),
            max_depth=read.value("GOAL_MAX_DEPTH", whole(1, 10), "a whole number from 1 to 10", 3),
            timeout_s=read.seconds("GOAL_TIMEOUT", 3600.0),
            max_budget_usd=read.value("GOAL_BUDGET_USD", positive, "a number above 0", None),
            max_running=read.value("GOAL_MAX_RUNNING", whole(1, 100), "a whole number from 1 to 100", 2),
        ),
        silent_after_s=read.seconds("WORKER_SILENT_AFTER", 60.0),
        max_in_flight=read.value("MAX_IN_FLIGHT", whole(1, 100_000), "a whole number from 1 to 100000", None),
        ledger_keep_days=read.value("LEDGER_KEEP_DAYS", _days, "a number of days, 0 or more", 0.0),
        check_interval_s=read.seconds("CHECK_INTERVAL", 60.0),
        rescan_interval_s=read.seconds("RESCAN_INTERVAL", 30.0),
        heartbeat_interval_s=read.seconds("HEARTBEAT_INTERVAL", 10.0, at_most=3600.0),
        log_level=read.value("LOG_LEVEL", log_level, "DEBUG, INFO, WARNING or ERROR", "INFO"),
        environ=merged,
    )


def _read_budget(read: Environment) -> BudgetSettings:
    budget = BudgetSettings(
        task_usd=read.value("TASK_BUDGET_USD", positive, "a number above 0", None),
        worker_day_usd=read.value("WORKER_BUDGET_USD", positive, "a number above 0", None),
        day_usd=read.value("DAY_BUDGET_USD", positive, "a number above 0", None),
        timezone=read.value("BUDGET_TIMEZONE", timezone, "a time zone such as UTC or Europe/Berlin", ZoneInfo("UTC")),
    )
    for name, limit in (("DAY_BUDGET_USD", budget.day_usd), ("WORKER_BUDGET_USD", budget.worker_day_usd)):
        if limit is None:
            continue
        if budget.task_usd is None:
            raise SettingsError(
                f"{name} needs TASK_BUDGET_USD, which says what to reserve for a task that names no budget."
            )
        if budget.task_usd > limit:
            raise SettingsError(
                f"TASK_BUDGET_USD is {budget.task_usd:g} and {name} {limit:g}: no task could ever be sent; allowed is"
                f" a TASK_BUDGET_USD of at most {limit:g}."
            )
    return budget


def _read_api(read: Environment) -> ApiSettings:
    host = read.value("HTTP_HOST", str, "an address", "127.0.0.1")
    tokens = [
        *read.value("API_TOKENS", _tokens, "lines of NAME:ROLE:TOKEN, the role read, submit, approve or admin", ()),
        *read.value("API_TOKEN", _admin_token, "a token of at least 16 characters without spaces", ()),
    ]
    if not tokens and host not in LOOPBACK:
        raise SettingsError(
            f"HTTP_HOST is {host!r} and there is no token: everybody who reaches it could run agents; set API_TOKEN or "
            "API_TOKENS (or API_TOKENS_FILE), or leave HTTP_HOST at 127.0.0.1."
        )
    named = [token.name for token in tokens]
    if len(set(named)) < len(named):
        raise SettingsError("API_TOKENS names two tokens alike; allowed is one token a name (`admin` is API_TOKEN's).")
    return ApiSettings(
        host=host,
        port=read.value("HTTP_PORT", whole(0, 65535), "a whole number from 0 to 65535", DEFAULT_PORT),
        tokens=tuple(tokens),
        max_request_bytes=read.value(
            "MAX_REQUEST_BYTES", whole(1024, 2**30), "a whole number from 1024 to 1073741824", 16 * 1024 * 1024
        ),
        rate_limit=read.value("RATE_LIMIT", _rate, "requests a second, 0 for no limit", 0.0),
        rate_burst=read.value("RATE_BURST", whole(1, 1_000_000), "a whole number from 1 to 1000000", 100),
        session_ttl_s=read.seconds("SESSION_TTL", 7 * 86_400.0),
        cors_origins=read.value(
            "CORS_ORIGINS", _origins, "origins such as https://board.example, divided by commas", ()
        ),
    )


def timezone(text: str) -> ZoneInfo:
    """Read the name of a time zone."""
    try:
        return ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise ValueError from error


def _team(text: str) -> Team:
    try:
        return read_team(Path(text))
    except TeamError as error:
        raise SettingsError(f"TEAM_FILE is {text!r}, and {error}") from error


def _workers(text: str) -> tuple[str, ...]:
    found = names(text)
    if not all(is_worker_name(name) for name in found):
        raise ValueError
    return found


def _tokens(text: str) -> tuple[Token, ...]:
    lines = [line.strip() for line in re.split(r"[\n,]", text)]
    return tuple(_token(line, at) for at, line in enumerate(lines, 1) if line and not line.startswith("#"))


def _token(line: str, at: int) -> Token:
    # Nothing of the line goes into the error: any part of it may be the secret, its beginning too.
    name, _, rest = line.partition(":")
    role, _, secret = rest.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", name):
        raise ValueError(f"entry {at} does not begin with NAME: (letters, digits and ._@-)")
    if role not in list(Role):
        raise ValueError(f"entry {at} is not NAME:ROLE:SECRET with one of the roles {', '.join(Role)}")
    return Token(name, Role(role), _secret(secret, f"the secret of entry {at}"))


def _admin_token(text: str) -> tuple[Token, ...]:
    return (Token("admin", Role.ADMIN, _secret(text, "it")),)


def _secret(text: str, whose: str) -> str:
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{whose} must have at least 16 printable ASCII characters without spaces")
    return text


def _rate(text: str) -> float:
    return 0.0 if float(text) == 0 else positive(text)


def _days(text: str) -> float:
    return 0.0 if float(text) == 0 else positive(text)


def _origins(text: str) -> tuple[str, ...]:
    found = names(text)
    if not all(re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", origin) for origin in found):
        raise ValueError
    return found
