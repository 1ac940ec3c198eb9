"""The embedded queue: a directory.

A claim is an atomic `rename` into `inflight/INSTANCE/`; ownership is the lock that the living instance holds on that
directory (`ownership.py`). A file moves `triggers → inflight → gone` once its result is in place, or back by way of
`released/` when its owner died or let go. No step in between can lose it, and `kill -9` at any point leaves either
the file or its result.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import anyio

from agent_bus.cancel_requests import CancelRequests
from agent_bus.claim_names import ClaimName, original_name, parse_claim_name
from agent_bus.claim_store import ClaimStore, Held
from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.errors import BusError, DeadLetterReason, QueueUnavailable, ResultNotStored, TriggerRejected
from agent_bus.files import read_untrusted
from agent_bus.intake import Intake, IntakeSettings, Peeked, stamp_of
from agent_bus.layout import TASK_SUFFIX, TRIGGER_SUFFIX, WorkerLayout
from agent_bus.messages import Result, Task, encode_result
from agent_bus.ownership import is_alive
from agent_bus.queue import Claim, TriggerEvent
from agent_bus.refusals import Refusals
from agent_bus.result_notices import ResultNotices
from agent_bus.result_store import ResultStore
from agent_bus.session_locks import SessionStore
from agent_bus.trigger_index import Entry, Source
from agent_bus.trigger_reader import TaskBody, make_task, read_body

_BUSY_SESSION_RETRY_S = 1.0
"""Another replica works in the session: nothing tells when it is done, so look again after this long."""

_FAILED_CLAIM_RETRY_S = 1.0
"""A file that could not be claimed (a full disk, say) is tried again after this long."""


class QueueObserver(Protocol):
    """Who wants to know what happens in the queue. Called on the event loop; must not block or raise."""

    def ready(self) -> None:
        """Something can be claimed now that could not before."""

    def trigger_event(self, event: TriggerEvent) -> None:
        """A trigger that is no task came, and is removed."""

    def buried(self, letter: DeadLetter) -> None:
        """A file was set aside."""

    def cancel_requested(self, task_id: str) -> None:
        """The end of a task was asked for."""


class FileQueue:
    """Tasks as files. Use `run_forever` beside it: scans, settle times and grouped flushes live there."""

    def __init__(
        self,
        layout: WorkerLayout,
        *,
        worker: str,
        instance: str,
        intake: IntakeSettings,
        sync_results: bool,
        observer: QueueObserver,
    ) -> None:
        """Make the directories and take ownership of this instance's own.

        Args:
            layout: Where everything lies.
            worker: Whose tasks these are.
            instance: A name that no other process has or had.
            intake: What is let in.
            sync_results: Whether a result must be on the disk before its task is let go.
            observer: Told what happens.

        Raises:
            QueueUnavailable: a directory cannot be made or used.
        """
        self._layout = layout
        self._worker = worker
        self._instance = instance
        self._limits = intake
        self._observer = observer
        self._store = ClaimStore(layout, instance)
        self.notices = ResultNotices(layout.orchestrator_triggers, worker=worker, instance=instance)
        """Tells the orchestrator of results."""
        self._results = ResultStore(
            layout.results,
            self._store.prefix,
            sync=sync_results,
            mend=self._store.mend,
            notices=self.notices,
        )
        self._refusals = Refusals(
            worker=worker,
            instance=instance,
            max_bytes=intake.max_bytes,
            store=self._store,
            box=DeadLetterBox(layout, self._store.set_aside),
            results=self._results,
            buried=observer.buried,
        )
        self._sessions = SessionStore(layout.sessions)
        self._held: dict[str, Held] = {}
        self._running_ids: set[str] = set()
        self._cancels = CancelRequests(layout.tasks)
        self.intake = Intake(layout, intake, self)

    @property
    def instance(self) -> str:
        """The name of this process among the owners."""
        return self._instance

    async def run_forever(self) -> None:
        """Scan, settle and flush until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._results.run_forever)
            await self.intake.run_forever()

    def close(self) -> None:
        """Give back what is still held and the ownership itself; claims left over go on elsewhere."""
        for token, held in list(self._held.items()):
            with suppress(OSError):
                self._store.release(held, held.name.attempt)
            self._let_go(token, held)
        self._store.close()

    def depth(self) -> int:
        """Return how many files wait, as far as this instance has seen."""
        return len(self.intake.index)

    def reclaim(self) -> int:
        """Take what dead owners held and offer it anew; returns how many claims that were."""
        reclaimed = self._store.reclaim()
        for name in reclaimed:
            self.intake.notice(Source.RELEASED, name)
        if reclaimed:
            self._observer.ready()
        return len(reclaimed)

    # -- the queue's interface, see agent_bus.queue.Queue

    async def claim(self) -> Claim | None:
        """Take the next task; None when nothing can be taken now.

        Raises:
            BusError: a file could not be claimed; it stays in the queue and is offered again a little later.
        """
        while (entry := self.intake.index.pop()) is not None:
            try:
                session_lock = None
                if entry.session and (session_lock := self._lock_session(entry)) is None:
                    continue
                claim = self._claim_entry(entry, session_lock)
            except FileNotFoundError:
                # Another replica was faster, or whoever put it there took it back.
                claim = None
            except OSError as error:
                self.intake.index.end_session(entry.session)
                self.intake.postpone(entry.source, entry.name, _FAILED_CLAIM_RETRY_S)
                raise BusError(
                    f"{entry.name} cannot be claimed: {error.strerror or error}; it stays where it is"
                ) from error
            if claim is not None:
                return claim
            self.intake.index.end_session(entry.session)
        return None

    async def extend(self, claim: Claim) -> None:
        """Do nothing: the kernel knows who lives."""

    async def remember(self, claim: Claim, *, session_id: str | None) -> None:
        """Write the note beside the claim, and the session's conversation where it has one."""
        claim.session_id = session_id
        claim.notes["session_id"] = session_id
        self._store.write_note(self._held[claim.token], claim.notes)
        if claim.task.session is not None and session_id is not None:
            self._sessions.remember(claim.task.session, session_id)

    async def complete(self, claim: Claim, result: Result) -> bool:
        """Put the result in place unless there is one, then let go."""
        held = self._held[claim.token]
        stored = await self._results.store(result, held.name.uid)
        self._store.discard(held)
        self._forget(claim, held)
        return stored

    async def release(
        self,
        claim: Claim,
        *,
        spend_attempt: bool,
        not_before: datetime | None = None,
        reason: str = "",
        result: Result | None = None,
    ) -> None:
        """Put the claim into `released/`, where any replica may take it."""
        held = self._held[claim.token]
        released = None
        # Somebody may have deleted the shared directory under the running task: then there is nothing to give back.
        with suppress(FileNotFoundError):
            if not_before is not None or held.has_note or claim.notes or result is not None:
                notes = {**claim.notes, "released_because": reason}
                notes["not_before"] = not_before.timestamp() if not_before is not None else 0.0
                if result is not None:
                    notes["result"] = json.loads(encode_result(result))
                self._store.write_note(held, notes)
            released = self._store.release(held, claim.attempt if spend_attempt else claim.attempt - 1)
        self._running_ids.discard(claim.task.task_id)
        self._let_go(claim.token, held)
        if released is not None:
            self.intake.notice(Source.RELEASED, released)
        self._end_session(claim)
        self._observer.ready()

    async def bury(self, claim: Claim, reason: DeadLetterReason, message: str, result: Result | None) -> None:
        """Set the claim aside; a result, where given, is written first."""
        held = self._held[claim.token]
        if result is not None:
            self._results.store_now(result, self._store.new_uid())
        refusal = TriggerRejected(reason, message, task_id=claim.task.task_id)
        with suppress(FileNotFoundError):
            self._refusals.bury(held.path, held.name.name, refusal, attempts=claim.attempt - 1)
        self._store.discard_note(held)
        self._forget(claim, held)

    async def request_cancel(self, task_id: str) -> bool:
        """Leave a cancel marker where the task waits, or runs in another replica."""
        names = ((Source.TRIGGERS, f"task-{task_id}{TRIGGER_SUFFIX}"), (Source.TASKS, f"{task_id}{TASK_SUFFIX}"))
        waits = any(os.access(self.intake.path_of(*place), os.F_OK) for place in names)
        if not waits and not self.is_claimed(task_id):
            return False
        try:
            self._cancels.mark(task_id)
        except OSError as error:
            raise QueueUnavailable(f"the cancel of {task_id} cannot be noted: {error.strerror or error}") from error
        self.cancel(task_id)
        return True

    # -- what the intake asks, see agent_bus.intake.IntakeHandler

    def ready(self) -> None:
        """Pass on that something can be claimed."""
        self._observer.ready()

    def take_event(self, name: str, text: str) -> None:
        """Publish the event and remove its trigger; a crash in between publishes it again, never not at all."""
        claimed = ClaimName(1, self._store.new_uid(), original_name(name))
        source = Source.TRIGGERS if parse_claim_name(name) is None else Source.RELEASED
        with suppress(FileNotFoundError):
            held = self._store.take(self.intake.path_of(source, name), claimed)
            self._observer.trigger_event(TriggerEvent(name=claimed.name, body=text))
            self._store.discard(held)

    def bury_unclaimed(self, source: Source, name: str, refusal: TriggerRejected) -> None:
        """Set aside a file that nobody has claimed."""
        try:
            self._refusals.answer(refusal)
            self._refusals.bury(self.intake.path_of(source, name), original_name(name), refusal, attempts=0)
        except FileNotFoundError:
            return
        except (OSError, ResultNotStored):
            self.intake.postpone(source, name, _FAILED_CLAIM_RETRY_S)
            return
        if source is Source.RELEASED and (parsed := parse_claim_name(name)) is not None:
            self._store.drop_released_note(parsed)

    def is_claimed(self, task_id: str) -> bool:
        """Tell whether anybody holds the task now, or held it and died."""
        return self._refusals.is_claimed(task_id)

    def is_settled(self, task_id: str) -> bool:
        """Tell whether the task runs here or has a result."""
        return task_id in self._running_ids or self._results.has(task_id)

    def cancel(self, task_id: str) -> None:
        """Take note of a cancel marker, for a running task or one to come."""
        if task_id not in self._running_ids and self.is_settled(task_id):
            self._cancels.remove_marker(task_id)
            return
        self._cancels.note(task_id, never_forget=self._running_ids)
        if task_id in self._running_ids:
            self._observer.cancel_requested(task_id)

    def held_until(self, name: str) -> float:
        """Return when the released claim may be taken, in epoch seconds."""
        parsed = parse_claim_name(name)
        return 0.0 if parsed is None else self._store.held_until(parsed)

    # -- inside

    def _lock_session(self, entry: Entry) -> int | None:
        """Take the entry's session; None when the entry was put back, for another time or another entry."""
        lock = self._sessions.lock(entry.session)
        if lock is None:
            self._wait_for_session(entry)
            return None
        dead = self._sessions.holder(lock)
        if not dead or dead == self._instance:
            self._sessions.set_holder(lock, self._instance)
            return lock
        # Somebody was killed in the middle of the session: that task goes first.
        if is_alive(self._layout.inflight, dead):
            # The kernel closes a dying process's files one after the other; a second look believes what it sees.
            self._sessions.set_holder(lock, f"?{dead}")
            os.close(lock)
            self._wait_for_session(entry)
            return None
        self.reclaim()
        with suppress(OSError):
            for name in os.listdir(self._layout.released):
                self.intake.notice(Source.RELEASED, name)
        SessionStore.unlock(lock)
        self.intake.index.put_back(entry)
        self.intake.index.end_session(entry.session)
        return None

    def _wait_for_session(self, entry: Entry) -> None:
        # All its tasks wait together: were only this one put off, a younger one could overtake it.
        self.intake.index.put_back(entry)
        asyncio.get_running_loop().call_later(_BUSY_SESSION_RETRY_S, self._offer_session, entry.session)

    def _offer_session(self, session: str) -> None:
        self.intake.index.end_session(session)
        self._observer.ready()

    def _claim_entry(self, entry: Entry, session_lock: int | None) -> Claim | None:
        peeked = self.intake.take_peeked(entry.source, entry.name)
        earlier = parse_claim_name(entry.name) if entry.source is Source.RELEASED else None
        if earlier is None:
            name = ClaimName(1, self._store.new_uid(), entry.name)
        else:
            name = earlier._replace(attempt=earlier.attempt + 1)
        try:
            held = self._store.take(self.intake.path_of(entry.source, entry.name), name)
        except OSError:
            if session_lock is not None:
                SessionStore.unlock(session_lock)
            raise
        held.session_lock = session_lock
        try:
            return self._validate(held, peeked, fresh=earlier is None)
        except (OSError, BusError) as error:
            # Nothing that is accepted may be lost: what cannot be judged now goes back.
            try:
                released = self._store.release(held, name.attempt - 1)
            finally:
                self._unlock_session(held)
            self.intake.postpone(Source.RELEASED, released, _FAILED_CLAIM_RETRY_S)
            raise BusError(f"{entry.name} cannot be taken in: {error}") from error

    def _validate(self, held: Held, peeked: Peeked | None, *, fresh: bool) -> Claim | None:
        notes = {} if fresh else self._store.take_note(held)
        try:
            body, mtime_ns = self._body_of(held, peeked)
            task = make_task(body, held.name.name, mtime_ns=mtime_ns, worker=self._worker)
            if self._is_answered(task, held, fresh=fresh):
                return None
        except TriggerRejected as refusal:
            self._reject(held, refusal)
            return None
        self._held[held.name.uid] = held
        self._running_ids.add(task.task_id)
        session_id = notes.get("session_id")
        if session_id is None and task.session is not None:
            session_id = self._sessions.conversation(task.session)
        return Claim(
            task=task,
            attempt=held.name.attempt,
            queued_at=datetime.fromtimestamp(mtime_ns / 1e9, UTC),
            token=held.name.uid,
            session_id=session_id,
            notes=notes,
            cancelled=task.task_id in self._cancels,
        )

    def _body_of(self, held: Held, peeked: Peeked | None) -> tuple[TaskBody, int]:
        """Return the claimed file's body and the time of its last change in nanoseconds."""
        if peeked is not None and stamp_of(os.stat(held.path, follow_symlinks=False)) == peeked.stamp:
            return peeked.body, peeked.mtime_ns
        body, status = read_untrusted(held.path, max_bytes=self._limits.max_bytes, owners=self._limits.owners)
        meaning = read_body(body, held.name.name)
        if not isinstance(meaning, TaskBody):
            raise TriggerRejected(DeadLetterReason.MALFORMED, "it changed while it was claimed, and is no task now")
        return meaning, status.st_mtime_ns

    def _is_answered(self, task: Task, held: Held, *, fresh: bool) -> bool:
        """Acknowledge a task whose result exists; a fresh trigger under a used id is refused aloud."""
        if task.task_id in self._running_ids:
            raise TriggerRejected(DeadLetterReason.DUPLICATE, f"task {task.task_id} is running already")
        if not self._results.has(task.task_id):
            return False
        if fresh:
            raise TriggerRejected(
                DeadLetterReason.DUPLICATE,
                f"task {task.task_id} has its result in {self._results.path(task.task_id)}; "
                "to run it again, hand it in under a new task_id",
            )
        # The earlier owner died between writing the result and letting go.
        self._results.tell_again(task.task_id)
        self._store.discard(held)
        self._unlock_session(held)
        return True

    def _reject(self, held: Held, refusal: TriggerRejected) -> None:
        self._refusals.answer(refusal, apart_from=held.path)
        self._refusals.bury(held.path, held.name.name, refusal, attempts=held.name.attempt - 1)
        self._store.discard_note(held)
        self._unlock_session(held)

    def _forget(self, claim: Claim, held: Held) -> None:
        task_id = claim.task.task_id
        self._running_ids.discard(task_id)
        self._cancels.settle(task_id)
        self._let_go(claim.token, held)
        self._end_session(claim)

    def _let_go(self, token: str, held: Held) -> None:
        del self._held[token]
        self._unlock_session(held)

    def _end_session(self, claim: Claim) -> None:
        if claim.task.session is not None:
            self.intake.index.end_session(claim.task.session)
            self._observer.ready()

    @staticmethod
    def _unlock_session(held: Held) -> None:
        if held.session_lock is not None:
            SessionStore.unlock(held.session_lock)
            held.session_lock = None
