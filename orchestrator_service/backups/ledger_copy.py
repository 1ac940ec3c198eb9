"""A copy of the ledger while its orchestrator writes it: one moment of it, in one file.

SQLite's own backup takes it in one step, inside a reading transaction: the writer goes on beside it (WAL), and the copy
is what was committed when it began. The ledger's lock is its writer's and is not asked for. A plain copy of the file
would be a mixture of moments, and miss what still lies in the write-ahead log.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator_service.backups.manifest import BackupError
from orchestrator_service.ledger.schema import LedgerTooNew, version_of

_BUSY_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class LedgerCopy:
    """The copy, and what the rest of a backup has to know of it."""

    path: Path
    runs: dict[str, bool]
    """Whether it has ended, of each run by its wire id."""
    tasks: frozenset[str]


def copy_ledger(ledger: Path, target: Path) -> LedgerCopy:
    """Copy the ledger to `target`, a new file.

    Raises:
        BackupError: it is broken, no ledger, of a later version, or cannot be read now.
    """
    try:
        with (
            closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)) as live,
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            copy.execute("PRAGMA synchronous=OFF")
            live.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            if (said := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise BackupError(f"The ledger {ledger} is broken: {said}; mend it, or leave it out with --no-ledger.")
            version_of(copy)
            runs = {wire_id: ended is not None for wire_id, ended in copy.execute("SELECT wire_id, ended_at FROM runs")}
            tasks = frozenset(task_id for (task_id,) in copy.execute("SELECT task_id FROM tasks"))
    except LedgerTooNew as error:
        raise BackupError(f"The ledger {ledger} cannot be saved: {error}.") from error
    except sqlite3.Error as error:
        raise BackupError(
            f"The ledger {ledger} cannot be copied: {error}; mend it, name another one with --ledger, or leave it "
            "out with --no-ledger."
        ) from error
    return LedgerCopy(path=target, runs=runs, tasks=tasks)
