"""What a worker is told from outside: the environment, read once, as one frozen object."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from agent_bus.layout import WorkerLayout
from agent_bus.messages import OnQuestion
from service_kit.agent_environment import agent_environment
from service_kit.environment import (
    Environment,
    SettingsError,
    directory,
    log_level,
    model,
    names,
    one_of,
    owners,
    positive,
    program,
    redis_url,
    secret_files,
    shell_words,
    switch,
    usual_owners,
    whole,
    with_secrets_from_files,
    worker_name,
)
from service_kit.modes import DEFAULT_SLOTS, Mode, WakeUps, read_wake_ups
from service_kit.places import USUAL_SHARED_DIR, has_shared_directory, layout_of

_WORKER_NAMES = "1 to 63 letters, digits, dots, dashes or underscores, the first a letter or digit"


class AgentKind(StrEnum):
    """Who does the work."""

    CLAUDE = "claude"
    COMMAND = "command"
    ECHO = "echo"


class Isolation(StrEnum):
    """Whether the shell commands of a model run scrubbed and isolated."""

    AUTO = "auto"
    """Where the platform allows it."""
    ON = "on"
    """Or the worker does not start."""
    OFF = "off"


class Worktrees(StrEnum):
    """Which tasks run in a worktree of their own, where they say nothing themselves."""

    AUTO = "auto"
    """With more than one slot those whose workspace is a git working tree with a commit."""
    ON = "on"
    """All; one that cannot fails."""
    OFF = "off"
    """None."""


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
    """`PERMISSION_MODE`: as Claude Code's own; what it leaves open is asked of people, see `QuestionSettings`."""
    max_turns: int | None = None
    """`MAX_TURNS`: None means no bound."""
    max_budget_usd: float | None = None
    """`MAX_BUDGET_USD`: per task; None means no bound."""
    park_on_limit: bool = True
    """`PARK_ON_LIMIT`: hold tasks back until a usage limit is over; 0 fails them at once."""
    isolation: Isolation = Isolation.AUTO
    """`AGENT_ISOLATION`: whether shell commands run without the credential and apart from the machine."""


class StuckAction(StrEnum):
    """What is done about a task that is stuck."""

    END = "end"
    """Tell of it, interrupt it, and kill it if it does not answer."""
    TELL = "tell"
    """Only tell of it."""


@dataclass(frozen=True, kw_only=True)
class SupervisionSettings:
    """When a running task counts as stuck, and what is done about it; docs/supervision.md has the reasons."""

    after_s: float = 900.0
    """`STUCK_AFTER`: 0 turns supervision off; a task's `stuck_after` wins. Above the ten minutes that Claude Code lets
    a shell command run, and that it waits for an answer of the API."""
    linger_s: float = 60.0
    """`STUCK_LINGER`: 0 lets a task live on after its answer."""
    repeats: int = 10
    """`STUCK_REPEATS`: 0 lets a task repeat itself."""
    idle_cpu: float = 0.02
    """`STUCK_IDLE_CPU`: the share of one CPU below which processes count as idle."""
    action: StuckAction = StuckAction.END
    """`STUCK_ACTION`"""
    interrupt_after_s: float = 60.0
    """`STUCK_INTERRUPT_AFTER`: from the notice to the interrupt."""
    kill_after_s: float = 10.0
    """`STUCK_KILL_AFTER`: from the interrupt to the kill."""


class AskPeople(StrEnum):
    """Whether people are asked for permissions that the rules leave open."""

    ON = "on"
    OFF = "off"
    """Claude Code denies them at once."""


