"""What is to take the place of this process, and the one line that tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator_service.team import Team
from service_kit.modes import Activation, WakeUps


@dataclass(frozen=True, kw_only=True)
class Start:
    """A process that is ready to be started."""

    command: list[str]
    environ: dict[str, str] = field(repr=False)
    line: str | None = None
    """Said on stderr before it starts; holds no secret."""


def worker_line(name: str, wake_ups: WakeUps, agent: str, team: Team | None, shared: Path | None) -> str:
    """Return the line of a worker."""
    return (
        f"worker {name} starts in mode {wake_ups.mode.value} ({woken_by(wake_ups)}), agent {agent}, {_of_team(team)}, "
        f"{'no shared directory' if shared is None else f'shared directory {shared}'}"
    )


def orchestrator_line(team: Team | None, shared: Path, ledger: Path, tokens: str, *, has_redis: bool) -> str:
    """Return the line of the orchestrator; `tokens` says where its API tokens are."""
    return (
        f"orchestrator starts with {_of_team(team)}, shared directory {shared}, {'' if has_redis else 'no '}Redis, "
        f"ledger {ledger}, {tokens}"
    )


def woken_by(wake_ups: WakeUps) -> str:
    """Return what wakes the worker, in words."""
    sources = {Activation.INOTIFY: ["inotify"], Activation.REDIS: [], Activation.POLLING: ["a timer"]}
    pipe = ["control pipe"] if wake_ups.pipes else []
    return ", ".join([*sources[wake_ups.activation], *pipe, *(["Redis"] if wake_ups.redis else [])])


def _of_team(team: Team | None) -> str:
    return "no team file" if team is None else f"team {team.path}"
