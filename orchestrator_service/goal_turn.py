"""What comes of one turn of an orchestrator agent."""

from __future__ import annotations

from dataclasses import dataclass, field


class AgentGone(Exception):
    """The process ended, or cannot be talked to; the text is one sentence."""


@dataclass
class Turn:
    """What one turn of the agent came to."""

    text: str = ""
    """Its answer; of a turn that was cut short, what it had said."""
    error_kind: str | None = None
    error: str = ""
    busy: bool = False
    """Whether the error is one that goes away: a limit, or an API that is overloaded."""
    cost_usd: float = 0.0
    """Of all turns of this process so far."""
    said: list[str] = field(default_factory=list)
