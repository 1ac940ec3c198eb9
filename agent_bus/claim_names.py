"""The name of a claimed file: `ATTEMPT~UID~ORIGINAL`, so that the count of attempts costs no second file.

The attempt is written down by the very rename that claims the task, and can therefore never be lost or doubled.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NOTE_SUFFIX: Final = ".note"
"""`UID.note` beside a claim holds what its agent wanted remembered."""

LONGEST_ORIGINAL_BYTES: Final = 200
"""A name must stay below the 255 bytes of a file system with the attempt and uid before it."""

_CLAIM_NAME = re.compile(r"(\d{1,9})~([0-9a-z]{1,40})~(.+)", re.DOTALL)


class ClaimName(NamedTuple):
    """The parts of a claim's file name."""

    attempt: int
    uid: str
    """Stays with the task through all its attempts; unique among all instances."""
    name: str
    """The name that the file came under."""

    def __str__(self) -> str:
        return f"{self.attempt}~{self.uid}~{self.name}"

    @property
    def note(self) -> str:
        """The name of the note beside the claim."""
        return self.uid + NOTE_SUFFIX


def parse_claim_name(file_name: str) -> ClaimName | None:
    """Return the parts, or None when the name is not that of a claim."""
    match = _CLAIM_NAME.fullmatch(file_name)
    return None if match is None else ClaimName(int(match[1]), match[2], match[3])


def original_name(file_name: str) -> str:
    """Return the name that a file came under, whether it is claimed or not."""
    parsed = parse_claim_name(file_name)
    return file_name if parsed is None else parsed.name
