"""The tables and how they came to be: numbered migrations, each run once, in order, in a transaction of its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


class LedgerTooNew(Exception):
    """The file was written by a later version; the text is one sentence."""


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL) of every migration, in order."""
    files = sorted(_MIGRATIONS.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [(int(path.name[:4]), path.read_text(encoding="utf-8")) for path in files]


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the tables; 0 for a new file. Changes nothing.

    Raises:
        LedgerTooNew: they are newer than what this program knows.
    """
    newest = migrations()[-1][0]
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > newest:
        raise LedgerTooNew(
            f"the ledger is of version {version}, and this program knows versions up to {newest}; start the newer "
            "program again, or name another ledger in LEDGER_PATH"
        )
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version that this program knows.

    Raises:
        LedgerTooNew: they are newer than that; nothing was changed.
        sqlite3.Error: a migration failed; the ones before it stay, of this one nothing does.
    """
    version = version_of(connection)
    made = _made(connection, version)
    for number, statements in migrations():
        if number in made:
            continue
        # One with a smaller number may come later than one with a larger: they were written side by side.
        version = max(version, number)
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{statements}\nCREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY);\n"
                f"INSERT INTO migrations VALUES {', '.join(f'({each})' for each in sorted({*made, number}))}"
                f" ON CONFLICT DO NOTHING;\nPRAGMA user_version={version};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        made.add(number)


def _made(connection: sqlite3.Connection, version: int) -> set[int]:
    """Return the numbers of the migrations that the file has had."""
    listed = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
    if listed is None:
        return set(range(1, version + 1))
    return {number for (number,) in connection.execute("SELECT number FROM migrations")}
