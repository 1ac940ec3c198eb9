"""Keeps a team's services running as child processes: started together, started again when they die, stopped together.

Each service is the leader of a session of its own, so that Ctrl-C at the terminal reaches this process alone: it sends
each one SIGTERM and waits, instead of every process being torn down at once. Should this process die without
a chance to do so, the kernel sends that SIGTERM (see `tether.py`).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

from agent_bus.heartbeats import read_heartbeat
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.changes import open_changes

_TETHER: Final = Path(__file__).with_name("tether.py")
_WRONG_SETTING: Final = 2
_USUAL_GRACE_S: Final = 50.0
_KILL_WAIT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """How long a worker that died waits before it is started again."""

    first_s: float = 0.5
    """After the first death; doubled with every further one."""
    longest_s: float = 30.0
    healthy_after_s: float = 60.0
    """A worker that lived this long begins anew with `first_s`."""
    proven_after_s: float = 5.0
    """A worker that lived this long has right settings, whatever it says later."""
    jitter: float = 0.25
    """Up to this share is taken off at random, so that workers that died together do not return together."""

    def delay_s(self, deaths: int) -> float:
        """Return the seconds to wait after the given number of deaths in a row (1 or more)."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(deaths - 1, 30))
        return whole * (1 - self.jitter * random.random())  # no secret hangs on it


class ChildState(StrEnum):
    """How a worker's process is."""

    STARTING = "starting"
    RUNNING = "running"
    """A process is there; whether it is ready its heartbeat tells."""
    WAITING = "waiting"
    """It died and is to be started again."""
    REFUSED = "refused"
    """It said that a setting is wrong (exit code 2); starting it again would change nothing."""
    ENDED = "ended"
    """It was asked to stop, by us or by somebody else, and did (exit code 0)."""


