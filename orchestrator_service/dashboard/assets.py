"""The files of the dashboard, read and compressed once, under addresses that change with their content.

The modules of the page import each other by relative paths, so one mark stands for all files: a change of any of them
gives each a new address, and what a browser has under an address is right for ever.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_WORTH_COMPRESSING: Final = 256
"""Bytes; below that the compressed file saves no packet."""


@dataclass(frozen=True)
class Asset:
    """One file, ready to be sent."""

    content: bytes
    compressed: bytes | None
    media_type: str


class Assets:
    """All files below a directory."""

    def __init__(self, directory: Path = STATIC) -> None:
        """Read them.

        Raises:
            OSError: one cannot be read.
        """
        found = sorted(path for path in directory.rglob("*") if path.suffix in _TYPES)
        digest = hashlib.sha256()
        self._by_name: dict[str, Asset] = {}
        for path in found:
            content = path.read_bytes()
            name = path.relative_to(directory).as_posix()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            compressed = gzip.compress(content, mtime=0) if len(content) >= _WORTH_COMPRESSING else None
            self._by_name[name] = Asset(content, compressed, _TYPES[path.suffix])
        self.mark = digest.hexdigest()[:16]
        """Stands for the content of all files."""

    def url(self, name: str) -> str:
        """Return the address of a file."""
        return f"/static/{self.mark}/{name}"

    def names(self, suffix: str) -> list[str]:
        """Return the names that end so, such as `pages/task.js`."""
        return [name for name in self._by_name if name.endswith(suffix)]

    def find(self, mark: str, name: str) -> Asset | None:
        """Return a file; None where there is none of that name, or the mark is of other files."""
        return self._by_name.get(name) if mark == self.mark else None
