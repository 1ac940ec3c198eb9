"""A task's time: it runs while the agent works, and stands still while a person is waited for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class TaskClock:
    """Sets the deadline of a run's scope."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        """Look after `scope`, which has no deadline before `start`."""
        self._scope = scope
        self._holders = 0
        self._left_s = math.inf

    def start(self, timeout_s: float) -> None:
        """Let it run out in so many seconds."""
        self._scope.deadline = asyncio.get_running_loop().time() + timeout_s

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stand still for the length of the block; with several blocks at a time, until the last one ends."""
        loop = asyncio.get_running_loop()
        self._holders += 1
        if self._holders == 1:
            self._left_s = self._scope.deadline - loop.time()
            self._scope.deadline = math.inf
        try:
            yield
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._scope.deadline = loop.time() + self._left_s