@dataclass(kw_only=True)
class Child:
    """One service, a worker or the orchestrator, and its present process."""

    name: str
    command: list[str]
    environ: Mapping[str, str]
    heartbeat_file: Path
    """Where its process tells how it is."""
    serves_others: bool = False
    """Whether nobody needs it once all others are over."""
    agent_end_s: float = 20.0
    """What it may take after its grace period, to end its agents."""
    state: ChildState = ChildState.STARTING
    pid: int | None = None
    starts: int = 0
    process: Process | None = field(default=None, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether it will not be started again."""
        return self.state in (ChildState.REFUSED, ChildState.ENDED)

    @property
    def grace_s(self) -> float:
        """How long it may take to stop."""
        try:
            grace_s = float(self.environ.get("SHUTDOWN_GRACE") or _USUAL_GRACE_S)
        except ValueError:
            grace_s = _USUAL_GRACE_S
        return grace_s + self.agent_end_s

    def heartbeat(self) -> Heartbeat | None:
        """Return the heartbeat of the present process if it is ready for tasks, else None."""
        beat = read_heartbeat(self.heartbeat_file)
        if beat is None or self.state is not ChildState.RUNNING or beat.pid != self.pid:
            return None
        return None if beat.status in (WorkerStatus.STARTING, WorkerStatus.STOPPED) else beat


class Supervisor:
    """Running workers; made by `open_supervisor`."""

    def __init__(self, children: Iterable[Child], *, tell: Callable[[str], None], back_off: BackOff) -> None:
        self.children = {child.name: child for child in children}
        self.all_over = anyio.Event()
        """Set when none is left that runs or will run again, but for those that serve the others."""
        self._tell = tell
        self._back_off = back_off
        self._stopping = False
        self._changed = anyio.Event()

    async def keep(self, child: Child) -> None:
        """Run the worker again and again until it is over; when cancelled, stop it first."""
        deaths = 0
        settings_proven = False
        while not child.is_over:
            started = time.monotonic()
            try:
                code = await self._run_once(child)
            except OSError as error:
                # No process to be had now (memory, or too many of them) is a death like any other.
                self._tell(f"{child.name} cannot be started: {error.strerror}.")
                code = 1
            lived_s = time.monotonic() - started
            # One that has worked before has right settings: what stops it now (a port taken, a mount gone) may pass.
            if code == _WRONG_SETTING and not settings_proven:
                self._set_state(child, ChildState.REFUSED)
                self._tell(f"{child.name} has a wrong setting, see its line above; it is not started again.")
            elif code == 0 or self._stopping:
                self._set_state(child, ChildState.ENDED)
                if not self._stopping:
                    self._tell(f"{child.name} was asked to stop and did; it is not started again.")
            else:
                settings_proven = settings_proven or lived_s >= self._back_off.proven_after_s
                deaths = 1 if lived_s >= self._back_off.healthy_after_s else deaths + 1
                delay_s = self._back_off.delay_s(deaths)
                self._set_state(child, ChildState.WAITING)
                self._tell(f"{child.name} {_how_it_died(code)}; it is started again in {delay_s:.1f} s.")
                await anyio.sleep(delay_s)

    async def _run_once(self, child: Child) -> int:
        # Shielded: a process that is on its way must be known before it can be stopped.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [child.command[0], "-I", "-S", os.fspath(_TETHER), str(os.getpid()), *child.command],
                stdin=subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                env=child.environ,
                start_new_session=True,
            )
        child.process, child.pid = process, process.pid
        child.starts += 1
        self._set_state(child, ChildState.RUNNING)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                with anyio.CancelScope(shield=True):
                    await self._stop(child, process)
                self._set_state(child, ChildState.ENDED)
            child.process = None

    async def _stop(self, child: Child, process: Process) -> None:
        """Ask the process to end, wait for its grace period, then kill its whole session."""
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(child.grace_s):
            await process.wait()
            return
        self._tell(f"{child.name} did not stop within {child.grace_s:g} s and is killed.")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.move_on_after(_KILL_WAIT_S):
            await process.wait()

    def _set_state(self, child: Child, state: ChildState) -> None:
        child.state = state
        self._changed.set()
        self._changed = anyio.Event()
        if all(each.is_over for each in self.children.values() if not each.serves_others):
            self.all_over.set()

    def stopping(self) -> None:
        """Take note that the end is wanted: from now on no worker is started again."""
        self._stopping = True

    def hurry(self) -> None:
        """Ask every worker a second time to stop, which ends its grace period at once."""
        for child in self.children.values():
            if child.process is not None and child.process.returncode is None:
                with suppress(ProcessLookupError):
                    child.process.terminate()

    async def wait_until_ready(self, names: Iterable[str], *, within_s: float) -> dict[str, Heartbeat]:
        """Return the heartbeats of those that became ready in time; return early once the others are over."""
        wanted = [self.children[name] for name in names]
        ready: dict[str, Heartbeat] = {}

        def look() -> bool:
            for child in wanted:
                if (beat := child.heartbeat()) is not None:
                    ready[child.name] = beat
            return all(child.name in ready or child.is_over for child in wanted)

        with open_changes([child.heartbeat_file.parent for child in wanted], recheck_s=1.0) as changes:
            with anyio.move_on_after(within_s):
                while not look():
                    async with anyio.create_task_group() as first:
                        for wait in (changes.wait, self._changed.wait):
                            first.start_soon(_then_cancel, wait, first.cancel_scope)
        return ready


async def _then_cancel(wait: Callable[[], Awaitable[object]], scope: anyio.CancelScope) -> None:
    await wait()
    scope.cancel()


@asynccontextmanager
async def open_supervisor(
    children: Iterable[Child], *, tell: Callable[[str], None], back_off: BackOff | None = None
) -> AsyncIterator[Supervisor]:
    """Keep the workers running for the length of the block; leaving it stops them all, side by side.

    Args:
        children: The workers.
        tell: Given one sentence for people at each death, refusal and kill.
        back_off: How long one that died has to wait.
    """
    supervisor = Supervisor(children, tell=tell, back_off=back_off if back_off is not None else BackOff())
    async with anyio.create_task_group() as tasks:
        for child in supervisor.children.values():
            tasks.start_soon(supervisor.keep, child, name=child.name)
        try:
            yield supervisor
        finally:
            supervisor.stopping()
            tasks.cancel_scope.cancel()


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
