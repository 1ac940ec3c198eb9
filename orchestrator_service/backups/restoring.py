"""Restoring a backup: all is unpacked and checked out of sight, then renamed into place.

The staging directory `.restore-…` lies inside the place itself, since a place may be a mount point and only a rename
within one file system is one step. Until the first rename nothing is to be seen, and whatever fails (a full disk, a
broken archive) takes everything away again. Results go into place before the queues do, and the ledger last: whoever
should look meanwhile finds an answer where there is one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orchestrator_service.backups.archive import ArchiveReader, sync_directory
from orchestrator_service.backups.manifest import ALSO, LEDGER, SHARED, STATE, BackupError, Entry, Kind, Manifest
from orchestrator_service.backups.occupancy import (
    STAGING_PREFIX,
    check_directory_is_free,
    check_ledger_is_free,
    check_nobody_lives,
    check_not_half_restored,
    check_shared_is_free,
    find_content,
)
from orchestrator_service.backups.worktree_records import settle_records

_ORDER: Final = ("results", "tasks", "triggers")
"""These go into place last, in this order."""
_SPARE_BYTES: Final = 4096
"""What a small file takes on a disk, about."""


@dataclass(frozen=True, kw_only=True)
class RestorePlan:
    """Where what goes."""

    shared: Path
    ledger: Path
    also: Mapping[str, Path] = field(default_factory=dict)
    """By name; those that are not named here must be in `skip`."""
    skip: frozenset[str] = frozenset()
    """Further directories of the archive that are not wanted."""

    @classmethod
    def below(cls, directory: Path, manifest: Manifest, skip: frozenset[str]) -> RestorePlan:
        """Put everything below one directory, to be looked at or moved."""
        also = {name: directory / ALSO / name for name in manifest.also if name not in skip}
        return cls(shared=directory / SHARED, ledger=directory / LEDGER, also=also, skip=skip)


def check_archive(reader: ArchiveReader, manifest: Manifest, progress: Callable[[int, int], None]) -> None:
    """Read an archive to its end and check everything in it.

    Raises:
        BackupError: it is broken.
    """
    size = 0
    for number, (entry, content) in enumerate(reader.contents(manifest), start=1):
        for _ in content:
            pass
        size += entry.size
        progress(number, size)


def restore(
    reader: ArchiveReader, manifest: Manifest, plan: RestorePlan, progress: Callable[[int, int], None]
) -> list[str]:
    """Put everything into place; returns remarks, a sentence each.

    Raises:
        BackupError: the place is not free, somebody works there, the archive is broken, or there is no room; nothing
            was changed.
        OSError: something cannot be made; nothing was changed.
    """
    _check_names(manifest, plan)
    check_nobody_lives(plan.shared, plan.ledger)
    check_shared_is_free(plan.shared)
    if manifest.ledger is not None:
        check_ledger_is_free(plan.ledger)
    for path in plan.also.values():
        check_directory_is_free(path)
    with ExitStack() as undo:
        sites = _sites(manifest, plan, undo)
        _check_room(manifest, sites)
        try:
            _unpack(reader, manifest, sites, plan.ledger.name, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BackupError(
                    f"There is no room for the backup in {plan.shared}: {error.strerror}; nothing was restored, make "
                    "room or restore elsewhere."
                ) from error
            raise
        # Somebody may have been started while we unpacked.
        check_nobody_lives(plan.shared, plan.ledger)
        remarks = [sentence for site in sites.values() for sentence in site.settle()]
        settle_records(
            sites[SHARED].new, was=Path(manifest.shared_dir), becomes=plan.shared.absolute(), now=datetime.now(UTC)
        )
        moves = [move for site in sites.values() for move in site.moves()]
        moves.sort(key=lambda move: _turn(move[1], plan.ledger))
        _publish(moves)
        for site in sites.values():
            with suppress(OSError):
                sync_directory(site.place)
            site.published()
    return remarks


def _check_names(manifest: Manifest, plan: RestorePlan) -> None:
    if unknown := sorted((set(plan.also) | plan.skip) - set(manifest.also)):
        there = f"it holds {', '.join(sorted(manifest.also))}" if manifest.also else "it holds none"
        raise BackupError(f"The backup holds no directory {unknown[0]!r} beside the team; {there}.")
    if homeless := sorted(set(manifest.also) - set(plan.also) - plan.skip):
        name = homeless[0]
        raise BackupError(
            f"The backup holds the directory {name} as well (it was {manifest.also[name]}); say where it goes with "
            f"--also {name}=DIR, or leave it out with --skip {name}."
        )


class _Site:
    """A directory that gets something, with a staging directory in it."""

    def __init__(self, place: Path, undo: ExitStack) -> None:
        self.place = place
        missing = [path for path in (place, *place.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            undo.callback(_remove_empty, path)
        self.staging = place / f"{STAGING_PREFIX}{os.urandom(4).hex()}"
        self.staging.mkdir(mode=0o700)
        undo.callback(shutil.rmtree, self.staging, ignore_errors=True)
        self.new = self.staging / "new"
        self.new.mkdir()
        self.old = self.staging / "old"
        self.old.mkdir()

    def settle(self) -> list[str]:
        """Keep hook rules that are there already: they came with the machine, and are nothing that a team made."""
        name = "hooks-config"
        if (self.new / name).is_dir() and find_content(self.place / name) is not None:
            shutil.rmtree(self.new / name)
            return [f"{self.place / name} has rules already; those of the backup were left out."]
        return []

    def moves(self) -> list[tuple[Path, Path, Path]]:
        """Return what is to be renamed: from where, to where, and where to put what is there now."""
        return [(path, self.place / path.name, self.old / path.name) for path in sorted(self.new.iterdir())]

    def published(self) -> None:
        """Take empty directories back that were there before and did not come with the backup."""
        for folder, _, _ in os.walk(self.old):
            relative = Path(folder).relative_to(self.old)
            with suppress(OSError):
                (self.place / relative).mkdir(parents=True, exist_ok=True)


def _sites(manifest: Manifest, plan: RestorePlan, undo: ExitStack) -> dict[str, _Site]:
    """Return the site of each root of the archive: `shared`, `state`, `also/NAME`."""
    sites = {SHARED: _Site(plan.shared, undo)}
    if manifest.ledger is not None:
        check_not_half_restored(plan.ledger.parent)
        sites[STATE] = _Site(plan.ledger.parent, undo)
    for name, path in plan.also.items():
        sites[f"{ALSO}/{name}"] = _Site(path, undo)
    return sites


def _check_room(manifest: Manifest, sites: Mapping[str, _Site]) -> None:
    needed: dict[int, tuple[Path, int]] = {}
    for entry in manifest.entries:
        site = _site_of(entry, sites)
        if site is not None:
            device = os.stat(site.place).st_dev
            place, before = needed.get(device, (site.place, 0))
            needed[device] = (place, before + -(-entry.size // _SPARE_BYTES) * _SPARE_BYTES)
    for place, size in needed.values():
        room = os.statvfs(place)
        free = room.f_bavail * room.f_frsize
        if size > free:
            raise BackupError(
                f"The disk of {place} has {free:,} bytes free and the backup needs {size:,}; make room, or restore "
                "elsewhere."
            )


def _site_of(entry: Entry, sites: Mapping[str, _Site]) -> _Site | None:
    first, _, rest = entry.path.partition("/")
    return sites.get(f"{first}/{rest.partition('/')[0]}" if first == ALSO else first)


def _unpack(
    reader: ArchiveReader,
    manifest: Manifest,
    sites: Mapping[str, _Site],
    ledger_name: str,
    progress: Callable[[int, int], None],
) -> None:
    modes: list[tuple[Path, int]] = []
    size = 0
    made: set[Path] = set()
    for number, (entry, content) in enumerate(reader.contents(manifest), start=1):
        site = _site_of(entry, sites)
        if site is None:
            for _ in content:
                pass
            continue
        levels = 2 if entry.path.startswith(f"{ALSO}/") else 1
        parts = [ledger_name] if entry.path == LEDGER else entry.path.split("/")[levels:]
        target = site.new.joinpath(*parts)
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        if entry.kind is Kind.DIRECTORY:
            target.mkdir(exist_ok=True)
            modes.append((target, entry.mode))
        elif entry.kind is Kind.LINK:
            for _ in content:
                pass
            target.symlink_to(entry.target)
        else:
            with target.open("xb") as file:
                for chunk in content:
                    file.write(chunk)
                os.fchmod(file.fileno(), entry.mode | 0o600)
            os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
        size += entry.size
        progress(number, size)
    # Deepest first, and only now: what may not be written to could not have been filled.
    for path, mode in reversed(modes):
        path.chmod(mode | 0o700)
    for site in sites.values():
        _flush(site.staging)


def _flush(path: Path) -> None:
    """Make all that was written durable before any of it has its name."""
    for folder, _, names in os.walk(path):
        for name in names:
            descriptor = -1
            with suppress(OSError):
                descriptor = os.open(Path(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                os.fsync(descriptor)
            if descriptor >= 0:
                os.close(descriptor)


def _turn(place: Path, ledger: Path) -> int:
    if place == ledger:
        return len(_ORDER) + 1
    return _ORDER.index(place.name) + 1 if place.name in _ORDER else 0


def _publish(moves: list[tuple[Path, Path, Path]]) -> None:
    places = [place for _, place, _ in moves]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise BackupError(f"Two parts of the backup would go to {twice}; name a --ledger in a directory of its own.")
    with ExitStack() as undo:
        for new, place, old in moves:
            if os.path.lexists(place):
                place.rename(old)
                undo.callback(old.rename, place)
            new.rename(place)
            undo.callback(place.rename, new)
        undo.pop_all()


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()
