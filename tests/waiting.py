"""Waiting for a condition instead of for a length of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 0.005


def wait_until(condition: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Return the first true value of `condition`; fail the test when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(_LOOK_EVERY_S)


async def async_wait_until(condition: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Do the same and leave the event loop free in the meantime."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        await asyncio.sleep(_LOOK_EVERY_S)
