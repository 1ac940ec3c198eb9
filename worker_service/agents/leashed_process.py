"""Agent processes on a leash: started with a clean environment, frozen, ended, and never left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Final

import anyio
from anyio.abc import Process

from worker_service.cpu_use import seconds_below

LEASH: Final = Path(__file__).with_name("leash.py")

_STDERR_TAIL_BYTES: Final = 64 * 1024
_END_STEP_S: Final = 5.0
"""How long the leash may take to kill everything before it is killed itself."""


class LeashedProcess:
    """A process and its whole family, held by `leash.py`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stderr = bytearray()
        self._frozen = False
        assert process.stdin is not None and process.stdout is not None
        self.stdin = process.stdin
        self.stdout = process.stdout

    @property
    def pid(self) -> int:
        """The leash's process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The agent's exit code, negative for a signal; None while it lives."""
        return self._process.returncode

    @property
    def stderr_tail(self) -> str:
        """The end of what the process has said on its error stream."""
        return self._stderr.decode("utf-8", "replace")

    async def collect_stderr(self) -> None:
        """Read the error stream until it ends; must run, or the process may block on a full pipe."""
        assert self._process.stderr is not None
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                self._stderr += await self._process.stderr.receive()
                del self._stderr[:-_STDERR_TAIL_BYTES]

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process from using any CPU."""
        if not self._frozen:
            self._frozen = True
            self._signal(signal.SIGTSTP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._frozen:
            self._frozen = False
            self._signal(signal.SIGCONT)

    @property
    def frozen(self) -> bool:
        """Whether it is stopped."""
        return self._frozen

    def kill(self) -> None:
        """Kill the whole family, without waiting."""
        self._signal(signal.SIGUSR1)

    async def wait(self) -> int:
        """Return the exit code once the whole family is gone."""
        return await self._process.wait()

    async def aclose(self, *, polite_s: float = 0.0) -> None:
        """End the whole family; when this returns nothing of it is left.

        Args:
            polite_s: Seconds that the process may use to end by itself after its input is closed.
        """
        with anyio.CancelScope(shield=True):
            with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self.stdin.aclose()
            if polite_s and self.exit_code is None:
                self.thaw()
                with anyio.move_on_after(polite_s):
                    await self._process.wait()
            self.kill()
            with anyio.move_on_after(_END_STEP_S):
                await self._process.wait()
            if self.exit_code is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
                with anyio.move_on_after(_END_STEP_S):
                    await self._process.wait()
            with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._process.aclose()

    def terminate(self) -> None:
        """Ask the agent to end; the leash kills what has not ended after a moment."""
        self._frozen = False
        self._signal(signal.SIGTERM)

    def work_seconds(self, *, but_for: frozenset[int] = frozenset()) -> float:
        """Return the CPU time that the family has used so far, the ended ones included, but for these processes."""
        return seconds_below(self.pid, but_for=but_for)

    def children(self) -> frozenset[int]:
        """Return the agent, and whatever has lost its parent since."""
        return frozenset(_children_of(self.pid))

    def descendants(self) -> frozenset[int]:
        """Return the ids of all living processes below the leash."""
        return descendants_of(self.pid)


async def start_leashed(command: list[str], *, environment: Mapping[str, str], directory: Path) -> LeashedProcess:
    """Start a program on a leash, in a session of its own, with this environment and nothing else.

    Raises:
        OSError: the working directory cannot be entered, or no process can be made.
    """
    # -I and -S: neither the agent's environment nor a site directory decides what code the leash runs.
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), "--", *command]
    # Shielded: asyncio forgets a process whose start is cancelled, with its pipes open and its end unread.
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            leash, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=directory, env=environment, start_new_session=True
        )
    return LeashedProcess(process)


def descendants_of(pid: int) -> frozenset[int]:
    """Return the ids of all living processes below `pid`."""
    found: set[int] = set()
    fresh = _children_of(pid)
    while fresh:
        found |= fresh
        fresh = set().union(*(_children_of(child) for child in fresh)) - found
    return frozenset(found)


def _children_of(pid: int) -> set[int]:
    # Any thread may have started a child. Needs CONFIG_PROC_CHILDREN, which every distribution's kernel has; where it
    # is missing nothing is found, and what a task left behind ends with its process instead of before the next task.
    children: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as listing:
                children.update(int(word) for word in listing.read().split())
    return children
