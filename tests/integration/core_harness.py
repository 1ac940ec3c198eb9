"""The orchestrator's core over a real ledger, with workers, a way to them and a clock in the hands of the test."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent_bus.commands import Command
from agent_bus.messages import Result, TaskError, TaskStatus
from agent_bus.questions import Answer, AnswerFate
from orchestrator_service.desk import Asker, Idempotency
from orchestrator_service.ledger.database import open_database
from orchestrator_service.orders import GraphOrder, TaskOrder
from orchestrator_service.records import StreamEvent, Submission, TaskRecord
from orchestrator_service.scheduling.book import Book
from orchestrator_service.service import Service
from orchestrator_service.settings import BudgetSettings, OrchestratorSettings
from orchestrator_service.team import Team, WorkerPlan
from orchestrator_service.transports.base import Dispatch, HeardResult, JournalLine, Place, Undelivered
from service_kit.findings import Finding
from tests.integration.transport_harness import made_beat
from tests.waiting import async_wait_until

ME = Asker(name="local")


class FakeTransport:
    """A way to workers that are the test itself: what is sent lies here until the test takes and ends it."""

    def __init__(self, name: str = "file") -> None:
        self.name = name
        self.sent: list[Dispatch] = []
        self.waiting: dict[str, Dispatch] = {}
        self.taken: dict[str, Dispatch] = {}
        self.results: dict[str, Result] = {}
        self.cancels: list[str] = []
        self.commands: list[tuple[str, Command]] = []
        self.holders: dict[str, list[str]] = {}
        self.journals: dict[str, list[JournalLine]] = {}
        self.refuse: str | None = None
        self.answers: dict[str, Answer] = {}
        self.unreachable = False
        self._more = asyncio.Event()

    @asynccontextmanager
    async def open(self, ears: object) -> AsyncIterator[None]:
        yield

    async def send(self, dispatches: Sequence[Dispatch]) -> list[Undelivered]:
        if self.refuse is not None:
            return [Undelivered(dispatch=dispatch, reason=self.refuse) for dispatch in dispatches]
        for dispatch in dispatches:
            self.sent.append(dispatch)
            self.waiting[dispatch.wire_id] = dispatch
        return []

    async def withdraw(self, worker: str, wire_id: str) -> bool:
        return self.waiting.pop(wire_id, None) is not None

    async def cancel(self, worker: str, wire_id: str) -> None:
        self.cancels.append(wire_id)

    async def locate(self, worker: str, wire_id: str) -> Place:
        if wire_id in self.results:
            return Place.ENDED
        if wire_id in self.taken:
            return Place.TAKEN
        return Place.WAITING if wire_id in self.waiting else Place.GONE

    async def result(self, worker: str, wire_id: str) -> Result | None:
        return self.results.get(wire_id)

    async def tell(self, worker: str, command: Command) -> bool:
        self.commands.append((worker, command))
        return True

    async def answer(self, worker: str, question_id: str, answer: Answer) -> AnswerFate:
        if self.unreachable:
            return AnswerFate.UNREACHABLE
        if question_id in self.answers:
            return AnswerFate.TOO_LATE
        self.answers[question_id] = answer
        return AnswerFate.COUNTS

    def say(self, wire_id: str, text: str, event: str = "text", **data: Any) -> None:
        """Add a line to a journal."""
        lines = self.journals.setdefault(wire_id, [])
        line = json.dumps({"event": event, "data": {"text": text, **data}}).encode()
        position = (lines[-1].position if lines else 0) + len(line) + 1
        lines.append(JournalLine(position=position, line=line))
        self._more.set()
        self._more = asyncio.Event()

    async def journal(self, worker: str, wire_id: str, after: int) -> list[JournalLine]:
        return [line for line in self.journals.get(wire_id, []) if line.position > after]

    async def follow(self, worker: str, wire_id: str, after: int) -> AsyncIterator[JournalLine]:
        while True:
            more = self._more
            for line in await self.journal(worker, wire_id, after):
                after = line.position
                yield line
            await more.wait()

    async def running(self) -> dict[str, list[str]]:
        return self.holders

    def away(self) -> str | None:
        return "the road is closed" if self.unreachable else None

    def findings(self) -> list[Finding]:
        return []


class Clock:
    """The machine's clocks, ahead by as much as the test says."""

    def __init__(self, lead: float = 0.0) -> None:
        self.lead = lead

    def now(self) -> float:
        return time.time() + self.lead

    def monotonic(self) -> float:
        return time.monotonic() + self.lead


