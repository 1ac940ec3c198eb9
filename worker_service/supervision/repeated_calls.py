"""Counts how often a task has gone round the same circle of tool calls."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

_LONGEST_CIRCLE: Final = 4
"""Calls in one round: an agent that edits, tests and reads the same thing for ever goes round a circle of three."""
_MOST_OPEN: Final = 1000


class RepeatedCalls:
    """Knows the last few calls with their answers. A call whose answer is another one than before is progress."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, int]] = {}
        self._last: deque[int] = deque(maxlen=_LONGEST_CIRCLE)
        self._runs = [0] * (_LONGEST_CIRCLE + 1)
        self.tool = ""
        """The tool that was called last."""

    def called(self, call_id: str, name: str, tool_input: Mapping[str, Any]) -> None:
        """Take note of a call."""
        if len(self._open) >= _MOST_OPEN:
            self._open.clear()
        self._open[call_id] = (name, hash((name, json.dumps(tool_input, sort_keys=True, default=str))))

    def answered(self, call_id: str, answer: str, *, is_error: bool) -> None:
        """Take note of the answer to a call."""
        call = self._open.pop(call_id, None)
        if call is None:
            return
        self.tool, asked = call
        step = hash((asked, answer, is_error))
        for length in range(1, _LONGEST_CIRCLE + 1):
            same = len(self._last) >= length and self._last[-length] == step
            self._runs[length] = self._runs[length] + 1 if same else 0
        self._last.append(step)

    @property
    def rounds(self) -> int:
        """How often the circle that it goes round now has been gone round; 1 after any call that is new, 0 at first."""
        if not self._last:
            return 0
        return 1 + max(self._runs[length] // length for length in range(1, _LONGEST_CIRCLE + 1))
