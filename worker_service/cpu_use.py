"""What CPU time the agents of this worker use, and how many CPUs there are for it and them.

The process collector knows the service alone, and it is the agents that work. A container's own accounts would tell the
same, but not every cluster shows them to Prometheus, and without a container there are none.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_USER_TICKS: Final = 11
"""Where utime stands behind the name of the program in /proc/PID/stat; stime, cutime and cstime follow."""
_ALL: Final = slice(_USER_TICKS, _USER_TICKS + 4)
_OF_THE_ENDED: Final = slice(_USER_TICKS + 2, _USER_TICKS + 4)


class AgentCpu:
    """Adds up what all processes below this one have used, those that have ended among them."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._most = 0.0

    def seconds(self) -> float:
        """Return the CPU seconds so far; never less than the last time."""
        # The ended ones first: what ends in between is then missing until the next time, and not counted twice.
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime + _below(self._proc, "self")
        self._most = max(self._most, seconds)
        return self._most


def seconds_below(pid: int, *, but_for: frozenset[int] = frozenset(), proc: Path = Path("/proc")) -> float:
    """Return the CPU seconds of all living processes below `pid`, and of those that ended and were waited for.

    Args:
        pid: The one below which to look; what it uses itself does not count.
        but_for: Processes among them that do not count; what they start does.
        proc: Where the kernel tells.
    """
    return _own(proc, str(pid), _OF_THE_ENDED) + _below(proc, str(pid), frozenset(map(str, but_for)))


def _below(proc: Path, process: str, but_for: frozenset[str] = frozenset()) -> float:
    return sum(
        _own(proc, child, _OF_THE_ENDED if child in but_for else _ALL) + _below(proc, child, but_for)
        for child in _children(proc, process)
    )


def _children(proc: Path, process: str) -> list[str]:
    children: list[str] = []
    try:
        for thread in (proc / process / "task").iterdir():
            children += (thread / "children").read_text().split()
    except OSError:
        # It has ended, or this kernel keeps no such lists.
        return children
    return children


def _own(proc: Path, process: str, which: slice = _ALL) -> float:
    try:
        told = (proc / process / "stat").read_bytes()
    except OSError:
        return 0.0
    fields = told.rpartition(b")")[2].split()
    return sum(int(ticks) for ticks in fields[which]) / _TICKS


def count_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many CPUs this process and its children may use: the container's quota, else those of the machine."""
    cpus = float(len(os.sched_getaffinity(0)))
    quota = _read_quota(cgroup)
    return cpus if quota is None else min(cpus, quota)


def _read_quota(cgroup: Path) -> float | None:
    try:
        unified = cgroup / "cpu.max"
        if unified.exists():
            allowed, period = unified.read_text().split()
        else:
            allowed = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return float(allowed) / float(period) if allowed != "max" and float(allowed) > 0 else None
    except (OSError, ValueError):
        return None
