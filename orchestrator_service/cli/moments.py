"""Moments and lengths of time, as people type them and as they are shown."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from agent_bus.messages import utc_now
from orchestrator_service.cli.errors import UserError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_moment(option: str, text: str) -> datetime:
    """Return the moment that an option names: ISO text (this machine's zone where it tells none), or `+90s` from now.

    Raises:
        UserError: it is neither.
    """
    if match := re.fullmatch(r"\+(\d{1,9}(?:\.\d{1,6})?)([smhd])", text):
        try:
            return utc_now() + timedelta(seconds=float(match[1]) * _UNITS[match[2]])
        except OverflowError:
            pass
    else:
        try:
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            pass
    raise UserError(
        f"{option} is {text[:80]!r}; allowed is a moment such as 2030-01-31T18:00 or 2030-01-31T18:00Z, or a time from "
        "now such as +90s, +15m, +2h or +1d."
    )


def ago(seconds: float | None) -> str:
    """Return a length of time in its largest unit that is there at least twice; `-` for None."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def since(moment: datetime | None) -> str:
    """Return how long ago a moment was."""
    return "-" if moment is None else ago((utc_now() - moment).total_seconds())


def clock(moment: datetime | None) -> str:
    """Return a moment as this machine's clock shows it."""
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def money(amount: float | None, notional: float | None = None) -> str:
    """Return US dollars, to the cent or as small as they are; empty for None.

    Args:
        amount: All of them.
        notional: Those of them that a subscription covers, which is said.
    """
    if amount is None:
        return ""
    text = f"${amount:.2f}" if amount == 0 or amount >= 0.01 else f"${amount:.4f}"
    if not notional:
        return text
    return f"≈ {text} notional" if notional >= amount - 1e-9 else f"{text} (≈ {money(notional)} notional)"
