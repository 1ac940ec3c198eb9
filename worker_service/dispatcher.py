"""The dispatcher: bell and free slots → claim; what follows for one task is `task_runner.py`.

Each slot is a coroutine that lives as long as the worker: after a task it claims the next one itself, and rests when
there is none. A ring wakes one resting slot; a slot that finds work wakes the next. So a ring costs one look at the
queue, and a full queue is worked off with no detour over the bell.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import anyio

from agent_bus.errors import BusError
from agent_bus.gates import GateNotice
from agent_bus.messages import utc_now
from agent_bus.queue import Claim, Queue
from worker_service.agents.base import StopCause
from worker_service.bell import Bell
from worker_service.task_runner import DispatchSettings, TaskRunner

log = logging.getLogger(__name__)

_MOST_STORING: Final = 128
"""So many results may wait for one flush of the disk, or one round to Redis, while their slots are used again."""
_TURN_S: Final = 0.001
"""Fast tasks are done one after the other for so long before the rest of the worker has its turn."""
_CLAIM_RETRY_S: Final = 1.0
_GATE_LOOK_S: Final = 1.0
"""How soon a gate is seen to be open that somebody opens before its time, where no message tells of it."""
_AGENT_END_S: Final = 15.0
"""How long an interrupted agent may take to end; beyond it the worker leaves and the kernel cleans up."""


class Dispatcher:
    """Claims tasks as long as there are slots, and drains."""

    def __init__(self, settings: DispatchSettings, *, queue: Queue, bell: Bell, runner: TaskRunner) -> None:
        self._settings = settings
        self._queue = queue
        self._bell = bell
        self._runner = runner
        self._resting: list[asyncio.Future[None]] = []
        self._occupied = 0
        self._carrying = 0
        self._woken = 0
        self._rings = 0
        self._yield_at = 0.0
        self._accepting = True
        self._paused = False
        self._graces: list[anyio.CancelScope] = []
        self._drained = False
        self._gate_look_at = 0.0
        self._claiming: dict[int, float] = {}
        self._claim_numbers = itertools.count()
        self._claim_trouble: str | None = None
        self.on_heard: list[Callable[[], None]] = []
        """Called each time the bell was heard; the round-trip probe listens here."""

    # -- what others may ask

    @property
    def current_tasks(self) -> list[str]:
        """The ids of the tasks that run now."""
        return list(self._runner.running)

    @property
    def free_slots(self) -> int:
        """How many tasks could be taken at once."""
        return self._settings.slots - self._occupied

    @property
    def gate_id(self) -> str | None:
        """The credential's gate, or None where there is none to share."""
        return None if self._runner.gate is None else self._runner.gate.gate_id

    def parked(self) -> GateNotice | None:
        """Return why the credential's gate is closed, or None."""
        gate = self._runner.gate
        return None if gate is None or not self._settings.park_on_limit else gate.closed()

    def trouble(self) -> str | None:
        """Say in one sentence why no task would be taken now, or None."""
        if not self._accepting:
            return "it is draining"
        if self._paused:
            return "it is paused until it is told to resume"
        if (stuck := self._runner.settlement.holds_back()) is not None:
            return stuck
        if self._claim_trouble is not None:
            return self._claim_trouble
        if (notice := self.parked()) is not None:
            return f"a limit holds tasks back until {notice.until.isoformat(timespec='seconds')}: {notice.message}"
        return None

    def stuck_seconds(self) -> float:
        """Return for how long the dispatcher has been deaf, or caught in one claim; 0.0 when it is well."""
        since = list(self._claiming.values())
        if self._bell.rung_since is not None:
            since.append(self._bell.rung_since)
        return time.monotonic() - min(since) if since else 0.0

    @property
    def paused(self) -> bool:
        """Whether it was told to take nothing."""
        return self._paused

    def pause(self) -> None:
        """Take no new tasks; what runs goes on."""
        self._paused = True

    def resume(self) -> None:
        """Take tasks again."""
        self._paused = False
        self._bell.ring("resume")

    def cancel(self, task_id: str) -> bool:
        """End the task's run as cancelled; False when it does not run here."""
        running = self._runner.running.get(task_id)
        if running is None:
            return False
        running.stop(StopCause.CANCEL)
        return True

    # -- its life

    async def run_forever(self) -> None:
        """Serve until cancelled."""
        # A ring wakes a slot itself; hearing it here proves that the dispatcher's own loop is alive.
        self._bell.answer = self._wake_one
        async with anyio.create_task_group() as tasks:
            # More than there are slots: whoever stores a result has left its slot to another. Twice as many as that:
            # while Redis is away the results of its tasks wait, and those of files must not wait behind them.
            for number in range(2 * (self._settings.slots + _MOST_STORING)):
                tasks.start_soon(self._serve, name=f"server {number}")
            while True:
                await self._bell.heard()
                for listener in self.on_heard:
                    listener()

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, give running tasks `grace_s` seconds, then interrupt and release them.

        A second call may shorten the grace of the first; once one has interrupted, none waits again.
        """
        if self._drained:
            return
        self._accepting = False
        with anyio.move_on_after(grace_s) as grace:
            self._graces.append(grace)
            await self._runner.idle.wait()
        if not self._runner.running or self._drained:
            return
        # Whoever interrupts also ends the grace that an earlier call still grants.
        for earlier in self._graces:
            earlier.cancel()
        log.warning(
            "%d task(s) did not end within %g s; they are interrupted and will be resumed",
            len(self._runner.running),
            grace_s,
            extra={"action": "drain_interrupts", "tasks": self.current_tasks},
        )
        for running in list(self._runner.running.values()):
            running.stop(StopCause.SHUTDOWN)
        # The agents of those have ended long ago: nothing is to be waited for any more.
        self._runner.settlement.stop()
        with anyio.move_on_after(_AGENT_END_S):
            await self._runner.idle.wait()
        self._drained = True

    # -- slots

    def _wake_one(self) -> None:
        self._rings += 1
        # Whoever leaves a slot looks at the queue himself, so a ring beyond the free slots wakes nobody.
        while self._resting and self._occupied + self._woken < self._settings.slots:
            rest = self._resting.pop()
            if not rest.done():
                self._woken += 1
                rest.set_result(None)
                return

    async def _serve(self) -> None:
        while True:
            claim = await self._next_claim()
            if self._queue.depth():
                self._wake_one()
            self._carrying += 1
            try:
                await self._runner.carry_out(claim, self._leave_slot)
            finally:
                self._carrying -= 1
            # A fast agent never waits for anything: without this the other parts of the worker would starve.
            if time.monotonic() >= self._yield_at:
                await asyncio.sleep(0)
                self._yield_at = time.monotonic() + _TURN_S

    def _has_room(self) -> bool:
        storing = self._carrying - self._occupied - len(self._runner.settlement.troubles)
        return self._occupied < self._settings.slots and storing < _MOST_STORING

    def _leave_slot(self) -> None:
        self._occupied -= 1
        if self._queue.depth():
            self._wake_one()

    async def _next_claim(self) -> Claim:
        while True:
            if self._has_room():
                if self.trouble() is None or (self._accepting and not self._paused and self._claim_trouble is not None):
                    self._occupied += 1
                    rings = self._rings
                    claim = None
                    try:
                        claim = await self._try_claim()
                    finally:
                        if claim is None:
                            self._occupied -= 1
                    if claim is not None:
                        return claim
                    if self._rings != rings and self._claim_trouble is None:
                        # While this slot was asking, something came that it may have looked for too early; the ring
                        # found no slot to wake if all of them were asking.
                        continue
                elif (notice := self.parked()) is not None:
                    self._look_at_gate_again(notice.until)
            rest = asyncio.get_running_loop().create_future()
            self._resting.append(rest)
            await rest
            self._woken -= 1

    async def _try_claim(self) -> Claim | None:
        number = next(self._claim_numbers)
        self._claiming[number] = time.monotonic()
        try:
            claim = await self._queue.claim()
        except BusError as error:
            if self._claim_trouble is None:
                log.error("%s", error, extra={"action": "claim_failed"})
            self._claim_trouble = str(error)
            self._bell.ring_later(_CLAIM_RETRY_S)
            return None
        finally:
            del self._claiming[number]
        self._claim_trouble = None
        return claim

    def _look_at_gate_again(self, until: datetime) -> None:
        # The gate may have been closed by another worker, and be opened by hand: neither need ring this bell.
        now = time.monotonic()
        if now < self._gate_look_at:
            return
        wait_s = min(_GATE_LOOK_S, max(0.05, (until - utc_now()).total_seconds() + 0.05))
        # A little less than the pause: the ring must not come too early for this.
        self._gate_look_at = now + 0.9 * wait_s
        self._bell.ring_later(wait_s)