@dataclass(frozen=True, kw_only=True)
class QuestionSettings:
    """What is done with permissions that the rules leave open."""

    on: bool = True
    """`QUESTIONS`: ask people; off has Claude Code deny at once."""
    timeout_s: float = 300.0
    """`QUESTION_TIMEOUT`: how long a person has, unless the task says otherwise."""
    policy: OnQuestion = OnQuestion.DENY
    """`ON_QUESTION`: what becomes of a question that nobody answers, unless the task says otherwise."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Everything that a worker is told from outside."""

    worker: str
    instance: str
    """This process among its replicas; never used again."""
    layout: WorkerLayout
    serves_files: bool = True
    """Whether there is a shared directory; without one the worker lives on Redis alone."""
    wake_ups: WakeUps = field(default_factory=WakeUps)
    agent: AgentKind = AgentKind.CLAUDE
    command: tuple[str, ...] = ()
    """`AGENT_COMMAND`, split as a shell would."""
    agent_environment: Mapping[str, str] = field(default_factory=dict)
    """All that an agent's process sees: the allow-list applied to this process's environment."""
    workspace: Path = Path()
    """`WORKSPACE`: where agents work unless the task names another place."""
    worktrees: Worktrees = Worktrees.OFF
    """`WORKTREES`: which tasks run in a worktree of their own."""
    worktree_keep_s: float = 604_800.0
    """`WORKTREE_KEEP`: how long a worktree stays after its last task."""
    worktree_dir: Path = Path()
    """Where worktrees are made: a directory of this worker's own in `WORKTREE_DIR`."""
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
    redis_url: str | None = field(default=None, repr=False)
    redis_lease_s: float = 30.0
    """`REDIS_LEASE`: a task whose worker has not renewed it for this long is another one's to take."""
    hooks_config: Path = Path()
    """`HOOKS_CONFIG`: the file of hook rules; where there is none, no event becomes a trigger."""
    secret_files: tuple[Path, ...] = ()
    """Files that hold secrets: the agents are kept from them."""
    hook_token: str | None = field(default=None, repr=False)
    """`HOOK_TOKEN`: what a request to `/hooks` must carry; None makes a random one for this process alone."""
    hook_timeout_s: float = 5.0
    """`HOOK_TIMEOUT`: the longest that a hook may hold up the agent."""
    log_level: str = "INFO"
    claude: ClaudeSettings = field(default_factory=ClaudeSettings)
    supervision: SupervisionSettings = field(default_factory=SupervisionSettings)
    questions: QuestionSettings = field(default_factory=QuestionSettings)

    @property
    def worktree_records(self) -> Path:
        """What is known of the worktrees: beside the tasks, where no agent may look or write."""
        return self.layout.worktree_records

    @property
    def mode(self) -> Mode:
        """The mode in one word."""
        return self.wake_ups.mode


def read_settings(environ: Mapping[str, str], worker: str | None = None) -> WorkerSettings:
    """Turn the environment into settings; `worker`, where given, wins over `WORKER_NAME`.

    Raises:
        SettingsError: a value is wrong or missing.
    """
    secrets = secret_files(environ)
    environ = with_secrets_from_files(environ)
    read = Environment(environ)
    name = read.value("WORKER_NAME", worker_name, _WORKER_NAMES, None, given=worker)
    if name is None:
        raise SettingsError("WORKER_NAME is not set; name the worker: `python -m worker_service NAME`.")
    redis = read.value("REDIS_URL", redis_url, "a redis://, rediss:// or unix:// URL", None)
    serves_files = redis is None or has_shared_directory(environ)
    wake_ups = read_wake_ups(read, has_redis=redis is not None, has_files=serves_files)
    agent = read.value("AGENT", AgentKind, "claude, command or echo", AgentKind.CLAUDE)
    command = read.value("AGENT_COMMAND", shell_words, "a command line as a shell would take it", ())
    if agent is AgentKind.COMMAND and not command:
        raise SettingsError("AGENT is 'command' and AGENT_COMMAND is not set; name the program to run.")
    slots = read.value("MAX_CONCURRENT", whole(1, 1000), "a whole number from 1 to 1000", DEFAULT_SLOTS[wake_ups.mode])
    layout = _layout(environ, read, name, serves_files=serves_files)
    rules = layout.hooks_config / f"{name}-hooks.json"
    claude = _claude_settings(read, slots)
    return WorkerSettings(
        worker=name,
        instance=_new_instance(),
        layout=layout,
        serves_files=serves_files,
        wake_ups=wake_ups,
        agent=agent,
        command=command,
        agent_environment=agent_environment(environ, read.value("AGENT_ENV", names, "variable names", ())),
        workspace=read.value("WORKSPACE", directory, "a directory that exists", Path.cwd()),
        worktrees=read.value("WORKTREES", Worktrees, "auto, on or off", Worktrees.AUTO),
        worktree_keep_s=read.seconds("WORKTREE_KEEP", 604800.0, at_least=1.0, at_most=365 * 86_400.0),
        worktree_dir=read.value(
            "WORKTREE_DIR", Path, "a directory", _worktrees_place(layout, environ, serves_files)
        ).absolute()
        / name,
        slots=slots,
        task_timeout_s=read.seconds("TASK_TIMEOUT", 3600.0, at_most=30 * 86_400.0),
        max_attempts=read.value("MAX_ATTEMPTS", whole(1, 1000), "a whole number from 1 to 1000", 3),
        shutdown_grace_s=read.seconds("SHUTDOWN_GRACE", 50.0, at_least=0.0),
        poll_interval_s=read.seconds("POLL_INTERVAL", 1.0, at_least=0.01),
        rescan_interval_s=read.seconds("RESCAN_INTERVAL", 30.0, at_least=0.1),
        heartbeat_interval_s=read.seconds("HEARTBEAT_INTERVAL", 10.0, at_least=0.1),
        probe_interval_s=read.seconds("PROBE_INTERVAL", 60.0, at_least=0.1),
        max_trigger_bytes=read.value(
            "MAX_TRIGGER_BYTES", whole(1024, 2**30), "a whole number from 1024 to 1073741824", 1_048_576
        ),
        settle_s=read.seconds("SETTLE_TIME", 2.0, at_least=0.0),
        trigger_owners=read.value("TRIGGER_OWNERS", owners, "`any` or user ids divided by commas", usual_owners()),
        sync_results=read.value("SYNC_RESULTS", switch, "1 or 0", True),
        http_host=read.value("HTTP_HOST", str, "an address of this machine", "127.0.0.1"),
        http_port=read.value("HTTP_PORT", whole(0, 65535), "a whole number from 0 to 65535", 8080),
        redis_url=redis,
        redis_lease_s=read.seconds("REDIS_LEASE", 30.0, at_least=1.0, at_most=3600.0),
        hooks_config=read.value("HOOKS_CONFIG", Path, "a file of hook rules", rules).absolute(),
        secret_files=secrets,
        hook_token=read.value("HOOK_TOKEN", str, "any text", None),
        hook_timeout_s=read.seconds("HOOK_TIMEOUT", 5.0, at_least=0.1, at_most=600.0),
        log_level=read.value("LOG_LEVEL", log_level, "DEBUG, INFO, WARNING or ERROR", "INFO"),
        claude=claude,
        supervision=_supervision_settings(read),
        questions=QuestionSettings(
            on=read.value("QUESTIONS", AskPeople, "on or off", AskPeople.ON) is AskPeople.ON,
            timeout_s=read.seconds("QUESTION_TIMEOUT", 300.0, at_least=0.1, at_most=30 * 86_400.0),
            policy=read.value("ON_QUESTION", OnQuestion, "deny, wait or fail", OnQuestion.DENY),
        ),
    )