class Scene:
    """A running core."""

    def __init__(self, service: Service, transport: FakeTransport, clock: Clock) -> None:
        self.service = service
        self.transport = transport
        self.clock = clock
        self.now = clock.now
        self.core = service.core
        self.desk = service.desk

    def at(self, seconds: float) -> datetime:
        """Return the moment in so many seconds."""
        return datetime.fromtimestamp(self.now(), UTC) + timedelta(seconds=seconds)

    async def quiet(self) -> None:
        """Wait until nothing goes on in the background."""
        await async_wait_until(
            lambda: all(task.get_name() == "reach worker" for task in self.core._tasks), what="a quiet core"
        )

    async def beat(self, worker: str, **fields: Any) -> None:
        """Have a worker give a sign of life."""
        given = {"agent": "echo", "timestamp": datetime.fromtimestamp(self.now(), UTC), **fields}
        self.service.clerk.hear_heartbeat("file", made_beat(worker, **given))
        await self.quiet()

    async def wait(self, seconds: float) -> None:
        """Let time go by, and do what comes due."""
        self.clock.lead += seconds
        self.core.look_at_fleet()
        await self.service._advance()
        await self.quiet()

    async def submit(self, description: str = "x", **fields: Any) -> TaskRecord:
        """Hand a task in."""
        submission = await self.desk.submit(TaskOrder(description=description, **fields), ME)
        await self.quiet()
        return await self.desk.task(submission.tasks[0].task_id)

    async def graph(
        self, graph_id: str = "g", *, key: Idempotency | None = None, **tasks: dict[str, Any]
    ) -> Submission:
        """Hand a graph in: each keyword is a task's key."""
        orders = [TaskOrder(**{"description": name, "key": name, **fields}) for name, fields in tasks.items()]
        submission = await self.desk.submit(GraphOrder(graph_id=graph_id, tasks=orders), ME, key)
        await self.quiet()
        return submission

    async def take(self, wire_id: str) -> None:
        """Have the worker begin a task."""
        dispatch = self.transport.taken[wire_id] = self.transport.waiting.pop(wire_id)
        self.service.clerk.hear_started("file", dispatch.worker, wire_id)
        await self.quiet()

    def made(
        self,
        wire_id: str,
        status: TaskStatus = TaskStatus.COMPLETED,
        *,
        kind: str = "agent_failed",
        worker: str | None = None,
        **fields: Any,
    ) -> Result:
        """Return a result as the worker of a dispatch would write it."""
        if worker is None:
            worker = next((run.worker for run in [self.core.open.get(wire_id)] if run is not None), "marie")
        moment = datetime.fromtimestamp(self.now(), UTC)
        given: dict[str, Any] = {
            "task_id": wire_id,
            "worker": worker,
            "instance": f"{worker}-1",
            "status": status,
            "output": f"output of {wire_id}",
            "completed_at": moment,
            "timestamp": moment,
        }
        if status is not TaskStatus.COMPLETED:
            given |= {"error": TaskError(kind=kind, message=f"{wire_id} went wrong."), "output": ""}
        return Result(**{**given, **fields})

    async def finish(self, wire_id: str, status: TaskStatus = TaskStatus.COMPLETED, **fields: Any) -> None:
        """Have the worker of a dispatch end it."""
        result = self.made(wire_id, status, **fields)
        self.transport.waiting.pop(wire_id, None)
        self.transport.taken.pop(wire_id, None)
        self.transport.results[wire_id] = result
        self.service.clerk.hear_result(HeardResult(result=result, transport="file"))
        await self.quiet()

    async def fail(self, wire_id: str, **fields: Any) -> None:
        """Have the worker of a dispatch fail."""
        await self.finish(wire_id, TaskStatus.FAILED, **fields)

    async def states(self) -> dict[str, str]:
        """Return the state of every task."""
        rows = await self.core.database.read(lambda db: db.execute("SELECT task_id, state FROM tasks").fetchall())
        return dict(rows)

    async def state(self, task_id: str) -> str:
        """Return the state of a task."""
        return (await self.desk.task(task_id)).state.value

    async def reason(self, task_id: str) -> tuple[str, str]:
        """Return what a task waits for."""
        waits = (await self.desk.task(task_id)).waits_for
        return ("", "") if waits is None else (waits.kind, waits.message)

    async def events(self, task_id: str | None = None) -> list[str]:
        """Return the events that are in the ledger."""
        where = "" if task_id is None else " WHERE task_id = ?"
        values = () if task_id is None else (task_id,)
        rows = await self.core.database.read(
            lambda db: db.execute(f"SELECT event FROM events{where} ORDER BY seq", values).fetchall()
        )
        return [event for (event,) in rows]

    async def check_book(self) -> None:
        """Compare what the scheduler keeps in mind with the ledger itself."""
        fresh = Book(self.service.settings.budget)
        kept = self.service.book

        def compare(db: Any) -> None:
            fresh.refresh(db, self.now())
            kept.refresh(db, self.now())
            for name in ("in_flight", "lanes", "states"):
                assert +getattr(kept, name) == +getattr(fresh, name), name
            for name in ("spent", "reserved"):
                mine, right = getattr(kept, name), getattr(fresh, name)
                for worker in {*mine, *right}:
                    assert abs(mine[worker] - right[worker]) < 1e-6, (name, worker)

        await self.core.database.write(compare)

    def body(self, wire_id: str) -> dict[str, Any]:
        """Return a task as it went to its worker the last time."""
        found = [dispatch for dispatch in self.transport.sent if dispatch.wire_id == wire_id]
        body: dict[str, Any] = json.loads(found[-1].body)
        return body


def team(**workers: tuple[str, list[str]]) -> Team:
    """Return a team file's content: role and skills by name."""
    plans = {name: WorkerPlan(name=name, role=role, skills=tuple(skills)) for name, (role, skills) in workers.items()}
    return Team(path=Path("team.yaml"), workers=plans)


@asynccontextmanager
async def open_scene(
    folder: Path, budget: BudgetSettings | None = None, *, lead: float = 0.0, found: bool = True, **settings: Any
) -> AsyncIterator[Scene]:
    """Open the core on the ledger in a folder; it finds its place there, unless that is not to be `found`."""
    transport = FakeTransport()
    clock = Clock(lead)
    given = OrchestratorSettings(
        shared=folder, ledger=folder / "ledger.sqlite3", budget=budget or BudgetSettings(), **settings
    )
    async with open_database(given.ledger) as database:
        service = Service(given, database, clock=clock.now, monotonic=clock.monotonic)
        service.transports["file"] = transport
        if found:
            await service.core.load()
        try:
            yield Scene(service, transport, clock)
        finally:
            await service.core.aclose()


async def all_of(stream: AsyncIterator[StreamEvent]) -> list[StreamEvent]:
    """Return all events of a stream that ends."""
    return [event async for event in stream]
