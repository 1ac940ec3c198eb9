"""What the attempts at one task have used, all together: it goes from attempt to attempt in the notes of the claim.

An attempt is open from the moment at which its agent is given the prompt. What it cost is added when its agent has
ended; one whose worker died is still open in the notes, and then its conversation tells what is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import anyio
import anyio.to_thread

from agent_bus.messages import utc_now
from service_kit.claude_transcripts import TOKEN_KINDS, sum_tokens
from worker_service.agents.base import Outcome

TokensSince = Callable[[str, datetime], Mapping[str, int] | None]
"""Returns the tokens, by kind, that a conversation has used since a moment; None where nobody can tell. May block."""

_SPENT: Final = "spent"
_OPEN: Final = "open_attempt"


@dataclass(frozen=True, slots=True)
class Spent:
    """A sum of what is known."""

    cost_usd: float | None = None
    """None where nothing was told."""
    tokens: Mapping[str, int] | None = None
    is_partial: bool = False
    """Whether there was more, of which nobody told what it cost."""

    def plus(self, cost_usd: float | None, tokens: Mapping[str, Any] | None, *, is_partial: bool) -> Spent:
        """Return it with so much more."""
        known = [cost for cost in (self.cost_usd, cost_usd) if cost is not None]
        usages = [usage for usage in (self.tokens, tokens) if usage is not None]
        return Spent(
            cost_usd=sum(known) if known else None,
            tokens=sum_tokens(usages) if usages else None,
            is_partial=self.is_partial or is_partial,
        )


class Bill:
    """Adds up what the attempts at one task use. What is in `notes` is kept by whoever stores them."""

    def __init__(self, notes: dict[str, Any], tokens_since: TokensSince) -> None:
        """Go on from what the notes of a claim tell of earlier attempts."""
        self._notes = notes
        self._tokens_since = tokens_since
        self.spent = _read(notes.get(_SPENT))
        """By all attempts that have ended."""
        self._earlier = self.spent

    async def settle_lost(self) -> None:
        """Count an attempt whose worker died in the middle of it, as far as its conversation tells."""
        if _OPEN in self._notes:
            tokens = await self._look_up()
            self._add(None, tokens, is_partial=True)
            self._earlier = self.spent

    def open(self, session_id: str) -> None:
        """Take note that an attempt begins, in this conversation."""
        self._notes[_OPEN] = {"session_id": session_id, "at": utc_now().isoformat()}

    async def close(self, outcome: Outcome) -> None:
        """Count the attempt that has ended."""
        if outcome.cost_usd is not None:
            self._add(outcome.cost_usd, outcome.usage, is_partial=outcome.cost_is_partial)
        elif _OPEN in self._notes:
            await self._close_untold(outcome)

    async def _close_untold(self, outcome: Outcome) -> None:
        # Its end was not told. The stream has each message as it began, the conversation as it ended.
        found, streamed = await self._look_up() or {}, outcome.usage or {}
        tokens = {kind: max(found.get(kind, 0), streamed.get(kind, 0)) for kind in TOKEN_KINDS}
        if any(tokens.values()):
            outcome.usage = tokens
        self._add(None, outcome.usage, is_partial=True)

    def usage(self, outcome: Outcome) -> dict[str, Any] | None:
        """Return the usage of all attempts; what is no count of tokens is the last one's."""
        if self._earlier.tokens is None:
            return outcome.usage
        return {**(outcome.usage or {}), **(self.spent.tokens or {})}

    def _add(self, cost_usd: float | None, tokens: Mapping[str, Any] | None, *, is_partial: bool) -> None:
        self.spent = spent = self.spent.plus(cost_usd, tokens, is_partial=is_partial)
        self._notes.pop(_OPEN, None)
        self._notes[_SPENT] = {"cost_usd": spent.cost_usd, "tokens": spent.tokens, "is_partial": spent.is_partial}

    async def _look_up(self) -> Mapping[str, int] | None:
        with suppress(KeyError, TypeError, ValueError):
            begun = self._notes[_OPEN]
            session_id, at = str(begun["session_id"]), datetime.fromisoformat(begun["at"])
            # Not even a worker that ends in haste leaves it uncounted: it is one file, and it is read once.
            with anyio.CancelScope(shield=True):
                return await anyio.to_thread.run_sync(self._tokens_since, session_id, at)
        return None


def _read(note: object) -> Spent:
    if not isinstance(note, dict):
        return Spent()
    cost, tokens = note.get("cost_usd"), note.get("tokens")
    return Spent(
        cost_usd=float(cost) if isinstance(cost, int | float) else None,
        tokens=sum_tokens([tokens]) if isinstance(tokens, dict) else None,
        is_partial=bool(note.get("is_partial")),
    )