def _supervision_settings(read: Environment) -> SupervisionSettings:
    return SupervisionSettings(
        after_s=read.seconds("STUCK_AFTER", 900.0, at_least=0.0),
        linger_s=read.seconds("STUCK_LINGER", 60.0, at_least=0.0),
        repeats=read.value("STUCK_REPEATS", whole(0, 1000), "a whole number from 0 to 1000", 10),
        idle_cpu=read.value("STUCK_IDLE_CPU", positive, "a number above 0", 0.02),
        action=read.value("STUCK_ACTION", StuckAction, "end or tell", StuckAction.END),
        interrupt_after_s=read.seconds("STUCK_INTERRUPT_AFTER", 60.0, at_least=0.0),
        kill_after_s=read.seconds("STUCK_KILL_AFTER", 10.0, at_least=0.1, at_most=600.0),
    )


def _claude_settings(read: Environment, slots: int) -> ClaudeSettings:
    return ClaudeSettings(
        cli=read.value("CLAUDE_CLI", program, "the path of an executable file", None),
        warm_processes=read.value("WARM_PROCESSES", whole(0, 100), "a whole number from 0 to 100", min(2, slots)),
        freeze=read.value("FREEZE_IDLE", switch, "1 or 0", True),
        model=read.value("MODEL", model, "the name of a model, without spaces", None),
        output_style=read.value("OUTPUT_STYLE", str, "a style's file or name", None),
        allowed_tools=read.value("ALLOWED_TOOLS", names, "tool names divided by commas", ()),
        permission_mode=read.value(
            "PERMISSION_MODE",
            one_of("default", "acceptEdits", "plan", "dontAsk", "bypassPermissions", "auto"),
            "default, acceptEdits, plan, dontAsk, auto or bypassPermissions",
            "acceptEdits",
        ),
        max_turns=read.value("MAX_TURNS", whole(1, 10_000), "a whole number from 1 to 10000", None),
        max_budget_usd=read.value("MAX_BUDGET_USD", positive, "a number above 0", None),
        park_on_limit=read.value("PARK_ON_LIMIT", switch, "1 or 0", True),
        isolation=read.value("AGENT_ISOLATION", Isolation, "auto, on or off", Isolation.AUTO),
    )


def _layout(environ: Mapping[str, str], read: Environment, name: str, *, serves_files: bool) -> WorkerLayout:
    # On Redis alone there are still a log, gates and whatever else is this machine's own.
    usual = USUAL_SHARED_DIR if serves_files else Path(tempfile.gettempdir(), f"codehornets-{os.geteuid()}", name)
    return layout_of(environ, read.value("SHARED_DIR", Path, "a directory", usual).absolute(), name)


def _worktrees_place(layout: WorkerLayout, environ: Mapping[str, str], serves_files: bool) -> Path:
    # With Redis alone the shared directory is a temporary one; the conversations that go on in a worktree are in HOME.
    if serves_files or not environ.get("HOME"):
        return layout.shared / "worktrees"
    return Path(environ["HOME"], ".codehornets", "worktrees")


def _new_instance() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:40] or "host"
    return f"{host}-{os.getpid()}-{os.urandom(4).hex()}"
