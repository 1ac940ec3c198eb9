"""Goals: each is given to an orchestrator agent, a Claude session that delegates to the team until it has an answer.

A goal's row is written before its agent starts, with the session that the agent will have. So a goal that was running
when the orchestrator ended, in whatever way, goes on in the same conversation when it is there again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
from anyio.abc import TaskGroup

from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, FieldProblem, OrderRefused
from orchestrator_service.goals.claude_code import find_claude
from orchestrator_service.goals.limits import GoalDesk
from orchestrator_service.goals.run import GoalRoom, GoalRun, Publish
from orchestrator_service.ledger import goals as rows
from orchestrator_service.ledger.database import Database
from orchestrator_service.ledger.goals import GoalRow
from orchestrator_service.orders import GoalOrder, GraphOrder, TaskOrder
from orchestrator_service.records import GoalRecord, GoalState
from orchestrator_service.settings import GoalSettings
from orchestrator_service.team_tools.tools import TeamDesk

log = logging.getLogger(__name__)


class Goals:
    """The goals of an orchestrator. Made by `open_goals`."""

    def __init__(self, room: GoalRoom, tasks: TaskGroup, *, task_budget_usd: float | None = None) -> None:
        self._room = room
        self._task_budget_usd = task_budget_usd
        self._tasks = tasks
        self._running: dict[str, _Running] = {}
        self._being_created: set[str] = set()

    async def create(self, order: GoalOrder, asker: Asker) -> GoalRecord:
        """Begin to work on a goal.

        Raises:
            OrderRefused: its text is none.
            Conflict: its id is used.
            Unavailable: there is no Claude Code here, it cannot log in, or the ledger cannot be written.
        """
        find_claude(self._room.settings.cli, self._room.environ)
        row = self._new_row(order, asker)
        self._being_created.add(row.goal_id)
        try:
            await self._room.database.write(lambda db: rows.insert_goal(db, row))
            self._start(row)
        finally:
            self._being_created.discard(row.goal_id)
        return await self.get(row.goal_id)

    def _new_row(self, order: GoalOrder, asker: Asker) -> GoalRow:
        metadata = json.dumps(order.metadata)
        try:
            order.goal.encode()
        except UnicodeEncodeError as error:
            raise OrderRefused([FieldProblem("goal", order.goal[:200], "It is no valid Unicode text.")]) from error
        settings = self._room.settings
        return GoalRow(
            goal_id=order.goal_id or f"goal-{secrets.token_hex(6)}",
            goal=order.goal,
            state=GoalState.RUNNING,
            submitted_by=asker.name,
            submitted_at=time.time(),
            session_id=str(uuid.uuid4()),
            max_tasks=order.max_tasks or settings.max_tasks,
            max_depth=order.max_depth or settings.max_depth,
            timeout=order.timeout or settings.timeout_s,
            max_budget_usd=order.max_budget_usd or settings.max_budget_usd,
            model=order.model or settings.model,
            metadata=metadata,
        )

    async def list(self, limit: int = 50) -> list[GoalRecord]:
        """Return the newest goals, newest first."""
        return await self._room.database.read(lambda db: rows.newest_goals(db, limit))

    async def get(self, goal_id: str) -> GoalRecord:
        """Return a goal. Raises NotKnown."""
        return await self._room.database.read(lambda db: rows.goal_record(db, goal_id))

    async def cancel(self, goal_id: str, asker: Asker) -> GoalRecord:
        """End a goal and its open tasks.

        Raises:
            NotKnown: there is no such goal.
            Conflict: it has ended.
        """

        def end(db: sqlite3.Connection) -> None:
            row = rows.goal_row(db, goal_id)
            if not rows.end_goal(db, goal_id, GoalState.CANCELLED, time.time()):
                raise Conflict(f"Goal {goal_id} has ended already: it is {row.state.value}.")

        await self._room.database.write(end)
        running = self._running.get(goal_id)
        if running is not None:
            await running.desk.close()
            running.ended_from_outside = True
            running.scope.cancel()
        await self._room.cancel_tasks(goal_id, asker, "its goal was cancelled")
        self._room.publish("goal_ended", {"goal_id": goal_id, "state": GoalState.CANCELLED.value, "by": asker.name})
        return await self.get(goal_id)

    async def desk_for(self, order: TaskOrder | GraphOrder) -> GoalDesk | None:
        """Return the desk at which an order must be handed in because a goal's task asks for it; None for any other.

        Raises:
            NotKnown: the task that asks is not there.
        """
        parent = next((one.parent for one in _each(order) if one.parent is not None), None)
        goal_id = None if parent is None else (await self._room.desk.task(parent)).goal_id
        if goal_id is None:
            return None
        running = self._running.get(goal_id)
        return running.desk if running is not None else self._desk_of(await self._row(goal_id))

    async def _row(self, goal_id: str) -> GoalRow:
        return await self._room.database.read(lambda db: rows.goal_row(db, goal_id))

    def _desk_of(self, row: GoalRow) -> GoalDesk:
        """Return the desk at which the goal's tasks are handed in; a goal that has ended has a closed one."""
        closed = row.state is not GoalState.RUNNING
        return GoalDesk(self._room.desk, self._room.database, row, task_budget_usd=self._task_budget_usd, closed=closed)

    async def take_up(self) -> None:
        """Go on with the goals that were running when the orchestrator ended.

        Goals that were created meanwhile are in the ledger, too, and are left alone.
        """
        for task_id in await self._room.database.read(rows.tasks_without_goal):
            await self._room.cancel_task(task_id, Asker(name="orchestrator", origin="goal"), "its goal has ended")
        for row in await self._room.database.read(rows.running_goals):
            if row.goal_id not in self._running and row.goal_id not in self._being_created:
                self._start(row)

    def _start(self, row: GoalRow) -> None:
        running = _Running(self._desk_of(row))
        self._running[row.goal_id] = running
        self._tasks.start_soon(self._work, row, running, name=f"goal {row.goal_id}")

    async def _work(self, row: GoalRow, running: _Running) -> None:
        try:
            with running.scope:
                await GoalRun(self._room, row, running.desk).work(lambda: running.ended_from_outside)
        except Exception:
            # Its end could not be stored. It must not take the others with it, and is taken up at the next start.
            log.exception("goal %s stopped", row.goal_id, extra={"action": "goal_stopped"})
        finally:
            self._running.pop(row.goal_id, None)


