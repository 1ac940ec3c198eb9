"""One goal being worked on, from the start of its agent to its end."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from agent_bus.messages import TaskError
from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, LedgerUnavailable, NotKnown, Unavailable
from orchestrator_service.goals.claude_code import command_line, find_claude
from orchestrator_service.goals.limits import AGENTS_SHARE, GoalDesk
from orchestrator_service.goals.prompt import resumed_prompt, still_open_prompt, system_prompt
from orchestrator_service.goals.turn import AgentGone, Audience, Turn
from orchestrator_service.ledger import goals as rows
from orchestrator_service.ledger.database import Database
from orchestrator_service.ledger.goals import GoalRow, GoalTask
from orchestrator_service.ledger.usage import tokens_of
from orchestrator_service.records import GoalState
from orchestrator_service.settings import GoalSettings
from orchestrator_service.team_tools.tools import TeamDesk, TeamTools
from service_kit.claude_transcripts import carried_usd, find_transcript, sum_tokens

if TYPE_CHECKING:
    from orchestrator_service.goals.agent import GoalAgent

log = logging.getLogger(__name__)

MOST_ATTEMPTS: Final = 3
"""So often the agent of a goal may be started; stops in good order do not count."""
BUSY_PAUSE_S: float = 30.0
"""Before the agent goes on after a limit or an overload that outlasted Claude Code's own patience."""
_MOST_REMINDERS: Final = 2
_LEAST_BUDGET_USD: Final = 0.01
_LONGEST_TEXT: Final = 2_000
_LONGEST_INPUT: Final = 1_000
_LEDGER_PAUSE_S: Final = 5.0


Publish = Callable[[str, dict[str, Any]], None]
"""Takes the name of an event and its data, `goal_id` among them; never blocks."""


@dataclass(frozen=True, kw_only=True)
class GoalRoom:
    """What all goals share."""

    desk: TeamDesk
    database: Database
    settings: GoalSettings
    environ: Mapping[str, str]
    """What of it an agent may see is chosen from it."""
    publish: Publish
    directory: Path
    """Where the agents' processes stand; they read and write no files."""
    places: asyncio.Semaphore
    """One for each goal that may be worked on at the same time."""
    day_of: Callable[[float], str]
    """Gives the day that a moment in seconds since 1970 counts against."""

    async def cancel_tasks(self, goal_id: str, asker: Asker, reason: str) -> None:
        """End the open tasks of a goal."""
        for task in await self.database.read(lambda db: rows.tasks_of_goal(db, goal_id)):
            if task.is_open:
                await self.cancel_task(task.task_id, asker, reason)

    async def cancel_task(self, task_id: str, asker: Asker, reason: str) -> None:
        """End a task if it has not ended."""
        with suppress(NotKnown, Conflict):
            await self.desk.cancel(task_id, asker, reason)


class _Ended(Exception):
    """The goal has come to its end; says how."""

    def __init__(self, state: GoalState, output: str | None, error: TaskError | None = None) -> None:
        super().__init__(state.value)
        self.state, self.output, self.error = state, output, error


