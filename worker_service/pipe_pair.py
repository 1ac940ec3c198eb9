"""A worker's two pipes: what it is told comes in on one, and what happens goes out on the other."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from agent_bus.layout import WorkerLayout
from agent_bus.pipes import PipeUnavailable, StatusPipe
from worker_service.broadcast import Broadcast
from worker_service.control import ControlDesk
from worker_service.wakeups.control_pipe import ControlPipe


class PipePair:
    """The control and the status pipe of one worker."""

    def __init__(self, layout: WorkerLayout, worker: str, *, desk: ControlDesk, broadcast: Broadcast) -> None:
        """Bring lines to the desk, and the broadcast to whoever reads."""
        self._control = ControlPipe(
            layout.control_pipe(worker),
            on_line=lambda line: desk.take(line, "pipe"),
            on_bad=lambda reason: desk.refuse(reason, "pipe"),
        )
        self._status = StatusPipe(layout.status_pipe(worker))
        self._broadcast = broadcast

    @property
    def trouble(self) -> str | None:
        """Why no command can be read, or None."""
        return self._control.trouble

    @property
    def drops(self) -> Counter[str]:
        """How many lines nobody took, by reason."""
        return self._status.drops

    def open(self) -> None:
        """Make the pipes and read from now on.

        Raises:
            PipeUnavailable: something else has a pipe's name, or one cannot be made.
        """
        self._status.check()
        self._control.open()
        self._broadcast.add(self._status)

    def check(self) -> None:
        """Make again what somebody has removed or replaced."""
        self._control.check()
        with suppress(PipeUnavailable):
            self._status.check()

    def close(self) -> None:
        """Close both; the pipes stay for the next worker of this name."""
        self._control.close()
        self._status.close()
