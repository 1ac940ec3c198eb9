"""What an agent is to the dispatcher: something that takes a task and gives an outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from agent_bus.messages import Task, TaskError, TaskStatus


class StopCause(StrEnum):
    """Why a running task is stopped from outside."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    """The worker leaves; the task is released and goes on elsewhere."""
    STUCK = "stuck"
    """It does not get on; see `worker_service.supervision`."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What an agent made of a task. While the agent works it fills in what it has, so that a stop loses nothing."""

    status: TaskStatus = TaskStatus.COMPLETED
    output: str = ""
    structured_output: Any = None
    error: TaskError | None = None
    session_id: str | None = None
    num_turns: int | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    cost_is_partial: bool = False
    """Whether it cost more than was told."""
    model: str | None = None
    stderr: str = ""
    exit_code: int | None = None
    worktree: str | None = None
    branch: str | None = None
    commit: str | None = None
    changes: str | None = None
    changes_note: str | None = None

    def fail(self, kind: str, message: str) -> None:
        """Make it a failure with this reason; the first reason stays."""
        self.status = TaskStatus.FAILED
        if self.error is None:
            self.error = TaskError(kind=kind, message=message)


class LifeSigns(Protocol):
    """What can be seen of a run that has a process; moments are of `time.monotonic`."""

    @property
    def heard_at(self) -> float:
        """When the process last said something."""

    @property
    def answered_at(self) -> float | None:
        """Since when its answer has been there though it has not ended; None while there is none."""

    @property
    def hooked(self) -> bool:
        """Whether it tells of its hooks."""

    @property
    def in_background(self) -> bool:
        """Whether it has commands in the background."""

    def work_seconds(self) -> float:
        """Return the CPU time that the processes working for it have used so far."""


class RateLimited(Exception):
    """The credential has met a usage or rate limit; the task is not at fault and loses no attempt."""

    def __init__(self, kind: str, until: datetime, message: str) -> None:
        """Say which limit (`kind`), when it is announced to end, and a sentence for people."""
        super().__init__(message)
        self.kind = kind
        self.until = until
        self.message = message


def _nobody_watches(signs: LifeSigns) -> None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What an agent asks a person for: to use a tool."""

    tool: str
    input: dict[str, Any]
    because: str | None = None
    """Why it must ask, where it says so."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it."""

    allowed: bool
    message: str
    """To an agent that is denied: why. To one that is allowed: what the person said with it, or nothing."""
    ends_task: bool = False
    """Whether the task is to fail for it; `message` is then for people."""


async def _nothing_to_remember(session_id: str) -> None:
    return None


@dataclass(kw_only=True, slots=True)
class Run:
    """One attempt at a task: what the agent is given, and where it reports."""

    task: Task
    attempt: int = 1
    session_id: str | None = None
    """The conversation to go on in, or None."""
    interrupted: bool = False
    """Whether an earlier attempt had handed the prompt to that conversation."""
    spent_usd: float = 0.0
    """What earlier attempts are known to have cost; the task's budget is for all of them."""
    stuck_before: str | None = None
    """Why an earlier attempt was ended as stuck, in a sentence."""
    outcome: Outcome = field(default_factory=Outcome)
    """Filled in as the work goes on."""
    emit: Callable[[str, dict[str, Any]], None] = lambda event, data: None
    """Tells the world what happens, live; never blocks, never raises."""
    remember: Callable[[str], Awaitable[None]] = _nothing_to_remember
    """Stores the id of the conversation; called before the prompt is handed over, so that a crash can resume it."""
    prompt_handed: Callable[[], None] = lambda: None
    """Called when the agent has the prompt; the queueing time ends here."""
    ask: Callable[[Wish], Awaitable[Verdict]] | None = None
    """Asks a person, and returns what came of it; None where nobody is there to be asked."""
    stop_cause: StopCause | None = None
    """Set before the run is cancelled from outside."""
    supervise: Callable[[LifeSigns], None] = _nobody_watches
    """Called when a process works for the run, with what can be seen of it; may replace `emit`."""
    interrupt_s: float | None = None
    """Seconds that a run stopped as stuck has to end in good order before it is killed; None: as any other."""
    answered: bool = False
    """Whether the answer came after all while the run was being stopped; the outcome then holds it."""


class Agent(Protocol):
    """Does the work of one worker; serves as many runs at a time as the worker has slots."""

    name: str

    async def serve_forever(self) -> None:
        """Do what goes on between tasks (keep processes warm); cancelled when the worker stops."""

    async def run(self, run: Run) -> None:
        """Work on the task and fill in `run.outcome`.

        When cancelled, it ends whatever it started before the cancellation goes on.

        Raises:
            RateLimited: the credential's limit is met.
        """

    async def aclose(self) -> None:
        """End every process; nothing that was started is left when this returns."""

    def processes(self) -> dict[str, int]:
        """Return the number of processes by state (`warm`, `busy`, …)."""

    def statement(self) -> str | None:
        """Say in one sentence why no task can be taken, or None when all is well."""
