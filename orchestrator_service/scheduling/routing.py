"""For whom a task is, and who could take it now.

Tasks with the same destination wait in the same lane: a worker's own, or that of a role and skills. Whoever looks for
the next task looks at the heads of few lanes and not at thousands of tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from orchestrator_service.records import Route


def lane_of(worker: str | None, role: str | None, skills: Iterable[str]) -> str:
    """Return the lane of tasks with this destination; all empty means any worker."""
    return _lane(worker, role, tuple(skills))


@lru_cache(maxsize=4096)
def _lane(worker: str | None, role: str | None, skills: tuple[str, ...]) -> str:
    wanted = sorted({skill.casefold().strip() for skill in skills})
    return json.dumps([worker, None if role is None else role.casefold().strip(), wanted], ensure_ascii=False)


@lru_cache(maxsize=4096)
def route_of(lane: str) -> Route:
    """Return the destination that a lane stands for."""
    worker, role, skills = json.loads(lane)
    return Route(worker=worker, role=role, skills=skills)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A worker as the scheduler sees it."""

    name: str
    role: str = ""
    """Folded, as in lanes."""
    skills: frozenset[str] = frozenset()
    transport: str | None = None
    """How it is reached; None while it is not there."""
    up: bool = False
    """Whether its heartbeat is fresh."""
    paused: bool = False
    """Whether it is to get nothing new: somebody said so, or it says so itself."""
    unreachable: str | None = None
    """Why nothing can be handed over to it now."""
    slots: int = 1
    """Of all its instances."""
    cap: int = 2
    """Tasks that may be with it at the same time."""
    foreign: int = 0
    """Tasks that it has from elsewhere."""
    costs: bool = True
    """Whether its agent spends money."""

    @property
    def takes(self) -> bool:
        """Whether it may be sent something now."""
        return self.up and not self.paused and self.transport is not None and self.unreachable is None

    def fits(self, route: Route) -> bool:
        """Tell whether a task of this destination is for it."""
        if route.worker is not None:
            return route.worker == self.name
        return (route.role is None or route.role == self.role) and self.skills.issuperset(route.skills)


@dataclass(frozen=True, kw_only=True)
class FleetView:
    """All workers at one moment. Never changed: whoever learns something new makes another one."""

    members: Mapping[str, Member] = field(default_factory=dict)
    _by_lane: dict[str, tuple[Member, ...]] = field(default_factory=dict, repr=False, compare=False)

    def candidates(self, lane: str) -> tuple[Member, ...]:
        """Return the workers that tasks of this lane are for, by name, whether they are there or not."""
        found = self._by_lane.get(lane)
        if found is None:
            route = route_of(lane)
            found = tuple(member for _, member in sorted(self.members.items()) if member.fits(route))
            self._by_lane[lane] = found
        return found
