"""What a conversation's transcript on this machine tells: that it can be gone on with, and what it has used.

Facts about Claude Code that this rests on (seen with 2.1.330): a process that goes on with a conversation counts as
spent already what the last `cost-state` line says, and such a line is written only where a process ends or clears the
conversation in good order; each message of the model is there with its final usage, once for each of its blocks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

TOKEN_KINDS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
"""The kinds of tokens that a model's usage is counted in, as Claude Code calls them."""
_COST_STATE: Final = b'{"type":"cost-state"'


def find_transcript(environment: Mapping[str, str], session_id: str) -> Path | None:
    """Return the file of the conversation with this id, begun in some directory or other; None where there is none."""
    folder = environment.get("CLAUDE_CONFIG_DIR") or os.path.join(environment.get("HOME") or "/", ".claude")
    return next(iter(Path(folder, "projects").glob(f"*/{session_id}.jsonl")), None)


def carried_usd(transcript: Path) -> float:
    """Return the US dollars that a process which goes on with it counts as spent already. Reads all of it."""
    carried = 0.0
    with suppress(OSError, ValueError, TypeError), transcript.open("rb") as lines:
        for line in lines:
            if line.startswith(_COST_STATE):
                carried = float(json.loads(line).get("totalCostUSD", 0.0))
    return carried


def tokens_since(transcript: Path, moment: datetime) -> dict[str, int]:
    """Return the tokens, by kind, of the model's messages since a moment. Reads all of the conversation.

    A message that had not come to its end is not in it, nor are those of agents that the agent had asked itself.
    """
    usages: dict[str, Mapping[str, Any]] = {}
    with suppress(OSError), transcript.open("rb") as lines:
        for line in lines:
            # Most lines are none of the model's, and some are long.
            if b'"usage"' in line:
                with suppress(ValueError, TypeError, KeyError, AttributeError):
                    entry = json.loads(line)
                    if entry["type"] == "assistant" and datetime.fromisoformat(entry["timestamp"]) >= moment:
                        usages[entry["message"]["id"]] = dict(entry["message"]["usage"])
    return sum_tokens(usages.values())


def tokens_of_conversation(environment: Mapping[str, str], session_id: str, moment: datetime) -> dict[str, int] | None:
    """Return what `tokens_since` tells of the conversation with this id; None where it is not on this machine."""
    transcript = find_transcript(environment, session_id)
    return None if transcript is None else tokens_since(transcript, moment)


def sum_tokens(usages: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sum of usages, by kind."""
    found = list(usages)
    return {kind: sum(amount for usage in found if isinstance(amount := usage.get(kind), int)) for kind in TOKEN_KINDS}
