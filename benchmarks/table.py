"""The table of figures: its lines, and how much is measured for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    reach: str
    measured: str
    reached: bool | None
    """None where there is nothing to reach."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    samples: int = 500
    tasks: int = 20_000
    disk_tasks: int = 10_000
    peer_tasks: int = 5_000
    idle_s: float = 60.0
    starts: int = 7
    backlog: int = 100_000
    claude_samples: int = 100
    cold_samples: int = 20
    claude_tasks: int = 120
    hook_calls: int = 80
    hook_rounds: int = 5
    questions: int = 60
    stuck_after_s: float = 60.0
    healthy_rounds: int = 4
    watched_tasks: int = 50
    streamed_pieces: int = 4000
    team_samples: int = 300
    posts: int = 4000
    graph: int = 10_000
    ledger_tasks: int = 1_000_000
    ledger_samples: int = 100
    ledger_starts: int = 3
    stream_clients: int = 200
    stream_s: float = 20.0


QUICK = Scale(
    samples=100,
    tasks=3000,
    disk_tasks=2000,
    peer_tasks=1000,
    idle_s=10.0,
    starts=3,
    backlog=20_000,
    claude_samples=20,
    cold_samples=5,
    claude_tasks=24,
    hook_calls=40,
    hook_rounds=2,
    questions=15,
    stuck_after_s=10.0,
    healthy_rounds=1,
    watched_tasks=20,
    streamed_pieces=1000,
    team_samples=60,
    posts=800,
    graph=2000,
    ledger_tasks=100_000,
    ledger_samples=20,
    ledger_starts=1,
    stream_clients=200,
    stream_s=5.0,
)


def table(rows: list[Row]) -> str:
    """Return the rows as a markdown table."""
    signs = {True: "yes", False: "**no**", None: ""}
    lines = ["| figure | to reach | measured | reached |", "|---|---|---|---|"]
    lines += [f"| {row.figure} | {row.reach} | {row.measured} | {signs[row.reached]} |" for row in rows]
    return "\n".join(lines)
