"""Waiting for conditions instead of for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_STEP_S = 0.01


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true.

    Raises:
        AssertionError: it was not within `timeout_s` seconds.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        time.sleep(_STEP_S)


async def until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition") -> None:
    """`wait_until` for asynchronous tests: the loop runs on meanwhile."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        await asyncio.sleep(_STEP_S)
