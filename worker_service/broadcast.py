"""What happens in a worker, told live to whoever listens: the status pipe and the Redis channel `hooks:NAME`.

Listeners come and go, and none of them may hold the worker up: what one cannot take is dropped and counted there.
"""

from __future__ import annotations

from typing import Any, Protocol

from agent_bus.messages import Event, encode_event, utc_now


class Listener(Protocol):
    """Takes events; must not block or raise."""

    def tell(self, event: Event, line: bytes) -> None:
        """Take an event; `line` is its JSON on one line, without a line end."""


class Broadcast:
    """Tells every listener of every event."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._listeners: list[Listener] = []

    @property
    def has_listeners(self) -> bool:
        """Whether anybody would hear."""
        return bool(self._listeners)

    def add(self, listener: Listener) -> None:
        """Tell `listener` of everything from now on."""
        self._listeners.append(listener)

    def publish(self, event: str, data: dict[str, Any], task_id: str | None = None) -> None:
        """Tell of something that happens now."""
        if self._listeners:
            told = Event.model_construct(
                event=event, timestamp=utc_now(), worker=self._worker, task_id=task_id, data=data
            )
            self.relay(told)

    def relay(self, event: Event) -> None:
        """Tell of an event that has its record already."""
        if self._listeners:
            line = encode_event(event)
            for listener in self._listeners:
                listener.tell(event, line)
