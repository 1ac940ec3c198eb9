"""A transport as the orchestrator sees it: one small interface, one module an implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agent_bus.commands import Command
from agent_bus.messages import Event, Heartbeat, Result
from agent_bus.questions import Answer, AnswerFate, Question
from service_kit.findings import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatch:
    """One task on its way to one worker."""

    wire_id: str
    """What the worker calls it; no other dispatch is ever called so."""
    worker: str
    transport: str
    body: bytes
    """The task as JSON, with `task_id` = `wire_id`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Undelivered:
    """A dispatch that could not be handed over; nothing of it is left on the way."""

    dispatch: Dispatch
    reason: str
    """One sentence for people."""


class Place(StrEnum):
    """Where a dispatch is found when one looks for it."""

    WAITING = "waiting"
    """It lies with the worker, which has not begun it."""
    TAKEN = "taken"
    """An instance has claimed it."""
    ENDED = "ended"
    """Its result is there."""
    GONE = "gone"
    """There is no trace of it."""
    UNKNOWN = "unknown"
    """It cannot be found out now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeardResult:
    """A result that has come."""

    result: Result
    transport: str
    position: str | None = None
    """How far the transport's stream is read with it; stored together with the result."""
    event_position: int = 0
    """How many bytes the task's journal has by now."""
    on_stored: Callable[[], None] | None = None
    """Called once the ledger has it, so that whatever told of it can be cleared away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalLine:
    """One line of what an agent does."""

    position: int
    """Bytes of the journal up to and with this line: where to go on."""
    line: bytes
    """The event as JSON, without its line end."""


class Ears(Protocol):
    """Who is told what a transport hears. Called in the loop; never blocks, never raises."""

    def hear_result(self, heard: HeardResult) -> None:
        """A result is there. The same one may be told several times."""

    def hear_broken_result(self, transport: str, worker: str, wire_id: str, reason: str) -> None:
        """There is a result that cannot be understood; `reason` is one sentence that names it."""

    def hear_started(self, transport: str, worker: str, wire_id: str) -> None:
        """An agent has begun a task. May come more than once, late, or never."""

    def hear_heartbeat(self, transport: str, beat: Heartbeat) -> None:
        """A worker's instance is there."""

    def hear_event(self, transport: str, event: Event) -> None:
        """Something that an agent or worker does, live, as far as it is told; not all of it is."""

    def hear_question(self, transport: str, question: Question) -> None:
        """An agent asks something of people, or a question has come to its end. May be told several times."""


class Transport(Protocol):
    """One way to the workers. Nothing here raises for trouble on the way: it is told in what is returned."""

    name: str
    """`file` or `redis`."""

    def open(self, ears: Ears) -> AbstractAsyncContextManager[None]:
        """Listen for the length of the block. Entered once; what was there before is told first."""

    async def send(self, dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        """Hand tasks over, each at once and whole. A dispatch that lies there already is left as it is."""

    async def withdraw(self, worker: str, wire_id: str) -> bool:
        """Take a dispatch back that no instance has claimed; True when it is certain that nobody will run it."""

    async def cancel(self, worker: str, wire_id: str) -> None:
        """Ask for the end of a dispatch, waiting or running."""

    async def locate(self, worker: str, wire_id: str) -> Place:
        """Look for a dispatch."""

    async def result(self, worker: str, wire_id: str) -> Result | None:
        """Return the result of a dispatch if it is there and can be understood."""

    async def tell(self, worker: str, command: Command) -> bool:
        """Send a control command; False when nobody there listens."""

    async def answer(self, worker: str, question_id: str, answer: Answer) -> AnswerFate:
        """Hand over what a person says to a question."""

    async def journal(self, worker: str, wire_id: str, after: int) -> list[JournalLine]:
        """Return what the agent did behind byte `after`, as far as it is written by now."""

    def follow(self, worker: str, wire_id: str, after: int) -> AsyncIterator[JournalLine]:
        """Yield what the agent did behind byte `after`, then what it does, live; ends only when it is closed."""

    async def running(self) -> dict[str, list[str]]:
        """Return which instances hold which dispatches now: wire id → `WORKER/INSTANCE` of each holder."""

    def away(self) -> str | None:
        """Say why nobody can be reached this way now, without a full stop; None while somebody can."""

    def findings(self) -> list[Finding]:
        """Say how it is, for `/readyz`."""
