"""Working off a flood a slice at a time, so that the rest of the worker has its turn in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_SLICE_S: Final = 0.001
"""The rest of the worker has its turn after so long, however many items there are."""


class Paced(Generic[T]):
    """Hands items on in their order: at once while there are few, a slice a turn of the loop while there are many."""

    def __init__(self, handle: Callable[[T], None], *, on_empty: Callable[[], None] = lambda: None) -> None:
        """Give each item to `handle`; call `on_empty` when a backlog is worked off."""
        self._handle = handle
        self._on_empty = on_empty
        self._items: deque[T] = deque()
        self._next: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_behind(self) -> bool:
        """Whether items wait for the next turn of the loop."""
        return self._next is not None

    def put(self, item: T) -> None:
        """Take an item; `work` hands it on."""
        self._items.append(item)

    def work(self) -> None:
        """Hand on what waits, for a millisecond at most; the rest follows by itself."""
        if self._next is None:
            self._work()

    def work_soon(self) -> None:
        """Do the same in the next turn of the loop; for whoever takes in many items in one turn, one by one."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._work)

    def close(self) -> None:
        """Drop what waits."""
        self._items.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _work(self) -> None:
        was_behind, self._next = self._next is not None, None
        slice_end = time.monotonic() + _SLICE_S
        while self._items:
            self._handle(self._items.popleft())
            if self._items and time.monotonic() >= slice_end:
                self._next = asyncio.get_running_loop().call_soon(self._work)
                return
        if was_behind:
            self._on_empty()
