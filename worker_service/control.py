"""The control desk: takes commands from the pipe and from Redis, carries them out, and answers on the broadcast."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from agent_bus.commands import BadCommand, Command, CommandName, parse_command
from agent_bus.errors import BusError
from agent_bus.logs import LineQuota
from worker_service.broadcast import Broadcast
from worker_service.metrics import Metrics

log = logging.getLogger(__name__)

_MOST_WAITING: Final = 1000
"""Cancels that wait for a look at the queues; a flood of more is refused, not gathered."""

_LOG_LINES_A_SECOND: Final = 20


class Controlled(Protocol):
    """What a worker does on command."""

    def describe(self) -> dict[str, Any]:
        """Say how it is."""

    def pause(self) -> None:
        """Take no new tasks."""

    def resume(self) -> None:
        """Take tasks again."""

    def reload(self) -> dict[str, Any]:
        """Read the configuration anew and say what came of it.

        Raises:
            BusError: it is wrong; the old one stays in force.
        """

    def wake(self) -> None:
        """Look at all queues now."""

    def ask_to_stop(self, *, patiently: bool) -> None:
        """End; `patiently` lets the running tasks take their own time."""

    async def cancel(self, task_id: str) -> str:
        """End a task and return how it was found: `running` or `waiting`.

        Raises:
            BusError: no such task runs or waits here, or it cannot be told now.
        """


class ControlDesk:
    """Takes lines, carries out what they say, and answers each."""

    def __init__(self, worker: Controlled, broadcast: Broadcast, metrics: Metrics, *, name: str) -> None:
        self._worker = worker
        self._broadcast = broadcast
        self._metrics = metrics
        self._name = name
        self._quota = LineQuota(_LOG_LINES_A_SECOND)
        self._cancels: asyncio.Queue[tuple[Command, str]] = asyncio.Queue(_MOST_WAITING)

    def take(self, line: bytes, source: str) -> None:
        """Carry out what a line says; `source` is `pipe` or `redis`. Never raises."""
        try:
            command = parse_command(line)
        except BadCommand as error:
            self.refuse(str(error), source)
            return
        self._obey(command, source)
        # Only now: whoever sent it should not wait for a disk.
        self._metrics.control_commands.labels(self._name, command.name.value, source).inc()
        if command.name is not CommandName.STATUS and self._quota.allows_one():
            log.info("told to %s by %s", command.name.value, source, extra={"action": "control", "by": source})

    def _obey(self, command: Command, source: str) -> None:
        if command.name is CommandName.CANCEL:
            try:
                self._cancels.put_nowait((command, source))
            except asyncio.QueueFull:
                self._answer(command, source, ok=False, message="too many cancels wait; send it again later")
            return
        try:
            data = self._carry_out(command.name)
        except BusError as error:
            self._answer(command, source, ok=False, message=str(error))
        else:
            self._answer(command, source, ok=True, **data)

    def refuse(self, reason: str, source: str) -> None:
        """Tell that something was no command."""
        self._metrics.control_errors.labels(self._name, source).inc()
        if self._quota.allows_one():
            log.warning("control line refused: %s", reason, extra={"action": "control_refused", "by": source})
        self._broadcast.publish("error", {"message": reason, "source": source})

    async def run_forever(self) -> None:
        """Carry out what needs a look at the queues, until cancelled."""
        while True:
            command, source = await self._cancels.get()
            assert command.task_id is not None
            try:
                found = await self._worker.cancel(command.task_id)
            except BusError as error:
                self._answer(command, source, ok=False, message=str(error), task_id=command.task_id)
            else:
                self._answer(command, source, ok=True, task_id=command.task_id, found=found)

    def _carry_out(self, name: CommandName) -> dict[str, Any]:
        match name:
            case CommandName.STATUS:
                return {"status": self._worker.describe()}
            case CommandName.PAUSE:
                self._worker.pause()
            case CommandName.RESUME:
                self._worker.resume()
            case CommandName.RELOAD:
                return self._worker.reload()
            case CommandName.WAKE:
                self._worker.wake()
            case CommandName.DRAIN:
                self._worker.ask_to_stop(patiently=True)
            case CommandName.SHUTDOWN:
                self._worker.ask_to_stop(patiently=False)
        return {}

    def _answer(self, command: Command, source: str, *, ok: bool, **data: Any) -> None:
        fields = {"command": command.name.value, "ok": ok, "source": source, "id": command.id, **data}
        self._broadcast.publish("answer", {key: value for key, value in fields.items() if value is not None})
