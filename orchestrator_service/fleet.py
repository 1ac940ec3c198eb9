"""Who works here: what the team file says, and what the heartbeats say. Lives in the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agent_bus.heartbeats import age_seconds
from agent_bus.messages import Heartbeat, WorkerStatus
from orchestrator_service.scheduling.routing import FleetView, Member
from orchestrator_service.team import Team

_BUSY_STATES: Final = frozenset((WorkerStatus.STARTING, WorkerStatus.IDLE, WorkerStatus.BUSY))
_FORGET_INSTANCE_S: Final = 3600.0
FILE: Final = "file"


@dataclass(slots=True)
class Beat:
    """The last heartbeat of one instance."""

    heartbeat: Heartbeat
    transport: str
    heard_at: float
    """By the monotonic clock. Ages are counted from here on: the clocks of two machines may differ."""

    def age_s(self, now: float) -> float:
        """Return the seconds since it was written."""
        return max(0.0, now - self.heard_at)


class Fleet:
    """All workers that are known."""

    def __init__(
        self,
        team: Team | None,
        names: Iterable[str],
        *,
        silent_after_s: float,
        max_in_flight: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plans = {} if team is None else dict(team.workers)
        self.names = dict.fromkeys([*self._plans, *names])
        """In the order in which they became known."""
        self.paused: set[str] = set()
        """Those that the orchestrator holds back."""
        self.unreachable: dict[str, str] = {}
        """Those to which nothing can be handed over now, and why."""
        self.beats: dict[tuple[str, str], Beat] = {}
        """By worker and instance."""
        self._silent_after_s = silent_after_s
        self._max_in_flight = max_in_flight
        self._clock = clock
        self.view = FleetView()
        self.rebuild({})

    def role_of(self, name: str) -> tuple[str, list[str]]:
        """Return role and skills as the team file has them."""
        plan = self._plans.get(name)
        return ("", []) if plan is None else (plan.role, list(plan.skills))

    def hear(self, transport: str, beat: Heartbeat) -> bool:
        """Take note of a heartbeat; True when the worker was not known before."""
        key = beat.worker, beat.instance
        known = self.beats.get(key)
        now = self._clock()
        if known is not None and (
            beat.timestamp == known.heartbeat.timestamp
            or (beat.timestamp < known.heartbeat.timestamp and transport != known.transport)
        ):
            # The same one again, or an older one by another way: the shared directory is the quicker way. One that is
            # older and comes by the same way is from a clock that was set back.
            if transport == FILE and known.transport != FILE:
                known.transport = FILE
            return False
        heard_at = now
        if known is None:
            # Nobody knows how long it has lain there: its own clock is all there is.
            heard_at = now - max(0.0, age_seconds(beat))
        elif known.transport == FILE and transport != FILE and known.age_s(now) < self._silent_after_s:
            transport = FILE
        self.beats[key] = Beat(beat, transport, heard_at)
        new = beat.worker not in self.names
        self.names.setdefault(beat.worker)
        return new

    def instances(self, name: str) -> list[Beat]:
        """Return what is known of a worker's instances, the latest first."""
        found = [beat for (worker, _), beat in self.beats.items() if worker == name]
        return sorted(found, key=lambda beat: -beat.heard_at)

    def is_alive(self, beat: Beat) -> bool:
        """Tell whether the instance is there."""
        fresh = beat.age_s(self._clock()) <= self._silent_after_s
        return fresh and beat.heartbeat.status is not WorkerStatus.STOPPED

    def age_s(self, beat: Beat) -> float:
        """Return the seconds since a heartbeat."""
        return beat.age_s(self._clock())

    def is_stuck(self, wire_id: str) -> bool:
        """Tell whether a worker that is there says of a run that it does not get on."""
        return any(wire_id in beat.heartbeat.stuck_tasks and self.is_alive(beat) for beat in self.beats.values())

    def next_silence(self) -> float | None:
        """Return in how many seconds the next instance will count as down if nothing is heard; None for never."""
        now = self._clock()
        ends = [beat.heard_at + self._silent_after_s - now for beat in self.beats.values() if self.is_alive(beat)]
        return None if not ends else max(0.0, min(ends)) + 0.01

    def rebuild(self, in_flight: dict[str, int]) -> tuple[list[str], list[str], bool]:
        """Make the view anew.

        Args:
            in_flight: How many of our tasks each worker has.

        Returns:
            Who came up, who went down, and whether anything changed at all.
        """
        now = self._clock()
        for key, beat in list(self.beats.items()):
            if not self.is_alive(beat) and beat.age_s(now) > _FORGET_INSTANCE_S:
                del self.beats[key]
        members = {name: self._member(name, in_flight.get(name, 0)) for name in self.names}
        before = self.view.members
        if members == before:
            return [], [], False
        came = [name for name, member in members.items() if member.up and not (name in before and before[name].up)]
        went = [name for name, member in before.items() if member.up and not members[name].up]
        self.view = FleetView(members=members)
        return came, went, True

    def _member(self, name: str, in_flight: int) -> Member:
        alive = [beat for beat in self.instances(name) if self.is_alive(beat)]
        role, skills = self.role_of(name)
        # The replicas of a worker on one directory share one heartbeat file: the latest speaks for all.
        slots = sum(beat.heartbeat.slots for beat in alive) or 1
        latest = alive[0].heartbeat if alive else None
        held = 0 if latest is None else latest.queue_size + len(latest.current_tasks)
        takes = any(beat.heartbeat.status in _BUSY_STATES for beat in alive)
        by_file = any(beat.transport == FILE for beat in alive)
        return Member(
            name=name,
            role=role.casefold().strip(),
            skills=frozenset(skill.casefold().strip() for skill in skills),
            transport=None if not alive else FILE if by_file else alive[0].transport,
            unreachable=self.unreachable.get(name),
            up=bool(alive),
            paused=name in self.paused or (bool(alive) and not takes),
            slots=max(1, slots),
            cap=self._max_in_flight if self._max_in_flight is not None else 2 * max(1, slots),
            foreign=max(0, held - in_flight),
            costs=latest is None or latest.agent == "claude",
        )
