"""What a check finds: one line for a person, with its mend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Grade(StrEnum):
    """How grave a finding is."""

    GOOD = "good"
    NOTE = "note"
    """Works, or will; worth knowing."""
    BROKEN = "broken"
    """Workers cannot work as asked."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    grade: Grade
    text: str
    mend: str = ""
    """What to do about it; empty where there is nothing to do."""

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)
