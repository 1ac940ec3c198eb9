"""Cron expressions: when a recurring task is due next. The rules are cronsim's, which are those of Debian's cron."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError


def check_cron(expression: str) -> None:
    """Raise ValueError, with a sentence, unless the expression is one and will ever be due."""
    if len(expression.split()) != 5:
        raise ValueError("allowed are five fields: minute, hour, day of the month, month, day of the week")
    if next_after(expression, ZoneInfo("UTC"), datetime.now(UTC).timestamp()) is None:
        raise ValueError("it is never due: there is no such date in the next 50 years")


def next_after(expression: str, timezone: ZoneInfo, moment: float) -> float | None:
    """Return the first moment behind `moment` (both in seconds since 1970) at which it is due; None for never.

    Raises:
        ValueError: the expression is none.
    """
    try:
        return next(CronSim(expression, datetime.fromtimestamp(moment, timezone))).timestamp()
    except CronSimError as error:
        raise ValueError(f"{error}; allowed are five fields as cron has them, such as 30 6 * * 1-5") from error
    except StopIteration:
        return None