def _each(order: TaskOrder | GraphOrder) -> Sequence[TaskOrder]:
    return order.tasks if isinstance(order, GraphOrder) else [order]


class _Running:
    """A goal that is worked on."""

    def __init__(self, desk: GoalDesk) -> None:
        self.desk = desk
        self.scope = anyio.CancelScope()
        self.ended_from_outside = False
        """Whether its row says already how it ended."""


@asynccontextmanager
async def open_goals(
    desk: TeamDesk,
    database: Database,
    settings: GoalSettings,
    environ: Mapping[str, str],
    publish: Publish,
    *,
    task_budget_usd: float | None = None,
    day_of: Callable[[float], str] = lambda moment: datetime.fromtimestamp(moment, UTC).date().isoformat(),
) -> AsyncIterator[Goals]:
    """Work on goals for the length of the block.

    Call `take_up` once the desk takes orders. At the end of the block agents are interrupted; their goals stay
    `running`, and go on when there are goals again.

    Args:
        desk: Where tasks are handed in.
        database: The ledger.
        settings: How agents work.
        environ: What of it an agent may see is chosen from it.
        publish: Told what happens.
        task_budget_usd: The most that one task may cost.
        day_of: Gives the day that a moment in seconds since 1970 counts against.
    """
    async with anyio.create_task_group() as tasks:
        room = GoalRoom(
            desk=desk,
            database=database,
            settings=settings,
            environ=environ,
            publish=publish,
            directory=database.path.parent / "goals",
            places=asyncio.Semaphore(settings.max_running),
            day_of=day_of,
        )
        goals = Goals(room, tasks, task_budget_usd=task_budget_usd)
        try:
            yield goals
        finally:
            tasks.cancel_scope.cancel()
