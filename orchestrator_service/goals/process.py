"""Carries the SDK's messages to and from a Claude process that ends with this one and has a clean environment."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
from claude_agent_sdk import CLIConnectionError, Transport

_TETHER: Final = Path(__file__).parents[1] / "tether.py"
_LONGEST_LINE_BYTES: Final = 32 * 1024 * 1024
_STDERR_TAIL_BYTES: Final = 8 * 1024
_END_STEP_S: Final = 3.0
"""Given to each of: its input closed, SIGTERM, SIGKILL."""
_PREDECESSOR_S: Final = 20.0
_LOOK_AGAIN_S: Final = 0.05


class GoalProcess(Transport):
    """One Claude process; a transport of the SDK, whose own one would pass on all of this process's environment."""

    def __init__(self, command: list[str], *, environment: Mapping[str, str], directory: Path, session_id: str) -> None:
        self._command = command
        self._lock = directory / f"{session_id}.lock"
        self._environment = environment
        self._directory = directory
        self._process: Process | None = None
        self._stderr = bytearray()
        self._hearing: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()

    @property
    def last_words(self) -> str:
        """The last line that it wrote to its error stream, shortened; empty if there is none."""
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    async def connect(self) -> None:
        """Start the process, unless it runs already. Waits for the end of an earlier one with the same conversation.

        Raises:
            CLIConnectionError: it cannot be started, or the earlier one does not end.
        """
        if self._process is not None:
            return
        lock = await self._wait_for_predecessor()
        try:
            await self._start(lock)
        finally:
            # From here on the process alone holds it, for as long as it lives.
            os.close(lock)

    async def _wait_for_predecessor(self) -> int:
        """Return the lock of the conversation, taken.

        An orchestrator that was killed leaves an agent that needs a moment to end; two processes must not write the
        same transcript.
        """
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with anyio.fail_after(_PREDECESSOR_S):
                while True:
                    with suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        return lock
                    await anyio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            os.close(lock)
            raise CLIConnectionError("an earlier process of this conversation does not end") from None
        except BaseException:
            os.close(lock)
            raise

    async def _start(self, lock: int) -> None:
        # -I and -S: neither the agent's environment nor a site directory decides what code the tether runs.
        tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
        try:
            # Shielded: asyncio forgets a process whose start is cancelled, with its pipes open and its end unread.
            with anyio.CancelScope(shield=True):
                process = await asyncio.create_subprocess_exec(
                    *tether,
                    *self._command,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=PIPE,
                    cwd=self._directory,
                    env={**self._environment, "PWD": str(self._directory)},
                    limit=_LONGEST_LINE_BYTES,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as error:
            raise CLIConnectionError(f"it cannot be started: {error.strerror or error}") from error
        self._process = process
        self._hearing = asyncio.create_task(self._hear_errors(process), name="goal agent stderr")

    async def _hear_errors(self, process: Process) -> None:
        assert process.stderr is not None
        while chunk := await process.stderr.read(4096):
            self._stderr += chunk
            del self._stderr[:-_STDERR_TAIL_BYTES]

    async def wait(self) -> None:
        """Return when the process, which must have been started, has ended."""
        assert self._process is not None
        await self._process.wait()

    async def write(self, data: str) -> None:
        """Send text.

        Raises:
            CLIConnectionError: the process is gone.
        """
        async with self._sending:
            process = self._process
            if process is None or process.stdin is None or process.stdin.is_closing():
                raise CLIConnectionError("the Claude process takes no more input")
            try:
                process.stdin.write(data.encode("utf-8", "replace"))
                await process.stdin.drain()
            except OSError as error:
                raise CLIConnectionError("the Claude process takes no more input") from error

    def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Return the process's messages, until it closes its output."""
        return self._messages()

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        assert self._process is not None and self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError as error:
                raise CLIConnectionError("the Claude process printed a line that is too long") from error
            if not line:
                return
            if line.startswith(b"{"):  # some builds print a few plain diagnostic lines
                with suppress(ValueError):
                    yield json.loads(line)

    async def close(self) -> None:
        """End the process: close its input, ask, force. It is gone when this returns."""
        process = self._process
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            if process.stdin is not None:
                process.stdin.close()
            for push in (None, process.terminate, process.kill):
                if process.returncode is None and push is not None:
                    with suppress(ProcessLookupError):
                        push()
                with anyio.move_on_after(_END_STEP_S):
                    await process.wait()
                    break
            if self._hearing is not None:
                with anyio.move_on_after(_END_STEP_S):
                    await asyncio.wait([self._hearing])
                self._hearing.cancel()
            if process.returncode is not None:
                self._lock.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Tell whether the process lives."""
        return self._process is not None and self._process.returncode is None

    async def end_input(self) -> None:
        """Close the process's input."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
