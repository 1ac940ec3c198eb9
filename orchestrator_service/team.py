"""The team file: who works here, as what, within which limits. One TOML file that a person reads and edits.

Every relative path in it is meant from the folder that the file is in, so that a team means the same from wherever
it is started.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from agent_bus.layout import ORCHESTRATOR, is_worker_name
from agent_bus.messages import OnQuestion
from agent_bus.redis.url import parse_redis_url, redact

T = TypeVar("T")

TEAM_FILE_NAME: Final = "team.toml"
EXAMPLE_TEAM: Final = Path(__file__).parent / "example_team" / TEAM_FILE_NAME

MODES: Final = ("polling", "event-driven", "hooks", "hybrid")
AGENTS: Final = ("auto", "claude", "command", "echo")
WORKTREES: Final = ("auto", "on", "off")
STUCK_ACTIONS: Final = ("end", "tell")
PERMISSION_MODES: Final = ("default", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions")

_PLACES: Final = ("SHARED_DIR", "TASK_DIR", "RESULT_DIR", "TRIGGER_DIR", "PIPE_DIR", "HEARTBEAT_DIR", "LOG_DIR")
_WORK: Final = ("WORKER_NAME", "WORKER_MODE", "AGENT", "AGENT_COMMAND", "WORKSPACE", "HTTP_PORT")
_WORKTREES: Final = ("WORKTREES", "WORKTREE_KEEP")
_LIMITS: Final = ("MAX_CONCURRENT", "WARM_PROCESSES", "TASK_TIMEOUT", "MAX_TURNS", "MAX_BUDGET_USD")
_STUCK: Final = ("STUCK_AFTER", "STUCK_LINGER", "STUCK_REPEATS", "STUCK_ACTION")
_CLAUDE: Final = (
    "MODEL",
    "OUTPUT_STYLE",
    "ALLOWED_TOOLS",
    "PERMISSION_MODE",
    "QUESTIONS",
    "QUESTION_TIMEOUT",
    "ON_QUESTION",
)

OWN_VARIABLES: Final = frozenset((*_PLACES, *_WORK, *_WORKTREES, *_LIMITS, *_STUCK, *_CLAUDE))
"""Variables that a team sets itself; the `environment` table may not."""


class TeamError(Exception):
    """The team file is wrong; the text is one sentence with the file, the key, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What the team file says of one worker. None means that the worker's own default holds."""

    name: str
    role: str = ""
    """What the worker is for, in a few words for people."""
    skills: tuple[str, ...] = ()
    """What it is good at, for people and for routing."""
    model: str | None = None
    workspace: Path | None = None
    """Where its agents work; None means `workspaces/NAME` in the shared directory, made when it is needed."""
    worktrees: str | None = None
    """Which tasks run in a git worktree of their own."""
    worktree_keep_s: float | None = None
    output_style: Path | None = None
    """A style file, whose text is added to the system prompt."""
    slots: int | None = None
    """Tasks at the same time."""
    warm_processes: int | None = None
    """Claude processes that wait ready for the next task."""
    task_timeout_s: float | None = None
    stuck_after_s: float | None = None
    """Silence after which a task counts as stuck; 0 turns supervision off."""
    stuck_linger_s: float | None = None
    """How long a task may live on after its answer."""
    stuck_repeats: int | None = None
    """How often a task may repeat itself."""
    stuck_action: str | None = None
    """Whether one that is stuck is ended, or only told of."""
    allowed_tools: tuple[str, ...] = ()
    """Tools that need no permission."""
    permission_mode: str | None = None
    questions: str | None = None
    """`on` or `off`: whether people are asked for permissions that the rules leave open."""
    question_timeout_s: float | None = None
    on_question: str | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    agent: str | None = None
    """Overrides the team's."""
    agent_command: str | None = None
    """The command line of the agent `command`."""
    http_port: int = 0
    """0 means any free one; `codehornets status` tells which."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables for the worker."""


