"""The tool-use log of a worker: one JSON line for each step of each tool call, rotated like any log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from agent_bus.hooks.events import TOOL_HOOKS, HookEvent
from agent_bus.logs import JsonLines, SharedRotatingFile


class ToolUseLog:
    """Writes the tool events of one worker; a full disk costs lines, never the worker."""

    def __init__(self, path: Path, *, worker: str) -> None:
        """Write to `WorkerLayout.tool_use_log`; several processes may write to the same file."""
        self._file = SharedRotatingFile(path)
        self._file.setFormatter(JsonLines(worker=worker))

    @property
    def lost_lines(self) -> int:
        """How many lines could not be written."""
        return self._file.lost_lines

    def note(self, event: HookEvent) -> None:
        """Write a line when the event is about a tool."""
        if event.hook not in TOOL_HOOKS:
            return
        fields: dict[str, Any] = {"task_id": event.task_id, **event.data(), "action": "tool_use"}
        record = logging.makeLogRecord(
            {
                "name": __name__,
                "levelno": logging.INFO,
                "levelname": "INFO",
                "msg": f"{event.hook} {event.tool_name or ''}".rstrip(),
                "created": event.timestamp.timestamp(),
                **fields,
            }
        )
        self._file.handle(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
