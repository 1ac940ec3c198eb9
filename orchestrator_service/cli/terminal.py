"""Text of others, made fit for a terminal."""

from __future__ import annotations

from typing import Final

_HARMFUL: Final = {number: None for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}


def harmless(text: str) -> str:
    """Return the text without control characters, which could move the cursor or lie about what was said."""
    return text.translate(_HARMFUL)
