"""`codehornets backup` and `restore`: where from and where to, how far it is, and what was done."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from agent_bus.files import publish_once
from orchestrator_service.backups.archive import ArchiveReader, sync_directory
from orchestrator_service.backups.manifest import BackupError, Manifest, is_name
from orchestrator_service.backups.restoring import RestorePlan, check_archive
from orchestrator_service.backups.restoring import restore as put_back
from orchestrator_service.backups.taking import BackupPlan, check_plan, take_backup
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_shared_dir, place_of_shared_dir
from orchestrator_service.cli.terminal import harmless

_STANDARD: Final = "-"
_SHOW_EVERY_S: Final = 0.2
_LEFT_OUT: Final = {
    "special": "pipes, sockets, links or devices",
    "links_out": "links that lead out of their directory",
    "unreadable": "files that cannot be read",
    "badly_named": "files whose names are no text",
    "changed_while_read": "files that became shorter while they were read, and are filled with zeros",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was typed of what is to be saved."""

    shared_dir: Path | None
    ledger: Path | None
    no_ledger: bool
    events: bool
    logs: bool
    also: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was typed of where it goes."""

    shared_dir: Path | None
    ledger: Path | None
    into: Path | None
    also: tuple[str, ...]
    also_below: Path | None
    skip: tuple[str, ...]


def backup(file: str, wanted: Wanted, *, as_json: bool) -> int:
    """Save a team.

    Raises:
        UserError: it cannot be saved; says why.
    """
    if wanted.no_ledger and wanted.ledger is not None:
        raise UserError("--ledger and --no-ledger contradict each other; type one of them.")
    shared = find_shared_dir(wanted.shared_dir)
    ledger = None if wanted.no_ledger else _ledger_to_save(shared, wanted.ledger)
    also = _named(wanted.also)
    scratch = Path(tempfile.gettempdir()) if file == _STANDARD else Path(file).absolute().parent
    plan = BackupPlan(shared=shared, ledger=ledger, scratch=scratch, events=wanted.events, logs=wanted.logs, also=also)
    report = sys.stderr if file == _STANDARD else sys.stdout
    try:
        check_plan(plan)
        with _progress() as progress, _output(file, also) as output:
            manifest, size = take_backup(plan, output, progress)
    except BackupError as error:
        raise UserError(str(error)) from error
    _report(manifest, "saved", file, size, [], as_json=as_json, report=report)
    return 0


def restore(file: str, target: Target, *, check: bool, as_json: bool) -> int:
    """Bring a team back, or only check that it could be.

    Raises:
        UserError: it cannot be restored; says why.
    """
    if target.into is not None and (target.shared_dir or target.ledger or target.also or target.also_below):
        raise UserError("--into says where everything goes; leave out --shared-dir, --ledger and --also, or --into.")
    remarks: list[str] = []
    try:
        with _input(file) as stream, _progress() as progress:
            reader = ArchiveReader(stream)
            manifest = reader.manifest()
            if check:
                check_archive(reader, manifest, progress)
            else:
                remarks = put_back(reader, manifest, _plan(target, manifest), progress)
    except BackupError as error:
        raise UserError(str(error)) from error
    _report(manifest, "whole" if check else "restored", file, None, remarks, as_json=as_json, report=sys.stdout)
    return 0


def _ledger_to_save(shared: Path, typed: Path | None) -> Path | None:
    ledger = _ledger(shared, typed)
    if typed is None and not ledger.exists():
        print(f"codehornets: There is no ledger {ledger}; the backup is made without one.", file=sys.stderr)
        return None
    return ledger


def _ledger(shared: Path, typed: Path | None) -> Path:
    told = os.environ.get("LEDGER_PATH")
    return (typed or (Path(told) if told else shared / "orchestrator" / "ledger.sqlite3")).absolute()


def _plan(target: Target, manifest: Manifest) -> RestorePlan:
    skip = frozenset(target.skip)
    if target.into is not None:
        return RestorePlan.below(target.into.absolute(), manifest, skip)
    shared = place_of_shared_dir(target.shared_dir).absolute()
    also = _named(target.also)
    if target.also_below is not None:
        rest = set(manifest.also) - set(also) - skip
        also |= {name: target.also_below.absolute() / name for name in sorted(rest)}
    return RestorePlan(shared=shared, ledger=_ledger(shared, target.ledger), also=also, skip=skip)


def _named(typed: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for each in typed:
        name, _, path = each.partition("=")
        if not path or not is_name(name):
            raise UserError(f"--also is {each!r}; allowed is NAME=DIR, the name without slashes and a dot before it.")
        if name in found:
            raise UserError(f"--also names {name} twice; give each directory a name of its own.")
        found[name] = Path(path).absolute()
    return found


@contextmanager
def _output(file: str, also: dict[str, Path]) -> Iterator[IO[bytes]]:
    """Open what is written to: a file appears whole or not at all, and for its owner's eyes alone."""
    if file == _STANDARD:
        if sys.stdout.isatty():
            raise UserError("A backup is no text for a terminal; name a file, or send it on with > or |.")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file).absolute()
    if os.path.lexists(path):
        raise UserError(f"{path} is there already; name a new file, or remove that one.")
    if inside := next((folder for folder in also.values() if path.is_relative_to(folder)), None):
        raise UserError(f"{path} lies in {inside}, which it is to hold; name a file elsewhere.")
    staged = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        # Not a rename: a file that came meanwhile is not lost to this one.
        if not publish_once(f"{staged}", f"{path}"):
            raise UserError(f"{path} is there already; name a new file, or remove that one.")
        sync_directory(path.parent)
    finally:
        with suppress(OSError):
            staged.unlink()


@contextmanager
def _input(file: str) -> Iterator[IO[bytes]]:
    if file == _STANDARD:
        if sys.stdin.isatty():
            raise UserError("A backup is no text from a terminal; name a file, or send it here with < or |.")
        yield sys.stdin.buffer
        return
    if not Path(file).is_file():
        raise UserError(f"There is no file {file}; name a backup.")
    with Path(file).open("rb") as stream:
        yield stream


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how far it is."""
    if not sys.stderr.isatty():
        yield lambda files, size: None
        return
    shown_at = 0.0

    def show(files: int, size: int) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= _SHOW_EVERY_S:
            shown_at = now
            print(f"\r\x1b[K{files:,} files, {_size(size)} …", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(
    manifest: Manifest, done: str, file: str, packed: int | None, remarks: list[str], *, as_json: bool, report: IO[str]
) -> None:
    said: dict[str, Any] = manifest.model_dump(mode="json", exclude={"entries"})
    said |= {"done": done, "file": file, "files": len(manifest.entries), "size": manifest.size, "remarks": remarks}
    if packed is not None:
        said["archive_size"] = packed
    if as_json:
        if report is sys.stdout:
            print_json(said)
        else:
            import json

            print(json.dumps(said, indent=2), file=report)
        return
    counts = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in manifest.counts.items() if count or name == "results"
    )
    size = _size(manifest.size) + ("" if packed is None else f", {_size(packed)} packed")
    when = f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
    print(f"{done}: {harmless(counts)} ({len(manifest.entries):,} files, {size}), as of {when}", file=report)
    for kind, count in manifest.left_out.items():
        print(f"left out: {count:,} {_LEFT_OUT.get(kind, harmless(kind))}", file=report)
    for remark in remarks:
        print(harmless(remark), file=report)


def _size(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1024
    raise AssertionError
