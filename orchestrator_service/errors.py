"""What can go wrong with a request to the orchestrator; the HTTP API and the MCP server translate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """One field of an order that cannot be accepted."""

    field: str
    """Where it is, such as `tasks[3].dependencies[0]`; empty for the order as a whole."""
    value: object
    """What was given."""
    message: str
    """One sentence: what is wrong, and what is allowed."""


class OrchestratorError(Exception):
    """A request that was not carried out; the text is one sentence for a person."""


class OrderRefused(OrchestratorError):
    """Something in the order is wrong; nothing of it was accepted."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{first.field}: {first.message}{more}" if first.field else f"{first.message}{more}")


class NotKnown(OrchestratorError):
    """There is no such task, worker, goal, schedule or closed gate."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"There is no {kind} {name[:200]!r}.")


class Conflict(OrchestratorError):
    """What is asked for does not go with the state of the thing, such as the retry of a task that completed."""


class Unavailable(OrchestratorError):
    """It cannot be done now, and may be tried again: the ledger cannot be written, or a part is missing."""


class LedgerUnavailable(Unavailable):
    """The ledger cannot be read or written; nothing was changed."""
