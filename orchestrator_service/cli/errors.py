"""What the commands end with."""

from __future__ import annotations

from typing import Final

EXIT_USER_ERROR: Final = 2
EXIT_GAVE_UP: Final = 5
"""The task has no result yet, and waiting for it is over."""
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141

EXIT_CODES: Final = {"completed": 0, "failed": 1, "timed_out": 3, "cancelled": 4}
"""By the status of a result."""


class UserError(Exception):
    """Something asked for cannot be done; the text is one sentence with the mend. Exit code 2."""
