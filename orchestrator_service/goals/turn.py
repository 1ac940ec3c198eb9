"""What comes of one turn of an orchestrator agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
    cost_usd: float | None = None
    """Of all turns of this process so far, and of what it carried over; None if it was not told."""
    usages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each message said of tokens as it began; it is what there is of a turn whose end was not told."""
    usage: dict[str, Any] | None = None
    """The tokens of this turn, as Claude Code tells them at its end."""
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Who is told what the agent does while it does it. Called in the loop; never blocks."""

    on_text: Callable[[str], None]
    on_tool: Callable[[str, dict[str, Any]], None]
    on_wait: Callable[[str], None]
    """Takes a sentence: the API wants to be asked later, and Claude Code will."""
