"""The Lua scripts: their text is in `lua/`, each with a head that lists its keys and arguments."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the name under which Redis caches it."""

    text: str
    sha: str


@cache
def script(*parts: str) -> Script:
    """Return the script made of these files, one after the other."""
    text = "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def turn() -> Script:
    """End what is done and take what is wanted."""
    return script("common", "store", "turn")


def store_only() -> Script:
    """Store results, apart from the task streams."""
    return script("store", "store_only")


def on_stream(name: str) -> Script:
    """Return one of the scripts that touch nothing but a task stream and its indexes."""
    return script("common", name)
