"""The ledger's tables, indexes and triggers as plain SQL, and the format's numbers.

Creation and ``leasebook upgrade`` both run :data:`STATEMENTS`; every one may run again on a ledger
that has it. SQL here is storage format: a change to it is a new format and a new migration.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime

from ledger.forks import no_fork
from ledger.log import COLUMNS
from ledger.sqlite_driver import sqlite3

APPLICATION_ID = 0x4C424B31
"""``LBK1`` in the file's header: how a ledger is told from any other SQLite database."""

FORMAT = 1
"""The number of this format, kept in ``PRAGMA user_version``."""

MIGRATION_SET = "leasebook_ledger"
MIGRATION_NAMES = ("format_1",)
"""What has to be recorded as applied for a ledger of :data:`FORMAT`, in order."""

CREATE_EVENTS = """
CREATE TABLE IF NOT EXISTS events (
  position INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  recorded_at INTEGER NOT NULL,
  type TEXT NOT NULL,
  schema INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  pool TEXT,
  allocation TEXT,
  holder TEXT,
  task TEXT,
  command_id TEXT,
  data TEXT NOT NULL,
  metadata TEXT,
  digest BLOB NOT NULL CHECK (length(digest) = 32),
  hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT
"""

CREATE_INDEX_BY_ALLOCATION = """
CREATE INDEX IF NOT EXISTS events_by_allocation ON events (allocation)
WHERE allocation IS NOT NULL
"""

CREATE_INDEX_BY_COMMAND = """
CREATE INDEX IF NOT EXISTS events_by_command ON events (tenant, command_id)
WHERE command_id IS NOT NULL AND type <> 'refused'
"""

# The trigger fires before a REPLACE could delete the row in its way, so no setting of the
# connection (recursive_triggers) opens a way around it.
CREATE_TRIGGER_INSERT = """
CREATE TRIGGER IF NOT EXISTS events_only_next BEFORE INSERT ON events
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
BEGIN SELECT RAISE(ABORT, 'events: only the next position can be added'); END
"""

CREATE_TRIGGER_DELETE = """
CREATE TRIGGER IF NOT EXISTS events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events: nothing can be deleted'); END
"""

_KEPT = " AND ".join(f"NEW.{c} IS OLD.{c}" for c in COLUMNS if c != "metadata")

CREATE_TRIGGER_UPDATE = f"""
CREATE TRIGGER IF NOT EXISTS events_no_update BEFORE UPDATE ON events
WHEN NOT (
  NEW.metadata IS NULL AND {_KEPT}
  AND EXISTS (
    SELECT 1 FROM events AS last
    WHERE last.position = (SELECT max(position) FROM events) AND last.type = 'redacted'
      AND json_extract(last.data, '$.position') IS OLD.position
  )
)
BEGIN SELECT RAISE(ABORT, 'events: only a redaction can drop metadata'); END
"""

STATEMENTS = (
    CREATE_EVENTS,
    CREATE_INDEX_BY_ALLOCATION,
    CREATE_INDEX_BY_COMMAND,
    CREATE_TRIGGER_INSERT,
    CREATE_TRIGGER_DELETE,
    CREATE_TRIGGER_UPDATE,
)

# The bookkeeping of sqlite-utils' migrations, as that library itself would create it. Importing it
# costs half a second, which creating a ledger should not.
_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS "_sqlite_migrations" (
  "id" INTEGER PRIMARY KEY,
  "migration_set" TEXT,
  "name" TEXT,
  "applied_at" TEXT
)
"""
_CREATE_MIGRATIONS_INDEX = """
CREATE UNIQUE INDEX IF NOT EXISTS "idx__sqlite_migrations_migration_set_name"
ON "_sqlite_migrations" ("migration_set", "name")
"""


def create(connection: sqlite3.Connection) -> None:
    """Make a ledger of the present format inside the caller's transaction."""
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.execute(_CREATE_MIGRATIONS)
    connection.execute(_CREATE_MIGRATIONS_INDEX)
    now = str(datetime.now(UTC))
    connection.executemany(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
        [(MIGRATION_SET, name, now) for name in MIGRATION_NAMES],
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")


DESCRIBE = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
"""Everything that a database's schema holds, as :func:`faults` takes it."""


def faults(found: Iterable[tuple[str, str, str]]) -> list[str]:
    """What is wrong with the schema of a ledger of :data:`FORMAT`; empty when nothing is.

    What others have added is let be, except triggers: those could change what is written.
    """
    present = {(kind, name): sql for kind, name, sql in found}
    with no_fork(), closing(sqlite3.connect(":memory:")) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
        wanted = {(kind, name): sql for kind, name, sql in connection.execute(DESCRIBE)}
    said = [
        f"{kind} {name} is {'missing' if (kind, name) not in present else 'another one'}"
        for (kind, name), sql in wanted.items()
        if present.get((kind, name)) != sql
    ]
    foreign = [key for key in present if key[0] == "trigger" and key not in wanted]
    return said + [f"trigger {name} is not Leasebook's" for _, name in foreign]
