"""The warm pool: Claude processes that wait started, primed and frozen, so that a task finds one ready.

A process serves one task at a time. After it the conversation is cleared, at once and in the background, and the
process rests frozen until the next task; one that must not be used again is ended and replaced. Processes with a
profile of their own serve their task only. A process in a named session keeps its conversation for the next task of
that session, and is the first to go when room is needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from worker_service.agents.claude_command import Profile
from worker_service.agents.claude_process import ClaudeProcess, ProcessGone

log = logging.getLogger(__name__)

Starter = Callable[[Profile, str | None, TaskGroup], Awaitable[ClaudeProcess]]
"""Starts a process for a profile; the text, where given, is the conversation to resume."""

_QUIET_BEFORE_FREEZE_S: Final = 1.0
"""Transcripts are written in batches of 0.1 s; a process is stopped only when it has nothing left to do."""
_LINGER_S: Final = 60.0
"""Processes beyond the warm ones are kept for so long after a burst."""
_SESSION_LINGER_S: Final = 300.0
_MOST_TURNS: Final = 200
"""A process is replaced after so many tasks, whatever it may have gathered."""
_RESTART_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)


class ClaudePool:
    """Hands out processes and takes them back."""

    def __init__(self, start: Starter, usual: Profile, *, warm: int, slots: int, freeze: bool) -> None:
        """Keep `warm` processes of the `usual` profile ready; serve at most `slots` tasks at a time."""
        self._start = start
        self._usual = usual
        self._warm = warm
        self._slots = slots
        self._freeze = freeze
        self._tasks: TaskGroup | None = None
        self._open = anyio.Event()
        self._idle: OrderedDict[ClaudeProcess, float] = OrderedDict()
        self._sessions: OrderedDict[str, tuple[ClaudeProcess, float]] = OrderedDict()
        self._busy: set[ClaudeProcess] = set()
        self._owned: set[ClaudeProcess] = set()
        """Every process from its start to its end, also one that is on its way from one list to another."""
        self._preparing = 0
        self._waiting: list[asyncio.Future[ClaudeProcess | None]] = []
        self._changed = asyncio.Event()
        self._failures = 0
        self._retry_at = 0.0
        self.trouble: str | None = None
        """Why no process can be started, or None."""

    def counts(self) -> dict[str, int]:
        """Return the number of processes by state."""
        resting = [process for process, _ in self._sessions.values()] + list(self._idle)
        frozen = sum(process.frozen for process in resting)
        return {"busy": len(self._busy), "warm": len(resting) - frozen, "frozen": frozen, "starting": self._preparing}

    async def serve_forever(self) -> None:
        """Keep processes warm until cancelled; then end all."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._open.set()
                while True:
                    self._changed.clear()
                    self._tidy()
                    while self._missing() > 0 and time.monotonic() >= self._retry_at:
                        self._preparing += 1
                        tasks.start_soon(self._prepare_new, name="claude start")
                        # One at a time: a start takes half a second of a whole core.
                        if self._missing() > 0:
                            break
                    with anyio.move_on_after(self._next_chore_s()):
                        await self._changed.wait()
        finally:
            self._tasks = None
            await self.aclose()

    async def acquire(self, profile: Profile, *, session: str | None, resume: str | None) -> ClaudeProcess:
        """Return a process that is in an empty conversation, or in the one to `resume`.

        Raises:
            ProcessGone: none can be started.
        """
        await self._open.wait()
        process = self._take_resting(profile, session, resume)
        if process is None and resume is None and profile == self._usual and self._preparing:
            process = await self._wait_for_prepared()
        if process is None:
            process = await self._start_one(profile, resume)
        process.thaw()
        self._busy.add(process)
        self._changed.set()
        return process

    def _take_resting(self, profile: Profile, session: str | None, resume: str | None) -> ClaudeProcess | None:
        if session is not None and session in self._sessions:
            process, _ = self._sessions.pop(session)
            if process.is_usable and process.profile == profile and process.session_id == resume:
                return process
            self._end_soon(process)
        if resume is not None or profile != self._usual:
            return None
        while self._idle:
            # The one that was used last: its memory is the warmest, and the others may be let go.
            process, _ = self._idle.popitem()
            if process.is_usable:
                return process
            self._end_soon(process)
        return None

    async def _wait_for_prepared(self) -> ClaudeProcess | None:
        turn: asyncio.Future[ClaudeProcess | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except BaseException:
            # Cancelled with a process in hand: somebody else shall have it.
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and (process := turn.result()) is not None:
                self._busy.discard(process)
                self._rest(process)
            raise

    def give_back(self, process: ClaudeProcess, *, reusable: bool, session: str | None) -> None:
        """Take a process back after its task; one that is not `reusable` is ended in the background."""
        self._busy.discard(process)
        if not reusable or not process.is_usable or process.turns >= _MOST_TURNS:
            self._end_soon(process)
        elif session is not None:
            self._sessions[session] = (process, time.monotonic())
        elif process.profile != self._usual or self._tasks is None:
            self._end_soon(process)
        else:
            self._preparing += 1
            self._tasks.start_soon(self._clear, process, name="claude clear")
        self._changed.set()

    async def discard(self, process: ClaudeProcess) -> None:
        """End a process now; nothing of it is left when this returns."""
        self._busy.discard(process)
        self._changed.set()
        await self._end(process)

    async def aclose(self) -> None:
        """End every process."""
        self._idle.clear()
        self._sessions.clear()
        self._busy.clear()
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ends:
                for process in tuple(self._owned):
                    ends.start_soon(self._end, process)

    async def _end(self, process: ClaudeProcess) -> None:
        await process.aclose()
        self._owned.discard(process)

    # -- in the background

    def _missing(self) -> int:
        # When all slots are busy nobody can take a waiting process, and each one that is done comes back cleared.
        wanted = min(self._warm, self._slots - len(self._busy))
        return wanted - len(self._idle) - self._preparing

    def _next_chore_s(self) -> float | None:
        now = time.monotonic()
        chores = [moment + _SESSION_LINGER_S for _, moment in self._sessions.values()]
        if len(self._idle) > self._warm:
            chores.append(next(iter(self._idle.values())) + _LINGER_S)
        if self._freeze:
            chores += [since + _QUIET_BEFORE_FREEZE_S for process, since in self._resting() if not process.frozen]
        if self._missing() > 0:
            chores.append(self._retry_at)
        return max(0.0, min(chores) - now) if chores else None

    def _resting(self) -> list[tuple[ClaudeProcess, float]]:
        return [*self._idle.items(), *self._sessions.values()]

    def _tidy(self) -> None:
        now = time.monotonic()
        for process in [process for process in self._idle if not process.is_usable]:
            del self._idle[process]
            self._end_soon(process)
        while len(self._idle) > self._warm and now - next(iter(self._idle.values())) >= _LINGER_S:
            process, _ = self._idle.popitem(last=False)
            self._end_soon(process)
        for session, (process, since) in list(self._sessions.items()):
            crowded = len(self._sessions) > self._slots
            if crowded or not process.is_usable or now - since >= _SESSION_LINGER_S:
                del self._sessions[session]
                self._end_soon(process)
        if self._freeze:
            for process, since in self._resting():
                if now - since >= _QUIET_BEFORE_FREEZE_S:
                    process.freeze()

    async def _prepare_new(self) -> None:
        process = None
        try:
            process = await self._start_one(self._usual, None)
            # The first turn of a process is its slow one; a clear takes that on itself.
            if not await process.clear():
                raise ProcessGone("agent_died", "A new Claude process did not take its first command.")
            self._failures, self.trouble = 0, None
        except ProcessGone as error:
            if process is not None:
                await self._end(process)
                process = None
            wait_s = _RESTART_S[min(self._failures, len(_RESTART_S) - 1)]
            self._failures += 1
            self._retry_at = time.monotonic() + wait_s
            self.trouble = str(error)
            log.error("no warm Claude process: %s", error, extra={"action": "warm_start_failed", "retry_s": wait_s})
        finally:
            self._preparing -= 1
            self._changed.set()
            if process is None and not self._preparing:
                self._let_waiters_help_themselves()
        if process is not None:
            self._rest(process)

    async def _clear(self, process: ClaudeProcess) -> None:
        cleared = False
        try:
            cleared = await process.clear()
        finally:
            self._preparing -= 1
            self._changed.set()
            if not cleared:
                self._end_soon(process)
                if not self._preparing:
                    self._let_waiters_help_themselves()
        if cleared:
            # One that a task has started works: so whatever kept the warm ones from starting is over.
            self._failures, self._retry_at, self.trouble = 0, 0.0, None
            self._rest(process)

    def _rest(self, process: ClaudeProcess) -> None:
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.done():
                # Busy from now on: between here and the waiter's turn it must not seem to be missing.
                self._busy.add(process)
                turn.set_result(process)
                return
        if len(self._idle) < max(self._warm, self._slots):
            self._idle[process] = time.monotonic()
        else:
            self._end_soon(process)
        self._changed.set()

    async def _start_one(self, profile: Profile, resume: str | None) -> ClaudeProcess:
        assert self._tasks is not None
        process = await self._start(profile, resume, self._tasks)
        self._owned.add(process)
        self._tasks.start_soon(self._notice_end, process, name="claude end")
        return process

    async def _notice_end(self, process: ClaudeProcess) -> None:
        await process.ended.wait()
        self._changed.set()

    def _let_waiters_help_themselves(self) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()

    def _end_soon(self, process: ClaudeProcess) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._end, process, name="claude end")
        else:
            process.kill()
