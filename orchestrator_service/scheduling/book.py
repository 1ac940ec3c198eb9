"""What the scheduler keeps in mind beside the ledger: counts and sums that would cost a query each time.

It mirrors the ledger and belongs to the writing thread. When changes were taken back it is read anew.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from datetime import datetime, timedelta

from orchestrator_service.settings import BudgetSettings


class Book:
    """Tasks in flight, tasks that wait in each lane, money that is spent and reserved."""

    def __init__(self, budget: BudgetSettings) -> None:
        self.budget = budget
        self.in_flight: Counter[str] = Counter()
        """Runs that have not ended, by worker."""
        self.lanes: Counter[str] = Counter()
        """Tasks that are ready, by lane."""
        self.states: Counter[str] = Counter()
        """Tasks in each state."""
        self.day = ""
        """Today, in the budget's time zone."""
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Today's settled cost, by worker."""
        self.reserved: defaultdict[str, float] = defaultdict(float)
        """What runs of today that have not ended may cost, by worker."""
        self.stale = True
        """Whether it must be read anew before it is used."""
        self.touched = False
        """Whether the present step has changed anything here."""

    def undone(self, whole: bool) -> None:
        """Take note that changes were taken back: of the whole transaction, or of the present step alone."""
        self.stale = self.stale or whole or self.touched

    def day_of(self, moment: float) -> str:
        """Return the day that a moment counts against."""
        return datetime.fromtimestamp(moment, self.budget.timezone).date().isoformat()

    def day_ends(self, moment: float) -> float:
        """Return when the day of a moment ends, in seconds since 1970."""
        local = datetime.fromtimestamp(moment, self.budget.timezone)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None) + timedelta(days=1)
        return midnight.replace(tzinfo=self.budget.timezone).timestamp()

    def refresh(self, connection: sqlite3.Connection, now: float) -> None:
        """Read from the ledger what is stale, and begin a new day when it has come."""
        day = self.day_of(now)
        self.touched = False
        if self.stale:
            self.in_flight = Counter(
                dict(connection.execute("SELECT worker, COUNT(*) FROM runs WHERE ended_at IS NULL GROUP BY worker"))
            )
            self.lanes = Counter(
                dict(connection.execute("SELECT lane, COUNT(*) FROM tasks WHERE state = 'ready' GROUP BY lane"))
            )
            self.states = Counter(dict(connection.execute("SELECT state, COUNT(*) FROM tasks GROUP BY state")))
        if self.stale or day != self.day:
            self.day = day
            self.spent.clear()
            self.reserved.clear()
            rows = connection.execute(
                "SELECT worker, SUM(CASE WHEN ended_at IS NULL THEN 0 ELSE COALESCE(cost_usd, 0) END),"
                " SUM(CASE WHEN ended_at IS NULL THEN COALESCE(reserved_usd, 0) ELSE 0 END)"
                " FROM runs WHERE budget_day = ? GROUP BY worker",
                (day,),
            )
            for worker, spent, reserved in rows:
                self.spent[worker] = spent
                self.reserved[worker] = reserved
        self.stale = False

    def lacks(self, worker: str, amount: float) -> str | None:
        """Return which budget is over for a run of this amount at this worker, in a sentence; None if none is."""
        mine = self.spent[worker] + self.reserved[worker]
        limit = self.budget.worker_day_usd
        if limit is not None and mine + amount > limit + 1e-9:
            return f"{worker} has ${limit - mine:.2f} of ${limit:.2f} left for {self.day}, and it needs ${amount:.2f}"
        limit = self.budget.day_usd
        if limit is not None:
            whole = sum(self.spent.values()) + sum(self.reserved.values())
            if whole + amount > limit + 1e-9:
                return (
                    f"the team has ${limit - whole:.2f} of ${limit:.2f} left for {self.day}, and it needs ${amount:.2f}"
                )
        return None

    def moved(self, before: str | None, after: str | None) -> None:
        """Take note that a task went from one state to another."""
        self.touched = True
        if before is not None:
            self.states[before] -= 1
        if after is not None:
            self.states[after] += 1
