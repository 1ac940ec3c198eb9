"""The queue as the dispatcher sees it: one small interface, one module an implementation.

Events are hints, the queue is the truth: a claim is the only way to get a task, and a task stays claimed until it
is completed, released or buried. Delivery is at least once; `complete` makes the result exactly one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from agent_bus.errors import DeadLetterReason
from agent_bus.messages import Result, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerEvent:
    """A trigger that is no task: to be published and counted; it is removed already."""

    name: str
    body: str


@dataclass(kw_only=True, slots=True)
class Claim:
    """A task that this instance owns until it completes, releases or buries it."""

    task: Task
    attempt: int
    """1 for the first time the task is handed to an agent."""
    queued_at: datetime
    token: str
    """What the queue needs to find the claim again; opaque to everyone else."""
    session_id: str | None = None
    """The Claude session that an interrupted attempt left behind."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What `remember` stored earlier."""
    cancelled: bool = False
    """Somebody asked for its end before it began."""
    transport: str = "file"
    """Which queue it came from: `file` or `redis`."""


class Queue(Protocol):
    """Where tasks wait. All methods may raise `agent_bus.errors.BusError`."""

    async def claim(self) -> Claim | None:
        """Take the next task: highest priority first, then oldest. None when nothing can be taken now."""

    async def extend(self, claim: Claim) -> None:
        """Renew the lease, in a queue that has one; such a queue also does so by itself while it runs."""

    async def remember(self, claim: Claim, *, session_id: str | None) -> None:
        """Store the conversation's id with the claim, so that whoever takes the task over can resume it."""

    async def complete(self, claim: Claim, result: Result) -> bool:
        """Store the result, then let go of the claim. False when another result was there first; it stays.

        Raises:
            ResultNotStored: nothing was stored and the claim is kept; try again later.
        """

    async def release(
        self,
        claim: Claim,
        *,
        spend_attempt: bool,
        not_before: datetime | None = None,
        reason: str = "",
        result: Result | None = None,
    ) -> None:
        """Give the task back, to be claimed again (not before the moment given), here or elsewhere.

        A `result` that could not be stored goes with it, as `result` in the notes of the next claim.
        """

    async def bury(self, claim: Claim, reason: DeadLetterReason, message: str, result: Result | None) -> None:
        """Set the task aside for good, with its reason and, where given, a failed result."""

    async def request_cancel(self, task_id: str) -> bool:
        """Have a waiting task end when it is claimed; False when no such task is known here."""

    def depth(self) -> int:
        """Return how many tasks wait, as far as is known without looking anew."""
