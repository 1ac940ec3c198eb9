"""Looks at the running tasks from time to time, tells of those that are stuck, and ends them.

There is one timer, and only while there is a task to look at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from agent_bus.messages import utc_now
from worker_service.agents.base import LifeSigns, Run
from worker_service.metrics import Metrics
from worker_service.settings import StuckAction, SupervisionSettings
from worker_service.supervision.limits import Signal, limits_of
from worker_service.supervision.watch import SEEMS_STUCK, Reading, Watch

log = logging.getLogger(__name__)

_LEAST_TIMER_S: Final = 0.01


class Stage(StrEnum):
    """How far the answer to a stuck task has gone."""

    NOTICED = "noticed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


@dataclass(kw_only=True, slots=True)
class _Ward:
    """One task under supervision."""

    run: Run
    watch: Watch
    end: Callable[[], None]
    emit: Callable[[str, dict[str, Any]], None]
    """The task's own, as it was before anybody listened in."""
    look_at: float
    stage: Stage | None = None
    verdict: dict[Signal, Reading]
    noticed_at: float = 0.0
    rounds_then: int = 0

    @property
    def task_id(self) -> str:
        return self.run.task.task_id


class Supervisor:
    """Supervises the tasks of one worker."""

    def __init__(
        self,
        settings: SupervisionSettings,
        metrics: Metrics,
        *,
        worker: str,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Go by `settings`; `on_change` is called when a task is found stuck, and when it is so no more."""
        self._settings = settings
        self._metrics = metrics
        self._worker = worker
        self.on_change = on_change
        self._wards: dict[str, _Ward] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stuck_tasks(self) -> list[str]:
        """The ids of the tasks that are stuck now."""
        return [task_id for task_id, ward in self._wards.items() if ward.stage is not None]

    def take(self, run: Run, signs: LifeSigns, end: Callable[[], None]) -> None:
        """Watch a run from now on; `end` stops it as stuck."""
        limits = limits_of(self._settings, run.task.stuck_after)
        if limits is None:
            return
        now = time.monotonic()
        watch = Watch(limits, signs, now=now, idle_share=self._settings.idle_cpu)
        ward = _Ward(run=run, watch=watch, end=end, emit=run.emit, look_at=watch.next_look(now), verdict={})

        def listen(event: str, data: dict[str, Any]) -> None:
            ward.emit(event, data)
            self._heard(ward, event, data)

        run.emit = listen
        run.interrupt_s = self._settings.kill_after_s
        self._wards[run.task.task_id] = ward
        self._arm(ward.look_at)

    def drop(self, run: Run) -> None:
        """Watch a run no more: it has ended."""
        ward = self._wards.get(run.task.task_id)
        if ward is None or ward.run is not run:
            return
        del self._wards[run.task.task_id]
        run.emit = ward.emit
        if not self._wards and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if ward.stage is not None:
            self._changed()

    def reason(self, run: Run) -> str:
        """Return in one sentence why the run was found stuck."""
        ward = self._wards.get(run.task.task_id)
        return f"{SEEMS_STUCK}." if ward is None else ward.watch.sentence(ward.verdict)

    # -- the timer

    def _arm(self, moment: float) -> None:
        loop = asyncio.get_running_loop()
        # The loop's clock is time.monotonic, as that of the signs is.
        if self._timer is not None:
            if self._timer.when() <= moment:
                return
            self._timer.cancel()
        self._timer = loop.call_at(max(moment, loop.time() + _LEAST_TIMER_S), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        for ward in list(self._wards.values()):
            if ward.look_at <= now:
                try:
                    self._look(ward, now)
                except Exception:
                    log.exception("a task could not be looked at", extra={"action": "supervision_failed"})
                ward.look_at = max(now + _LEAST_TIMER_S, self._next_look(ward, now))
        if self._wards:
            self._arm(min(ward.look_at for ward in self._wards.values()))

    def _next_look(self, ward: _Ward, now: float) -> float:
        soon = ward.watch.next_look(now)
        if ward.stage is Stage.NOTICED and self._settings.action is StuckAction.END:
            interrupt_at = ward.noticed_at + self._settings.interrupt_after_s
            return min(soon, interrupt_at) if interrupt_at > now else soon
        return soon

    # -- the stages

    def _heard(self, ward: _Ward, event: str, data: dict[str, Any]) -> None:
        now = time.monotonic()
        ward.watch.note(event, data, now)
        if event == "tool_result" and ward.watch.goes_round:
            # Nothing to wait for: it is the answer that makes it one round too many.
            ward.look_at = now
            self._arm(now)
        if event == "interrupted" and ward.stage is Stage.INTERRUPTED and not data.get("orderly"):
            self._enter(ward, Stage.KILLED, "It did not answer the interrupt and is killed.", None)

    def _look(self, ward: _Ward, now: float) -> None:
        if ward.run.stop_cause is not None or ward.stage in (Stage.INTERRUPTED, Stage.KILLED):
            # It is on its way out already.
            return
        verdict = ward.watch.look(now)
        if not verdict:
            if ward.stage is not None:
                self._leave(ward, now)
            return
        ward.verdict = verdict
        if ward.stage is None:
            ward.noticed_at, ward.rounds_then = now, ward.watch.rounds
            ends = self._settings.action is StuckAction.END
            next_s = self._settings.interrupt_after_s if ends else None
            self._enter(ward, Stage.NOTICED, ward.watch.sentence(verdict), next_s)
        if self._may_interrupt(ward, now):
            self._enter(
                ward,
                Stage.INTERRUPTED,
                ward.watch.sentence(verdict) + " It is interrupted.",
                self._settings.kill_after_s,
            )
            ward.end()

    def _may_interrupt(self, ward: _Ward, now: float) -> bool:
        if self._settings.action is not StuckAction.END or now < ward.noticed_at + self._settings.interrupt_after_s:
            return False
        # One that has gone round in circles may have stopped doing so and be thinking: only a further round tells.
        return set(ward.verdict) != {Signal.REPEATED_TOOL} or ward.watch.rounds > ward.rounds_then

    def _enter(self, ward: _Ward, stage: Stage, message: str, next_s: float | None) -> None:
        ward.stage = stage
        data: dict[str, Any] = {
            "stage": stage.value,
            "signals": {signal.value: reading.data() for signal, reading in ward.verdict.items()},
            "message": message,
            "next_stage_at": None,
        }
        if next_s is not None:
            moment = utc_now() + timedelta(seconds=next_s)
            data["next_stage_at"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._metrics.tasks_stuck.labels(self._worker, stage.value).inc()
        if stage is Stage.NOTICED:
            for signal in ward.verdict:
                self._metrics.stuck_signals.labels(self._worker, signal.value).inc()
        log.warning(
            "task %s: %s",
            ward.task_id,
            message,
            extra={"action": "task_stuck", "task_id": ward.task_id, "stage": stage.value},
        )
        ward.emit("task_stuck", data)
        self._changed()

    def _leave(self, ward: _Ward, now: float) -> None:
        after_s = round(now - ward.noticed_at, 3)
        ward.stage, ward.verdict = None, {}
        message = f"The task moves again, {after_s:.3g} s after it was found stuck."
        log.info("task %s: %s", ward.task_id, message, extra={"action": "task_unstuck", "task_id": ward.task_id})
        ward.emit("task_unstuck", {"message": message, "after_seconds": after_s})
        self._changed()

    def _changed(self) -> None:
        self._metrics.stuck_tasks.set(len(self.stuck_tasks))
        self.on_change()
