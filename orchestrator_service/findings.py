"""What a check finds: one line for a person, with its mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Grade(StrEnum):
    """How grave a finding is."""

    GOOD = "good"
    NOTE = "note"
    """Works, or will; worth knowing."""
    BROKEN = "broken"
    """Workers cannot work as asked."""
    LEFT_OUT = "left out"
    """Could not be looked at from here."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    grade: Grade
    text: str
    mend: str = ""
    """What to do about it; empty where there is nothing to do."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured, for programs."""

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        fields = asdict(self)
        if not self.figures:
            del fields["figures"]
        return fields
