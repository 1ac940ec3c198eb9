"""Regular expressions from a person's file, searched for within a bound that holds whatever the expression is.

Some expressions take time that doubles with each character of the text, and no look at the expression finds all of
them. So the search itself is cut short: a timer of this process's own CPU time (ITIMER_VIRTUAL) sends a signal, and
the `re` module looks for signals while it searches. Other timers and signals are left alone.
"""

from __future__ import annotations

import re
import signal
import threading
from types import FrameType
from typing import Final

LONGEST_TEXT: Final = 10_000
"""Characters that are looked at; the rest of a text is not."""
LONGEST_SEARCH_S: Final = 0.05
"""CPU seconds that one search may take."""


class PatternTooSlow(Exception):
    """The search was cut short; whether the text matches is not known."""


class _Alarm:
    """Raises in the main thread when the time is over, and at no other moment."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            raise PatternTooSlow


class BoundedPattern:
    """A compiled expression."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        """Compile it.

        Raises:
            ValueError: it is no regular expression; the text says where.
        """
        try:
            self._pattern = re.compile(text, re.IGNORECASE if ignore_case else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error) or type(error).__name__) from error

    def is_found_in(self, text: str) -> bool:
        """Tell whether it occurs in the first `LONGEST_TEXT` characters. To be called in the main thread.

        Raises:
            PatternTooSlow: it took longer than `LONGEST_SEARCH_S`.
            RuntimeError: this is not the main thread, where alone the bound can be kept.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a pattern can only be searched for within its bound in the main thread")
        alarm = _Alarm()
        before = signal.signal(signal.SIGVTALRM, alarm)
        try:
            alarm.armed = True
            signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_SEARCH_S)
            found = self._pattern.search(text, 0, LONGEST_TEXT) is not None
            alarm.armed = False
            return found
        finally:
            alarm.armed = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before or signal.SIG_DFL)
