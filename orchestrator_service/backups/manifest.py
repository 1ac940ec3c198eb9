"""What an archive says of itself: the first thing in it, checked before anything else is believed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT: Final = 1
"""Raised when a program of before could not restore what this one writes."""
MANIFEST_NAME: Final = "manifest.json"
LARGEST_MANIFEST_BYTES: Final = 256 * 1024 * 1024
"""Some million files; a larger one is no manifest but an attack on the memory of whoever reads it."""

SHARED: Final = "shared"
STATE: Final = "state"
ALSO: Final = "also"
LEDGER: Final = f"{STATE}/ledger.sqlite3"

_LONGEST_NAME_BYTES: Final = 255
_LONGEST_PATH_BYTES: Final = 4000


class BackupError(Exception):
    """A backup cannot be made or restored; the text is one sentence with the mend."""


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    """A symbolic link that stays below the directory it belongs to."""


class Entry(BaseModel):
    """One file, directory or link of the archive."""

    model_config = ConfigDict(frozen=True, strict=False)

    path: str
    """Relative, below `shared/`, `state/` or `also/NAME/`."""
    kind: Kind = Kind.FILE
    size: int = Field(default=0, ge=0, le=2**53)
    """In bytes; 0 for what is no file."""
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Of a file's content."""
    mtime_ns: int = Field(default=0, ge=0, lt=2**63)
    mode: int = Field(default=0o644, ge=0, le=0o777)
    target: str = ""
    """Where a link leads."""


class Manifest(BaseModel):
    """The whole of it."""

    model_config = ConfigDict(frozen=True)

    format: int
    product: str
    """The version that made it."""
    created_at: datetime
    shared_dir: str
    """Where the shared directory was."""
    ledger: str | None
    """Where the ledger was; None where there was none."""
    also: dict[str, str] = {}
    """Further directories by name, and where they were."""
    counts: dict[str, int] = {}
    """How many there are of what: results, dead letters, waiting …"""
    left_out: dict[str, int] = {}
    """How many things of which kind cannot be in an archive, or were not to be."""
    entries: list[Entry]

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(entry.size for entry in self.entries)


def read_manifest(body: bytes) -> Manifest:
    """Return a manifest whose every path is safe to make below an empty directory.

    Raises:
        BackupError: it is of a later format, no manifest, or names a place that is not its to name.
    """
    try:
        version = _Version.model_validate_json(body).format
    except ValidationError as error:
        raise BackupError("This is no backup of codehornets: its manifest cannot be read.") from error
    if version > FORMAT:
        raise BackupError(
            f"The backup is of format {version}, and this program knows formats up to {FORMAT}; "
            "restore it with the version that made it, or a later one."
        )
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BackupError(
            f"The backup's manifest is wrong at {where}: {first['msg']}; nothing was restored."
        ) from error
    check_paths(manifest.entries, manifest.also)
    return manifest


class _Version(BaseModel):
    format: int = Field(ge=1, strict=True)


def check_paths(entries: Iterable[Entry], also: Iterable[str]) -> None:
    """Make sure that no entry leads out of its place, whatever the ones before it are.

    Raises:
        BackupError: one does; names it.
    """
    for name in also:
        if not is_name(name):
            raise BackupError(f"The backup names a directory {name!r}, which is no plain name; nothing was restored.")
    kinds: dict[str, Kind] = {}
    for entry in entries:
        if why := _wrong_path(entry.path) or _wrong_root(entry, also):
            raise _hostile(entry.path, why)
        if entry.path in kinds:
            raise _hostile(entry.path, "is in it twice")
        if entry.kind is Kind.LINK and (why := wrong_link(entry.path, entry.target)):
            raise _hostile(entry.path, why)
        kinds[entry.path] = entry.kind
    for path in kinds:
        above = path
        while "/" in above:
            above = above.rpartition("/")[0]
            if kinds.get(above, Kind.DIRECTORY) is not Kind.DIRECTORY:
                raise _hostile(path, f"lies below {above!r}, which is no directory")


def is_name(name: str) -> bool:
    """Tell whether a further directory may be called so."""
    return "/" not in name and not name.startswith((".", "-")) and _wrong_path(name) is None


def wrong_link(path: str, target: str) -> str | None:
    """Say what is wrong with a link at `path`, or None: only further directories have any, and they stay inside."""
    root = root_of(path)
    if not path.startswith(f"{ALSO}/"):
        return "is a link where only plain files belong"
    if not target or "\0" in target or len(target.encode()) > _LONGEST_PATH_BYTES:
        return "is a link that leads nowhere"
    if target.startswith("/"):
        return "is a link to an absolute path"
    depth = path.count("/") - root.count("/") - 1
    named = False
    for part in target.split("/"):
        if part not in ("", "..", "."):
            named = True
        elif part == "..":
            depth -= 1
            # Behind a name, which may be a link itself, nobody knows where `..` leads.
            if depth < 0 or named:
                return "is a link that leads out of its directory"
    return None


def root_of(path: str) -> str:
    """Return the part of a path that names the directory it belongs to: `shared`, `state` or `also/NAME`."""
    first, _, rest = path.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == ALSO else first


def _wrong_path(path: str) -> str | None:
    if path.startswith("/"):
        return "is an absolute path"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is no name that a file can have"
    if not path or "\0" in path or len(encoded) > _LONGEST_PATH_BYTES:
        return "is no name that a file can have"
    for part in path.split("/"):
        if part == "..":
            return "leads out of the directory"
        if part in ("", ".") or len(part.encode()) > _LONGEST_NAME_BYTES:
            return "is no name that a file can have"
    return None


def _wrong_root(entry: Entry, also: Iterable[str]) -> str | None:
    first, _, rest = entry.path.partition("/")
    if first == SHARED and rest:
        return None
    if entry.path == LEDGER:
        return None if entry.kind is Kind.FILE else "is no file"
    if first == STATE and rest.startswith("events/"):
        return None
    if first == ALSO and rest.partition("/")[0] in also and "/" in rest:
        return None
    return "belongs nowhere"


def _hostile(path: str, why: str) -> BackupError:
    return BackupError(f"The backup cannot be trusted: {path!r} {why}; nothing was restored.")
