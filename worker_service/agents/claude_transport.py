"""Carries the SDK's messages to and from a Claude process on a leash.

The SDK's own transport starts the process with this process's environment and cannot freeze it, nor end what its
shell commands leave behind; the rest of the protocol is the SDK's.
"""

from __future__ import annotations

import json
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


class LeashedTransport(Transport):
    """One JSON object a line, both ways."""

    def __init__(self, process: LeashedProcess) -> None:
        self._process = process
        self._sending = anyio.Lock()
        self._open = True

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
            if not line.startswith(b"{"):
                garbage += 1
                if garbage > _TOLERATED_GARBAGE_LINES:
                    raise BadOutput("garbage", f"the Claude process prints no JSON, but lines such as {line[:60]!r}")
                continue
            try:
                message = json.loads(line)
            except ValueError as error:
                raise BadOutput("garbage", f"the Claude process printed a broken line: {line[:60]!r}") from error
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