@dataclass(frozen=True, kw_only=True)
class OrchestratorPlan:
    """What the team file says of the orchestrator. None means what its environment says, else its own default."""

    enabled: bool = True
    """Whether `codehornets up` starts one."""
    http_port: int | None = None
    max_in_flight: int | None = None
    """Tasks at one worker at the same time."""
    task_budget_usd: float | None = None
    """What one try of a task may cost."""
    worker_budget_usd: float | None = None
    """What each worker may cost a day."""
    day_budget_usd: float | None = None
    """What the whole team may cost a day."""
    goal_model: str | None = None
    """The model of the agent that works on goals."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """A team file that was read and found right."""

    path: Path
    workers: Mapping[str, WorkerPlan]
    orchestrator: OrchestratorPlan = OrchestratorPlan()
    mode: str | None = None
    """None goes by the environment, and without a word there is event-driven."""
    agent: str = "auto"
    """`auto` is Claude where it can log in, else echo."""
    shared_dir: Path | None = None
    redis_url: str | None = None
    """Without a password: a team file is read by many."""

    def worker(self, name: str) -> WorkerPlan:
        """Return the plan of that worker.

        Raises:
            TeamError: the team has none of that name.
        """
        if name not in self.workers:
            raise TeamError(f"No worker {name!r} in {self.path}; it has {', '.join(self.workers)}.")
        return self.workers[name]


def read_team(path: Path) -> Team:
    """Read and check a team file.

    Raises:
        TeamError: it cannot be read, or something in it is wrong.
    """
    path = path.absolute()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TeamError(
            f"{path} cannot be read: {error.strerror}; `codehornets init` writes a team to edit."
        ) from error
    except UnicodeDecodeError as error:
        raise TeamError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    except tomllib.TOMLDecodeError as error:
        raise TeamError(f"{path} is not valid TOML: {error}.") from error
    top = _Table(path, "", content)
    none: dict[str, object] = {}
    defaults = _worker_values(_Table(path, "defaults.", top.take("defaults", _table, "a table", none)))
    named = top.take("workers", _table, "a table with one [workers.NAME] for each worker", none)
    team = Team(
        path=path,
        workers={name: _worker_plan(path, name, values, defaults) for name, values in named.items()},
        mode=top.take("mode", _one_of(MODES), _words(MODES), None),
        agent=top.take("agent", _one_of(AGENTS), _words(AGENTS), "auto"),
        shared_dir=top.take("shared_dir", _path_in(path.parent), "a directory", None),
        redis_url=_redis_url(path, top),
        orchestrator=_orchestrator_plan(
            _Table(path, "orchestrator.", top.take("orchestrator", _table, "a table", none))
        ),
    )
    top.refuse_rest()
    if not team.workers:
        raise TeamError(f"{path} names no worker; add a table [workers.NAME].")
    return team


def _redis_url(path: Path, top: _Table) -> str | None:
    url = top.take("redis_url", _text, "a redis://, rediss:// or unix:// URL", None)
    if url is None:
        return None
    try:
        address = parse_redis_url(url)
    except ValueError as error:
        raise TeamError(f"{path}: redis_url cannot be used: {error}.") from None
    if address.secrets:
        raise TeamError(
            f"{path}: redis_url is {address.shown}, with a password, which does not belong into a team file; put the "
            "URL into a file that only you can read, and name that file in REDIS_URL_FILE."
        )
    return url


def _orchestrator_plan(table: _Table) -> OrchestratorPlan:
    plan = OrchestratorPlan(
        enabled=table.take("enabled", _truth, "true or false", True),
        http_port=table.take("http_port", _whole(0, 65535), "a whole number from 0 to 65535", None),
        max_in_flight=table.take("max_in_flight", _whole(1, 100_000), "a whole number from 1 to 100000", None),
        task_budget_usd=table.take("task_budget_usd", _number(1e-9, math.inf), "a number above 0", None),
        worker_budget_usd=table.take("worker_budget_usd", _number(1e-9, math.inf), "a number above 0", None),
        day_budget_usd=table.take("day_budget_usd", _number(1e-9, math.inf), "a number above 0", None),
        goal_model=table.take("goal_model", _model, "the name of a model, without spaces", None),
    )
    table.refuse_rest()
    return plan


def _worker_plan(path: Path, name: str, values: object, defaults: dict[str, Any]) -> WorkerPlan:
    if not is_worker_name(name):
        raise TeamError(
            f"{path}: workers.{name!r} is no name for a worker; allowed are 1 to 63 letters, digits, dots, dashes or "
            "underscores, the first a letter or digit."
        )
    if name == ORCHESTRATOR:
        raise TeamError(f"{path}: workers.{name} is the orchestrator's own name; name the worker otherwise.")
    if not isinstance(values, dict):
        raise TeamError(f"{path}: workers.{name} is {values!r}; allowed is a table [workers.{name}].")
    own = _worker_values(_Table(path, f"workers.{name}.", values))
    merged = {**defaults, **own, "environment": {**defaults.get("environment", {}), **own.get("environment", {})}}
    return WorkerPlan(name=name, **merged)


def _worker_values(table: _Table) -> dict[str, Any]:
    """Return the fields of `WorkerPlan` that the table gives."""
    folder = table.path.parent
    parsers: dict[str, tuple[str, Callable[[object], object], str]] = {
        "role": ("role", _text, "a text"),
        "skills": ("skills", _texts, "a list of texts"),
        "model": ("model", _model, "the name of a model, without spaces"),
        "workspace": ("workspace", _path_in(folder), "a directory"),
        "worktrees": ("worktrees", _one_of(WORKTREES), _words(WORKTREES)),
        "worktree_keep": ("worktree_keep_s", _number(1, 365 * 86_400), "seconds, at least 1 and at most 31536000"),
        "output_style": ("output_style", _file_in(folder), "the path of a style file that exists"),
        "slots": ("slots", _whole(1, 1000), "a whole number from 1 to 1000"),
        "warm_processes": ("warm_processes", _whole(0, 100), "a whole number from 0 to 100"),
        "task_timeout": ("task_timeout_s", _number(0.001, 30 * 86_400), "seconds, above 0 and at most 2592000"),
        "stuck_after": ("stuck_after_s", _number(0, 7 * 86_400), "seconds, at most 604800"),
        "stuck_linger": ("stuck_linger_s", _number(0, 7 * 86_400), "seconds, at most 604800"),
        "stuck_repeats": ("stuck_repeats", _whole(0, 1000), "a whole number from 0 to 1000"),
        "stuck_action": ("stuck_action", _one_of(STUCK_ACTIONS), _words(STUCK_ACTIONS)),
        "allowed_tools": ("allowed_tools", _texts, "a list of tool names"),
        "permission_mode": ("permission_mode", _one_of(PERMISSION_MODES), _words(PERMISSION_MODES)),
        "questions": ("questions", _one_of(("on", "off")), "on or off"),
        "question_timeout": ("question_timeout_s", _number(0.1, 30 * 86_400), "seconds, from 0.1 to 2592000"),
        "on_question": ("on_question", _one_of(tuple(OnQuestion)), _words(tuple(OnQuestion))),
        "max_turns": ("max_turns", _whole(1, 10_000), "a whole number from 1 to 10000"),
        "max_budget_usd": ("max_budget_usd", _number(1e-9, math.inf), "a number above 0"),
        "agent": ("agent", _one_of(AGENTS), _words(AGENTS)),
        "agent_command": ("agent_command", _text, "a command line as a shell would take it"),
        "http_port": ("http_port", _whole(0, 65535), "a whole number from 0 to 65535"),
        "environment": (
            "environment",
            _variables,
            "a table of texts under variable names other than those that the team file has keys for",
        ),
    }
    found: dict[str, Any] = {}
    for key, (name, parse, allowed) in parsers.items():
        if table.has(key):
            found[name] = table.take(key, parse, allowed, None)
    table.refuse_rest(tuple(parsers))
    return found


class _Table:
    """One table of the file; knows which of its keys were asked for, so that the others can be refused."""

    def __init__(self, path: Path, prefix: str, values: Mapping[str, object]) -> None:
        self.path = path
        self._prefix = prefix
        self._values = dict(values)
        self._asked: list[str] = []

    def has(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, parse: Callable[[object], T], allowed: str, default: T) -> T:
        self._asked.append(key)
        if key not in self._values:
            return default
        value = self._values[key]
        try:
            return parse(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise TeamError(f"{self.path}: {self._prefix}{key} is {_shown(value)}; allowed is {allowed}.") from error

    def refuse_rest(self, known: tuple[str, ...] = ()) -> None:
        known = known or tuple(self._asked)
        for key, value in self._values.items():
            if key not in known:
                raise TeamError(
                    f"{self.path}: {self._prefix}{key} is {_shown(value)}, and there is no such key; "
                    f"allowed are {', '.join(known)}."
                )


def _shown(value: object) -> str:
    text = redact(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}…"


def _words(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


def _variables(value: object) -> dict[str, str]:
    variables = {name: _text(text) for name, text in _table(value).items()}
    for name in variables:
        if name in OWN_VARIABLES or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError
    return variables


def _model(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[^-\s]\S*", text):
        raise ValueError
    return text


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return parse


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        # `true` is an integer to Python and a mistake to the person who wrote it.
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError
        return value

    return parse


def _number(least: float, most: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError
        return float(value)

    return parse


def _path_in(folder: Path) -> Callable[[object], Path]:
    return lambda value: folder / Path(_text(value)).expanduser()


def _file_in(folder: Path) -> Callable[[object], Path]:
    def parse(value: object) -> Path:
        path = _path_in(folder)(value)
        if not path.is_file():
            raise ValueError
        return path

    return parse
