"""Where a command is told to go. Loaded by every command, and so light."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

API: Final = "api"
"""What `--via` calls the HTTP API."""
URL_VARIABLE: Final = "CODEHORNETS_URL"


@dataclass(frozen=True, kw_only=True)
class Where:
    """What was typed of where to go; None where nothing was."""

    shared_dir: Path | None = None
    redis: str | None = None
    api: str | None = None
    token_file: Path | None = None
    via: str | None = None

    @property
    def names_api(self) -> bool:
        """Whether an API is named; a directory that is typed tells more of what is meant than the environment does."""
        return self.api is not None or (self.shared_dir is None and bool(os.environ.get(URL_VARIABLE)))
