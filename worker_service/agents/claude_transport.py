"""Carries the SDK's messages to and from a Claude process on a leash.

The SDK's own transport starts the process with this process's environment and cannot freeze it, nor end what its
shell commands leave behind; the rest of the protocol is the SDK's.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
from claude_agent_sdk import CLIConnectionError, Transport

from worker_service.agents.leashed_process import LeashedProcess

LONGEST_LINE_BYTES: Final = 32 * 1024 * 1024
"""Images in tool results make long lines; beyond this the process has lost its way."""

_TOLERATED_GARBAGE_LINES: Final = 100
"""Some builds print a few plain diagnostic lines; a process that prints nothing else is broken."""


class BadOutput(CLIConnectionError):
    """The process printed what no Claude prints; `kind` is the stable word for it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_PARTIAL: Final = b'{"type":"stream_event"'
_CLOCKWORK: Final = frozenset(("tool_progress", "control_request", "control_response", "keep_alive"))
"""Messages that come by themselves (a running tool's every 30 s, though it hangs), or are about something else."""
_FOREGROUND: Final = {"subtype": "task_started", "is_backgrounded": False}
"""In the message that tells, by itself, of a shell command that has run for three seconds; it may hang."""
_MAIN: Final = b'"parent_tool_use_id":null'
"""In a line of the conversation itself, not of a subagent's."""


class LeashedTransport(Transport):
    """One JSON object a line, both ways. What only tells that the model is writing goes no further than here."""

    def __init__(self, process: LeashedProcess) -> None:
        self._process = process
        self._sending = anyio.Lock()
        self._open = True
        self.heard_at = time.monotonic()
        """When a line last showed that the session gets on."""
        self.answered_at: float | None = None
        """Since when the model's last message has been there without the result that should follow it."""

    def begin_turn(self) -> None:
        """Begin to look for signs of life anew."""
        self.heard_at, self.answered_at = time.monotonic(), None

    def _take_partial(self, line: bytes) -> None:
        """Take note of a part of a message that the model is writing."""
        self.heard_at = time.monotonic()
        if _MAIN in line:
            if b'"stop_reason":"end_turn"' in line:
                self.answered_at = self.heard_at
            elif b'"type":"message_start"' in line:
                self.answered_at = None

    def _take_whole(self, message: dict[str, Any]) -> None:
        """Take note of a message."""
        sort = message.get("type")
        if sort not in _CLOCKWORK and not (sort == "system" and message.items() >= _FOREGROUND.items()):
            self.heard_at = time.monotonic()
        if sort == "result":
            self.answered_at = None

    async def connect(self) -> None:
        """Do nothing: the process runs already."""

    async def write(self, data: str) -> None:
        """Send text; messages of several tasks do not mix.

        Raises:
            CLIConnectionError: the process is gone.
        """
        async with self._sending:
            try:
                await self._process.stdin.send(data.encode())
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise CLIConnectionError("the Claude process takes no more input") from error

    def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Return the process's messages, until it closes its output."""
        return self._messages()

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        garbage = 0
        async for line in self._lines():
            # Not taken apart any further: there is one for every few words that the model writes.
            if line.startswith(_PARTIAL):
                self._take_partial(line)
                continue
            if not line.startswith(b"{"):
                garbage += 1
                if garbage > _TOLERATED_GARBAGE_LINES:
                    raise BadOutput("garbage", f"the Claude process prints no JSON, but lines such as {line[:60]!r}")
                continue
            try:
                message = json.loads(line)
            except ValueError as error:
                raise BadOutput("garbage", f"the Claude process printed a broken line: {line[:60]!r}") from error
            if message.get("type") == "stream_event":
                self._take_partial(line)
                continue
            self._take_whole(message)
            yield message

    async def _lines(self) -> AsyncIterator[bytes]:
        pending: list[bytes] = []
        size = 0
        while True:
            try:
                chunk = await self._process.stdout.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
            *complete, rest = chunk.split(b"\n")
            if complete:
                complete[0] = b"".join((*pending, complete[0]))
                pending, size = [], 0
                for line in complete:
                    if line := line.strip():
                        yield line
            pending.append(rest)
            size += len(rest)
            if size > LONGEST_LINE_BYTES:
                limit = LONGEST_LINE_BYTES >> 20
                raise BadOutput("line_too_long", f"the Claude process printed a line of more than {limit} MiB")

    async def close(self) -> None:
        """End the process and all it started."""
        self._open = False
        await self._process.aclose()

    def is_ready(self) -> bool:
        """Tell whether the process lives."""
        return self._open and self._process.exit_code is None

    async def end_input(self) -> None:
        """Close the process's input."""
        await self._process.stdin.aclose()
