"""How the workers are, as far as can be seen from outside: from files, from Redis, or from both."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_bus.errors import QueueUnavailable
from agent_bus.heartbeats import age_seconds, is_alive, read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.cli.channels import Channels, RedisAway
from orchestrator_service.cli.places import known_workers
from orchestrator_service.cli.tasks import queue_depth, running_tasks

if TYPE_CHECKING:
    from agent_bus.redis.client import RedisClient


@dataclass(frozen=True)
class WorkerState:
    """What can be said of a worker from outside."""

    name: str
    beat: Heartbeat | None
    depth: int
    """How many wait for the worker; replicas share them, and each of their rows tells all."""
    dead_letters: int
    running: tuple[str, ...] = ()
    """The tasks it holds now: what its heartbeat tells of them may be a whole interval old."""
    in_redis: bool = False
    """Whether Redis holds its heartbeat, and so vouches for its life: that ends there with the worker, whatever the
    clocks of the hosts say. Without a heartbeat: whether the worker is known from Redis alone."""

    @property
    def status(self) -> str:
        """The status its heartbeat tells; `down` when it has fallen silent, `stopped` when it took its leave, and
        `no heartbeat` for one that Redis knows by its tasks alone."""
        if self.beat is None:
            return "no heartbeat" if self.in_redis else "never started"
        if self.beat.status is WorkerStatus.STOPPED:
            return "stopped"
        if not self.in_redis and not is_alive(self.beat):
            return "down"
        if self.beat.status in (WorkerStatus.IDLE, WorkerStatus.BUSY):
            return "busy" if self.running else "idle"
        return self.beat.status.value

    @property
    def stuck(self) -> tuple[str, ...]:
        """Those of its tasks that do not get on, as its heartbeat tells; those that have ended since left out."""
        return () if self.beat is None else tuple(task for task in self.beat.stuck_tasks if task in self.running)

    @property
    def is_down(self) -> bool:
        """Whether it should run and does not."""
        return self.status in ("down", "never started", "no heartbeat")

    def as_json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        beat = {} if self.beat is None else self.beat.model_dump(mode="json")
        return {
            **beat,
            "worker": self.name,
            "status": self.status,
            "current_tasks": list(self.running),
            "heartbeat_age_seconds": None if self.beat is None else round(age_seconds(self.beat), 3),
            "queue_depth": self.depth,
            "dead_letters": self.dead_letters,
        }


class Looker:
    """Looks at all workers, as often as is asked; files go on without a Redis that is away."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._stack = ExitStack()
        self._client: RedisClient | None = None
        self.trouble: str | None = None
        """Why Redis could not be looked at last time, in one sentence without a password."""

    def __enter__(self) -> Looker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def look(self) -> list[WorkerState]:
        """Return the state of every instance that is known.

        Raises:
            UserError: Redis is the only place to look at, and cannot be used.
        """
        shared = self._channels.shared
        states = [] if shared is None else _from_files(shared)
        if not self._channels.has_redis:
            return states
        self.trouble = None
        try:
            if self._client is None:
                self._client = self._stack.enter_context(self._channels.redis())
            return _with_redis(states, self._client, shared)
        except (RedisAway, QueueUnavailable) as error:
            away = error if isinstance(error, RedisAway) else self._channels.away(error)
            if shared is None:
                raise away from None
            self.trouble = str(away)
            return states


def _from_files(shared: Path) -> list[WorkerState]:
    states: list[WorkerState] = []
    for name in known_workers(shared):
        layout = WorkerLayout.under(shared, name)
        letters = sum(1 for _ in layout.dead_letters.glob("*.reason.json"))
        beat = read_heartbeat(layout.heartbeat(name))
        running = () if beat is None else running_tasks(layout, beat)
        states.append(WorkerState(name, beat, queue_depth(layout), letters, running))
    return states


def _with_redis(states: list[WorkerState], client: RedisClient, shared: Path | None) -> list[WorkerState]:
    """Return the states with what Redis adds to them: one row an instance, however many places tell of it."""
    names, beats = client.workers()
    from_files = {state.name: state for state in states}
    merged: list[WorkerState] = []
    for name in sorted({*from_files, *names}):
        here = from_files.get(name)
        living = [beat for beat in beats if beat.worker == name]
        if name not in names:
            merged += [here] if here is not None else []
            continue
        backlog = client.backlog(name)
        depth = backlog.waiting + (here.depth if here is not None else 0)
        letters = backlog.dead_letters + (here.dead_letters if here is not None else 0)
        rows: list[WorkerState] = []
        instances = {beat.instance for beat in living}
        told_elsewhere = here is not None and here.beat is not None and here.beat.instance in instances
        # Of a worker that lives elsewhere, one that took its leave here tells nothing any more.
        if here is not None and not told_elsewhere and not (living and here.status in ("stopped", "never started")):
            running = () if here.beat is None else backlog.running.get(here.beat.instance, ())
            rows.append(replace(here, running=here.running + running))
        for beat in living:
            claims = () if shared is None else running_tasks(WorkerLayout.under(shared, name), beat)
            running = claims + backlog.running.get(beat.instance, ())
            rows.append(WorkerState(name, beat, 0, 0, running, in_redis=True))
        rows = rows or [WorkerState(name, None, 0, 0, in_redis=True)]
        merged += [replace(row, depth=depth, dead_letters=letters) for row in rows]
    return merged
