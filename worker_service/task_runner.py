"""One task from its claim to its end: prepare the run, let the agent work, judge what came of it, store the result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import anyio
from pydantic import ValidationError

from agent_bus.errors import BusError, DeadLetterReason
from agent_bus.gates import Gate, GateNotice
from agent_bus.layout import WorkerLayout
from agent_bus.messages import OnInterrupt, Result, TaskError, TaskStatus, utc_now
from agent_bus.queue import Claim, Queue
from agent_bus.redis.keys import result_by_id
from agent_bus.result_notices import ResultNotices
from service_kit.claude_transcripts import TOKEN_KINDS
from worker_service.agents.base import Agent, Outcome, RateLimited, Run, StopCause
from worker_service.bell import Bell
from worker_service.broadcast import Broadcast
from worker_service.metrics import Metrics
from worker_service.questions.asking import Asking
from worker_service.settlement import GivenBack, Settlement
from worker_service.spending import Bill, TokensSince
from worker_service.supervision.supervisor import Supervisor
from worker_service.supervision.watch import SEEMS_STUCK
from worker_service.task_clock import TaskClock
from worker_service.task_events import TaskEvents, tell_of_end
from worker_service.task_log import TaskLog
from worker_service.workspaces.desk import NoWorktree, Workspaces

log = logging.getLogger(__name__)

_EXIT_CODES: Final = {
    TaskStatus.COMPLETED: 0,
    TaskStatus.FAILED: 1,
    TaskStatus.TIMED_OUT: 124,
    TaskStatus.CANCELLED: 130,
}
_TROUBLE_RETRY_S: Final = 1.0
"""After trouble that is not the task's (no process or no room to be had) it goes back, but not at once."""


@dataclass(frozen=True, kw_only=True)
class DispatchSettings:
    """What the dispatcher and its tasks go by."""

    worker: str
    instance: str
    slots: int
    task_timeout_s: float
    max_attempts: int
    park_on_limit: bool = True
    cost_is_notional: bool | None = None
    """Whether a subscription covers what the agent costs; None where there is no telling."""


@dataclass(slots=True)
class Running:
    """A task between its claim and its stored result."""

    run: Run
    scope: anyio.CancelScope
    clock: TaskClock
    bill: Bill

    def stop(self, cause: StopCause) -> None:
        """End the agent's run from outside; the first cause stays, but for a cancel of one that is stuck."""
        # Whoever wants a task gone means it, also when it is being taken back for another attempt.
        if self.run.stop_cause is None or (self.run.stop_cause is StopCause.STUCK and cause is StopCause.CANCEL):
            self.run.stop_cause = cause
        self.scope.cancel()


