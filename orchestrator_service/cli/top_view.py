"""What `codehornets top` shows, from data alone: workers, what runs, what waits and why, what has ended."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from agent_bus.messages import utc_now
from orchestrator_service.cli.moments import ago, money
from orchestrator_service.cli.tables import table_of
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.records import FINAL_STATES, TaskState, TaskSummary, WorkerRecord

if TYPE_CHECKING:
    from rich.console import Group

_WORKERS: Final = ("worker", "state", "beat>", "runs>", "waits>", "today>", "role*")
_RUNNING: Final = ("task", "state", "worker", "for>", "title*")
_ENDED: Final = ("task", "state", "worker", "ago>", "cost>", "title or error*")
_WINDOW_S: Final = 60.0
_WORDS: Final[dict[str, str]] = {
    "dependencies": "other tasks",
    "not_before": "their time",
    "retry": "the pause before a retry",
    "worker": "a worker that can do them",
    "worker_down": "a worker that is down",
    "worker_paused": "a worker that is paused",
    "slot": "a free place",
    "budget": "money",
    "session": "their conversation",
    "turn": "their turn",
}


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """The team at one moment."""

    workers: list[WorkerRecord]
    counts: dict[str, int]
    """Tasks in each state."""
    running: list[TaskSummary]
    waiting: list[TaskSummary]
    """Some of those that wait, for their reasons."""
    ended: list[TaskSummary]
    """The last ones, whichever they are."""
    at: datetime = field(default_factory=utc_now)

    @property
    def ended_so_far(self) -> int:
        """How many tasks have ended since the ledger began."""
        return sum(self.counts.get(state.value, 0) for state in FINAL_STATES)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "at": self.at.isoformat(),
            "counts": self.counts,
            "workers": [worker.model_dump(mode="json") for worker in self.workers],
            "running": [task.model_dump(mode="json") for task in self.running],
            "waits_for": dict(reasons(self.waiting)),
            "ended": [task.model_dump(mode="json") for task in self.ended],
        }


class Throughput:
    """How many tasks a minute end, from the counts of the last one."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, int]] = deque()

    def add(self, glimpse: Glimpse) -> float | None:
        """Take note of one moment; returns tasks a minute, None before there are two moments."""
        self._seen.append((glimpse.at, glimpse.ended_so_far))
        while len(self._seen) > 2 and (glimpse.at - self._seen[1][0]).total_seconds() >= _WINDOW_S:
            self._seen.popleft()
        (since, before), (until, now) = self._seen[0], self._seen[-1]
        seconds = (until - since).total_seconds()
        return (now - before) * 60 / seconds if seconds > 0 else None


def reasons(waiting: list[TaskSummary]) -> Counter[str]:
    """Count what tasks wait for."""
    return Counter(task.waits_for.kind if task.waits_for is not None else task.state.value for task in waiting)


def render(glimpse: Glimpse, *, per_minute: float | None, height: int, trouble: str | None = None) -> Group:
    """Return what is shown.

    Args:
        glimpse: The team.
        per_minute: Tasks that end a minute.
        height: Lines that there are.
        trouble: What is wrong with the connection, in a sentence.
    """
    from rich.console import Group
    from rich.text import Text

    # Each table has a title and a head of three lines; what is left is shared.
    left = max(6, height - len(glimpse.workers) - 14)
    running = glimpse.running[: max(3, left // 2)]
    ended = glimpse.ended[: max(3, left - len(running))]
    parts: list[Any] = [
        Text(_head(glimpse, per_minute), style="bold", no_wrap=True, overflow="ellipsis"),
        table_of(_WORKERS, map(_worker, glimpse.workers)),
        Text(_waiting(glimpse), no_wrap=True, overflow="ellipsis"),
        table_of(_RUNNING, (_running(task, glimpse.at) for task in running), title="At work"),
        table_of(_ENDED, (_ended(task, glimpse.at) for task in ended), title="Ended last"),
    ]
    if trouble is not None:
        parts.append(Text(harmless(trouble), style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _head(glimpse: Glimpse, per_minute: float | None) -> str:
    states = [(state.value, glimpse.counts.get(state.value, 0)) for state in TaskState]
    told = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in states if number)
    pace = "" if per_minute is None else f"   {per_minute:.0f} a minute"
    asked = sum(worker.open_questions for worker in glimpse.workers)
    asks = "" if not asked else f"   {asked} ask a person" if asked > 1 else "   1 asks a person"
    return f"{glimpse.at.astimezone():%H:%M:%S}   {told or 'no tasks yet'}{pace}{asks}"


def _waiting(glimpse: Glimpse) -> str:
    open_states = (TaskState.BLOCKED, TaskState.SCHEDULED, TaskState.READY)
    total = sum(glimpse.counts.get(state.value, 0) for state in open_states)
    if not total:
        return "Nothing waits."
    counted = reasons(glimpse.waiting).most_common()
    told = ", ".join(f"{number} for {_WORDS.get(kind, kind)}" for kind, number in counted)
    more = f" (of the first {len(glimpse.waiting)})" if total > len(glimpse.waiting) else ""
    return f"{total} wait: {told}{more}."


def _worker(worker: WorkerRecord) -> tuple[str, ...]:
    state = worker.state if worker.state != "up" else worker.status
    stuck = sum(len(instance.stuck_tasks) for instance in worker.instances if instance.alive)
    return (
        worker.name,
        f"{state}, {stuck} stuck" if stuck else state,
        ago(worker.heartbeat_age_seconds),
        f"{worker.in_flight}/{worker.slots}",
        str(worker.waiting),
        money(worker.spent_today_usd) if worker.spent_today_usd else "",
        worker.role,
    )


def _running(task: TaskSummary, at: datetime) -> tuple[str, ...]:
    begun = task.started_at or task.sent_at
    age = ago((at - begun).total_seconds()) if begun is not None else "-"
    return task.task_id, task.state.value, task.worker or "-", age, task.title or ""


def _ended(task: TaskSummary, at: datetime) -> tuple[str, ...]:
    age = ago((at - task.ended_at).total_seconds()) if task.ended_at is not None else "-"
    about = task.error.message if task.error is not None else task.title or ""
    return (
        task.task_id,
        task.state.value.replace("_", " "),
        task.worker or "-",
        age,
        money(task.cost_usd, task.notional_cost_usd),
        about,
    )
