"""Standard output: what may be printed to a terminal, and what to do when nobody reads it any more."""

from __future__ import annotations

import os
from typing import Final

_STDOUT: Final = 1

_HARMFUL: Final = {number: None for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}


def give_up_stdout() -> None:
    """Let all that is still to be printed go nowhere: whoever read it is gone, or the disk under it is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDOUT)
    os.close(nowhere)


def harmless(text: str) -> str:
    """Return the text without control characters, which could move the cursor or lie about what was said."""
    return text.translate(_HARMFUL)