class TaskRunner:
    """Carries out claims; knows which tasks run."""

    def __init__(
        self,
        settings: DispatchSettings,
        *,
        queue: Queue,
        agent: Agent,
        metrics: Metrics,
        layout: WorkerLayout,
        gate: Gate | None,
        bell: Bell,
        broadcast: Broadcast,
        keep_journals: bool = True,
        notices: ResultNotices | None = None,
        asking: Asking | None = None,
        on_failure: Callable[[Run], None] = lambda run: None,
        workspaces: Workspaces | None = None,
        supervisor: Supervisor | None = None,
        tokens_since: TokensSince = lambda session_id, moment: None,
    ) -> None:
        """Wire a runner.

        Args:
            settings: What it goes by.
            queue: Where tasks come from and results go.
            agent: Who does the work.
            metrics: Told of what ends.
            layout: Where journals are.
            gate: The credential's gate.
            bell: Rung when something can be claimed again.
            broadcast: Told of events.
            keep_journals: Whether events are kept in files as well.
            notices: Told of results that are not files; the file queue tells of its own.
            asking: Who asks people for what agents may not do by themselves; None asks nobody.
            on_failure: Told of each run that failed or ran out of time.
            workspaces: Gives tasks the places they work in; None leaves each in its workspace.
            supervisor: Who looks whether tasks get on; None looks at none.
            tokens_since: Tells of an attempt that was cut off what its conversation knows.
        """
        self._settings = settings
        self._queue = queue
        self._agent = agent
        self._metrics = metrics
        self._layout = layout
        self.gate = gate
        """The credential's gate, or None where there is none to share."""
        self._bell = bell
        self._broadcast = broadcast
        self._keep_journals = keep_journals
        self._notices = notices
        self._asking = asking
        self._on_failure = on_failure
        self._workspaces = workspaces
        self._supervisor = supervisor
        self._tokens_since = tokens_since
        self._task_log = TaskLog()
        self._ended = {status: metrics.tasks.labels(settings.worker, status.value) for status in TaskStatus}
        self.on_parked: Callable[[], None] = lambda: None
        """Called when a limit has sent a task back to wait."""
        self.running: dict[str, Running] = {}
        """What runs now, by task id."""
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()
        self.settlement = Settlement(queue, metrics=metrics, bell=bell)
        """Tells the queue of ends, and knows which of them it could not tell."""

    def flush_log(self) -> None:
        """Log what was only counted so far."""
        self._task_log.flush()

    async def carry_out(self, claim: Claim, leave_slot: Callable[[], None]) -> None:
        """See the task to its end; `leave_slot` is called when its agent has ended, before its result is stored."""
        task_id = claim.task.task_id
        started_at = utc_now()
        journals = self._layout.events if self._keep_journals else None
        events = TaskEvents(self._settings.worker, task_id, journals, self._broadcast)
        bill = Bill(claim.notes, self._tokens_since)
        run = self._prepare(claim, events, bill)
        # The deadline is set when the agent starts: what comes before it is not the task's time.
        scope = anyio.CancelScope()
        running = self.running[task_id] = Running(run, scope, TaskClock(scope), bill)
        if self._asking is not None:
            run.ask = partial(self._asking.ask, run, running.clock)
        supervisor = self._supervisor
        if supervisor is not None:
            run.supervise = lambda signs: supervisor.take(run, signs, lambda: running.stop(StopCause.STUCK))
        self.idle.clear()
        try:
            try:
                kept = _kept_result(claim)
                await bill.settle_lost()
                run.spent_usd = bill.spent.cost_usd or 0.0
                ended = kept is None and await self._run_in_place(claim, running)
                if ended and run.outcome.status in (TaskStatus.FAILED, TaskStatus.TIMED_OUT):
                    self._on_failure(run)
            finally:
                # The slot is free while the result is on its way to the disk.
                leave_slot()
                if supervisor is not None:
                    supervisor.drop(run)
                if self._asking is not None:
                    self._asking.abandon(run)
            if kept is not None or ended:
                await self._finish(claim, kept or self._result(claim, run.outcome, bill, started_at))
        finally:
            events.close()
            self.running.pop(task_id, None)
            if not self.running:
                self.idle.set()

    def _prepare(self, claim: Claim, events: TaskEvents, bill: Bill) -> Run:
        async def remember(session_id: str) -> None:
            bill.open(session_id)
            await self._queue.remember(claim, session_id=session_id)

        def prompt_handed() -> None:
            waited = max(0.0, time.time() - claim.queued_at.timestamp())
            self._metrics.task_queue.observe(waited)
            events.started(claim, waited)

        interrupted = claim.notes.get("session_id") is not None
        restart = interrupted and claim.task.on_interrupt is OnInterrupt.RESTART and claim.task.session is None
        reason = str(claim.notes.get("released_because") or "")
        return Run(
            task=claim.task,
            attempt=claim.attempt,
            session_id=None if restart else claim.session_id,
            interrupted=interrupted and not restart,
            stuck_before=reason if reason.startswith(SEEMS_STUCK) else None,
            emit=events,
            remember=remember,
            prompt_handed=prompt_handed,
        )

    async def _run_in_place(self, claim: Claim, running: Running) -> bool:
        """Run the agent where the task belongs, and keep what it did there; tells the same as `_run_agent`."""
        if self._workspaces is None or claim.cancelled:
            return await self._run_agent(claim, running)
        run = running.run
        try:
            place = await self._workspaces.open(run)
        except NoWorktree as error:
            run.outcome.fail("no_worktree", str(error))
            return True
        except OSError as error:
            await self._release_after_trouble(claim, error)
            return False
        ended = False
        try:
            ended = await self._run_agent(claim, running)
        finally:
            await self._workspaces.close(run, place, ended=ended)
        return ended

    async def _run_agent(self, claim: Claim, running: Running) -> bool:
        """Run the agent; False when the task went back to the queue or was buried, and has no result to store."""
        run, task = running.run, claim.task
        outcome = run.outcome
        if claim.cancelled:
            outcome.status = TaskStatus.CANCELLED
            outcome.error = TaskError(kind="cancelled", message="The task was cancelled before it began.")
            return True
        limit = task.max_attempts or self._settings.max_attempts
        if claim.attempt > limit:
            await self._bury_exhausted(claim, running.bill, limit)
            return False
        if claim.attempt > 1 and task.on_interrupt is OnInterrupt.FAIL:
            outcome.fail("interrupted", "The worker ended in the middle of the task, and its on_interrupt is fail.")
            return True
        if self._asking is not None and claim.attempt > 1:
            await self._asking.forsaken.withdraw_of_task(task.task_id)
        timeout_s = task.timeout or self._settings.task_timeout_s
        try:
            try:
                with running.scope as scope:
                    running.clock.start(timeout_s)
                    await self._agent.run(run)
            finally:
                # Before it is judged: whatever goes back to the queue takes what it cost along.
                await running.bill.close(outcome)
        except RateLimited as limited:
            return await self._park(claim, limited, outcome)
        except Exception as error:
            if not running.scope.cancel_called and isinstance(error, BusError | OSError):
                await self._release_after_trouble(claim, error)
                return False
            log.exception("agent %s failed", self._agent.name, extra={"action": "agent_error", "task_id": task.task_id})
            if not running.scope.cancel_called:
                outcome.fail("agent_error", f"The agent {self._agent.name} failed: {error or type(error).__name__}.")
                return True
            # It failed on its way out; why it was stopped is what counts.
            return await self._stopped(claim, run, timeout_s)
        if scope.cancelled_caught:
            return await self._stopped(claim, run, timeout_s)
        return True

    async def _stopped(self, claim: Claim, run: Run, timeout_s: float) -> bool:
        """Judge a run that was stopped from outside; False when the task went back to the queue."""
        task, outcome = claim.task, run.outcome
        match run.stop_cause:
            case StopCause.SHUTDOWN if task.on_interrupt is OnInterrupt.FAIL:
                outcome.fail("interrupted", "The worker was stopped in the middle of it, and its on_interrupt is fail.")
            case StopCause.SHUTDOWN:
                await self.settlement.release(claim, spend_attempt=False, reason="the worker was stopped")
                log.info("task %s goes back", task.task_id, extra={"action": "task_released", "task_id": task.task_id})
                return False
            case StopCause.STUCK:
                return run.answered or await self._unstick(claim, run)
            case StopCause.CANCEL:
                outcome.status = TaskStatus.CANCELLED
                outcome.error = TaskError(kind="cancelled", message="The task was cancelled while it ran.")
            case _:
                outcome.status = TaskStatus.TIMED_OUT
                outcome.error = TaskError(kind="timeout", message=f"The task did not end within {timeout_s:g} s.")
        return True

    async def _unstick(self, claim: Claim, run: Run) -> bool:
        """Give a task that was ended as stuck another attempt; False when it has one left."""
        task = claim.task
        assert self._supervisor is not None
        reason = self._supervisor.reason(run)
        limit = task.max_attempts or self._settings.max_attempts
        if task.on_interrupt is OnInterrupt.FAIL or claim.attempt >= limit:
            run.outcome.fail("stuck", reason)
            return True
        await self.settlement.release(claim, spend_attempt=True, reason=reason)
        log.info("task %s goes back", task.task_id, extra={"action": "task_released", "task_id": task.task_id})
        return False

    async def _park(self, claim: Claim, limited: RateLimited, outcome: Outcome) -> bool:
        if not self._settings.park_on_limit:
            outcome.fail("rate_limited", f"{limited.message} (PARK_ON_LIMIT is 0)")
            return True
        notice = GateNotice(
            kind=limited.kind,
            until=limited.until,
            message=limited.message,
            worker=self._settings.worker,
            closed_at=utc_now(),
        )
        if self.gate is not None:
            try:
                self.gate.close_until(notice)
            except OSError as error:
                log.error("the gate cannot be written: %s", error, extra={"action": "gate_unwritable"})
        self._metrics.tasks_parked.labels(self._settings.worker, limited.kind).inc()
        log.warning(
            "task %s waits until %s: %s",
            claim.task.task_id,
            limited.until.isoformat(timespec="seconds"),
            limited.message,
            extra={"action": "task_parked", "task_id": claim.task.task_id, "limit": limited.kind},
        )
        # A gate holds the task back, and whoever opens the gate lets the task go on. Without one its own moment does.
        held = self.gate is not None and self.gate.closed() is not None
        until = None if held else limited.until
        await self.settlement.release(claim, spend_attempt=False, not_before=until, reason=limited.message)
        self._bell.ring_later(max(0.05, (limited.until - utc_now()).total_seconds() + 0.05))
        self.on_parked()
        return False

    async def _release_after_trouble(self, claim: Claim, error: Exception) -> None:
        log.error(
            "task %s goes back: %s",
            claim.task.task_id,
            error,
            extra={"action": "task_released", "task_id": claim.task.task_id},
        )
        # Whatever the system is short of now it will still be short of at once.
        await anyio.sleep(_TROUBLE_RETRY_S)
        await self.settlement.release(claim, spend_attempt=True, reason=str(error))

    async def _bury_exhausted(self, claim: Claim, bill: Bill, limit: int) -> None:
        message = f"it was begun {limit} time{'s' if limit > 1 else ''} and never came to an end"
        now = utc_now()
        outcome = Outcome(session_id=claim.session_id)
        outcome.fail(DeadLetterReason.ATTEMPTS_EXHAUSTED.value, f"The task was set aside: {message}.")
        result = self._result(claim, outcome, bill, now)
        reason = DeadLetterReason.ATTEMPTS_EXHAUSTED
        await self.settlement.insist(claim, lambda: self._queue.bury(claim, reason, message, result))
        self._tell(claim, result)
        self._count(result)

    async def _finish(self, claim: Claim, result: Result) -> None:
        try:
            if not await self.settlement.store(claim, result):
                self._metrics.results_refused.inc()
        except GivenBack:
            return
        self._tell(claim, result)
        self._count(result)

    def _result(self, claim: Claim, outcome: Outcome, bill: Bill, started_at: datetime) -> Result:
        now = utc_now()
        exit_code = outcome.exit_code
        if exit_code is None or (exit_code == 0 and outcome.status is not TaskStatus.COMPLETED):
            exit_code = _EXIT_CODES[outcome.status]
        message = "" if outcome.error is None else outcome.error.message
        # All of it is of the right type by now; to have that checked costs as much as a system call.
        return Result.model_construct(
            task_id=claim.task.task_id,
            worker=self._settings.worker,
            instance=self._settings.instance,
            status=outcome.status,
            output=outcome.output,
            structured_output=outcome.structured_output,
            error=outcome.error,
            session_id=outcome.session_id,
            attempts=claim.attempt,
            num_turns=outcome.num_turns,
            usage=bill.usage(outcome),
            cost_usd=bill.spent.cost_usd,
            cost_is_partial=bill.spent.is_partial,
            cost_is_notional=self._settings.cost_is_notional,
            model=outcome.model,
            worktree=outcome.worktree,
            branch=outcome.branch,
            commit=outcome.commit,
            changes=outcome.changes,
            changes_note=outcome.changes_note,
            queued_at=claim.queued_at,
            started_at=started_at,
            completed_at=now,
            duration_seconds=max(0.0, (now - started_at).total_seconds()),
            stdout=outcome.output,
            stderr=outcome.stderr or message,
            exit_code=exit_code,
            timestamp=now,
        )

    def _tell(self, claim: Claim, result: Result) -> None:
        if self._notices is not None and claim.transport == "redis":
            error = None if result.error is None else result.error.message
            self._notices.tell(result.task_id, result.status, result_by_id(result.task_id), error)

    def _count(self, result: Result) -> None:
        worker = self._settings.worker
        self._ended[result.status].inc()
        self._metrics.task_duration.observe(result.duration_seconds)
        if result.cost_usd is not None and result.cost_usd > 0:
            self._metrics.agent_cost.inc(result.cost_usd)
            if result.cost_is_notional:
                self._metrics.agent_notional_cost.inc(result.cost_usd)
        for kind in TOKEN_KINDS if result.usage else ():
            amount = (result.usage or {}).get(kind)
            if isinstance(amount, int) and amount > 0:
                self._metrics.agent_tokens.labels(worker, kind.removesuffix("_tokens")).inc(amount)
        self._task_log.ended(result)
        tell_of_end(self._broadcast, result)


def _kept_result(claim: Claim) -> Result | None:
    """Return the result that an earlier worker could not store, if it went back with the task."""
    try:
        return Result.model_validate(claim.notes["result"])
    except (KeyError, ValidationError):
        return None