class GoalRun:
    """Works on one goal."""

    def __init__(self, room: GoalRoom, row: GoalRow, desk: GoalDesk) -> None:
        self._room = room
        self._row = row
        self._desk = desk
        self._asker = Asker(name=row.submitted_by, origin="goal", goal_id=row.goal_id)
        self._said: list[str] = []
        self._counted = False
        self._notional = False

    async def work(self, ended_from_outside: Callable[[], bool]) -> None:
        """Work on the goal until it has ended; cancelled, stop in good order and leave it to be resumed.

        Args:
            ended_from_outside: Tells a cancellation that ends the goal from one that ends the orchestrator.
        """
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + max(0.0, self._row.end_at - time.time())) as scope:
                await self._work_in_turn()
            if not scope.cancelled_caught:
                return
            sentence = f"The goal was not reached within {self._row.timeout:g} seconds."
            raise _Ended(GoalState.TIMED_OUT, self._text(), TaskError(kind="timed_out", message=sentence))
        except _Ended as ended:
            await self._end(ended)
        except Exception:
            log.exception("goal %s failed", self._row.goal_id, extra={"action": "goal_failed"})
            await self._end(self._failed("internal_error", "The orchestrator met something unforeseen; see its log."))
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(_LEDGER_PAUSE_S):
                await self._stop(by_cancel=ended_from_outside())
            raise

    async def _work_in_turn(self) -> None:
        if self._room.places.locked():
            self._tell("goal_waits", message=f"{self._room.settings.max_running} goals are worked on already.")
        async with self._room.places:
            # In a thread: the import takes most of a second, in which the loop has other things to do.
            await asyncio.to_thread(importlib.import_module, "orchestrator_service.goals.agent")
            while True:
                try:
                    await self._attempt()
                except LedgerUnavailable as error:
                    log.warning("goal %s waits: %s", self._row.goal_id, error, extra={"action": "goal_without_ledger"})
                    await anyio.sleep(_LEDGER_PAUSE_S)

    async def _attempt(self) -> None:
        """Start the agent and let it work.

        Raises:
            _Ended: the goal has come to its end. Otherwise the agent is to be started again.
        """
        from orchestrator_service.goals.agent import open_agent

        row = self._row
        attempt = await self._room.database.write(lambda db: rows.begin_attempt(db, row.goal_id))
        self._counted = True
        try:
            claude = find_claude(self._room.settings.cli, self._room.environ)
        except Unavailable as error:
            raise self._failed("no_agent", str(error)) from error
        self._notional = claude.cost_is_notional
        tasks = await self._tasks()
        transcript = await asyncio.to_thread(find_transcript, claude.environment, row.session_id)
        known = transcript is not None
        fresh = attempt == 1 and not known and not tasks
        prompt = row.goal if fresh else resumed_prompt(row, tasks, same_conversation=known)
        spent = await self._spent_usd()
        carried = 0.0 if transcript is None else await asyncio.to_thread(carried_usd, transcript)
        command = command_line(
            claude.program,
            session_id=row.session_id,
            resume=known,
            system_prompt=system_prompt(row, await self._desk.workers()),
            model=row.model,
            max_budget_usd=self._agents_budget(spent),
        )
        self._room.directory.mkdir(parents=True, exist_ok=True)
        self._tell("goal_started", attempt=attempt, session_id=row.session_id, resumed=known)
        try:
            async with open_agent(
                command,
                environment=claude.environment,
                directory=self._room.directory,
                session_id=row.session_id,
                tools=TeamTools(self._desk, self._asker),
                audience=Audience(on_text=self._on_text, on_tool=self._on_tool, on_wait=self._on_wait),
            ) as agent:
                await self._converse(agent, prompt, spent - carried)
        except AgentGone as error:
            if attempt >= MOST_ATTEMPTS:
                raise self._failed("agent_died", f"{error} It was started {attempt} times.") from error
            log.warning("goal %s: %s", row.goal_id, error, extra={"action": "goal_agent_gone"})

    async def _converse(self, agent: GoalAgent, prompt: str, before_usd: float) -> None:
        """Talk until the goal has come to its end.

        Args:
            agent: The agent.
            prompt: What is said first.
            before_usd: What the goal's agents have cost that this process does not count.
        """
        reminders = 0
        while True:
            turn = Turn()
            try:
                await agent.take_turn(prompt, turn)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._store_use(turn, before_usd)
            open_tasks = [task for task in await self._tasks() if task.is_open]
            if turn.error_kind is not None and turn.busy:
                self._tell("goal_waits", message=f"The API is busy: {turn.error[:_LONGEST_TEXT]}")
                await anyio.sleep(BUSY_PAUSE_S)
                prompt = "Go on."
            elif turn.error_kind is not None:
                raise self._failed(turn.error_kind, turn.error[:_LONGEST_TEXT])
            elif open_tasks and reminders < _MOST_REMINDERS:
                reminders += 1
                prompt = still_open_prompt(open_tasks)
            elif turn.text.strip():
                raise _Ended(GoalState.COMPLETED, turn.text)
            else:
                raise self._failed("no_synthesis", "The agent ended without a word.")

    # -- ends

    def _failed(self, kind: str, message: str) -> _Ended:
        return _Ended(GoalState.FAILED, self._text(), TaskError(kind=kind, message=message))

    async def _end(self, ended: _Ended) -> None:
        goal_id = self._row.goal_id
        await self._desk.close()
        while True:
            try:
                # What is known by now must not get lost because the orchestrator ends in this moment.
                with anyio.CancelScope(shield=True):
                    await self._room.cancel_tasks(goal_id, self._asker, f"its goal is {ended.state.value}")
                    changed = await self._room.database.write(
                        lambda db: rows.end_goal(db, goal_id, ended.state, time.time(), ended.output, ended.error)
                    )
                break
            except LedgerUnavailable as error:
                log.error("goal %s cannot be ended: %s", goal_id, error, extra={"action": "goal_not_stored"})
                await anyio.sleep(_LEDGER_PAUSE_S)
        if changed:
            error_message = None if ended.error is None else ended.error.message
            self._tell("goal_ended", state=ended.state.value, error=error_message)

    async def _stop(self, *, by_cancel: bool) -> None:
        text = self._text()
        goal_id = self._row.goal_id
        if by_cancel:
            if text is not None:
                await self._room.database.write(lambda db: rows.keep_output(db, goal_id, text))
        elif self._counted:
            await self._room.database.write(lambda db: rows.give_back_attempt(db, goal_id))

    # -- money

    def _agents_budget(self, spent_usd: float) -> float | None:
        if self._row.max_budget_usd is None:
            return None
        left = self._row.max_budget_usd * AGENTS_SHARE - spent_usd
        if left <= 0:
            raise self._failed("max_budget", "The agent has used up its part of the goal's budget.")
        # Unlike the cost that it tells, the bound of a process does not count what it carried over.
        return max(left, min(_LEAST_BUDGET_USD, self._row.max_budget_usd))

    async def _spent_usd(self) -> float:
        row = await self._room.database.read(lambda db: rows.goal_row(db, self._row.goal_id))
        return row.agent_cost_usd or 0.0

    async def _store_use(self, turn: Turn, before_usd: float) -> None:
        now, goal_id, notional = time.time(), self._row.goal_id, self._notional
        day = self._room.day_of(now)
        cost_usd = None if turn.cost_usd is None else max(0.0, before_usd + turn.cost_usd)
        streamed = sum_tokens(turn.usages.values())
        # A turn that is interrupted in the middle of a message is told to have used nothing.
        tokens = tokens_of(turn.usage if any(tokens_of(turn.usage)) else streamed)
        if cost_usd is not None or any(tokens):
            await self._room.database.write(
                lambda db: rows.store_agent_cost(
                    db, goal_id, cost_usd, day=day, at=now, notional=notional, tokens=tokens
                )
            )

    # -- what is told

    async def _tasks(self) -> list[GoalTask]:
        return await self._room.database.read(lambda db: rows.tasks_of_goal(db, self._row.goal_id))

    def _text(self) -> str | None:
        return "\n\n".join(self._said) or None

    def _on_text(self, text: str) -> None:
        self._said.append(text)
        self._tell("goal_says", text=_short(text, _LONGEST_TEXT))

    def _on_tool(self, name: str, tool_input: dict[str, Any]) -> None:
        self._tell("goal_uses", tool=name, input=_short(json.dumps(tool_input, ensure_ascii=False), _LONGEST_INPUT))

    def _on_wait(self, sentence: str) -> None:
        self._tell("goal_waits", message=sentence)

    def _tell(self, event: str, **data: object) -> None:
        self._room.publish(event, {"goal_id": self._row.goal_id, **data})


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} …"
