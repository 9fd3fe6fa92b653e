"""Bring an older ledger to the present format, after a backup: ``leasebook upgrade``.

sqlite-utils keeps the record of what was applied. It is imported here and only when it is needed,
since it brings pandas along.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ledger import sqlite_schema
from ledger.backup import copy_checked
from ledger.errors import LedgerCorrupt, LedgerReadOnly, LedgerUnavailable
from ledger.forks import no_fork
from ledger.gate import PATIENCE_S
from ledger.sqlite_driver import connect, translated
from ledger.sqlite_file import beside, choose_journal, why_unwritable
from ledger.sqlite_log import SqliteLog

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

BACKUP_NAMES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class UpgradeResult:
    """From which format to which, and the backup made before; None when nothing was to do."""

    from_format: int
    to_format: int
    backup_path: Path | None


def migrations() -> Migrations:
    """The migrations in order; each brings a ledger from one format to the next."""
    from sqlite_utils import Migrations

    known = Migrations(sqlite_schema.MIGRATION_SET)

    @known(name="format_1")
    def format_1(db: Database) -> None:
        for statement in sqlite_schema.STATEMENTS:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")

    return known


def upgrade(path: str | os.PathLike[str], *, patience_s: float = PATIENCE_S) -> UpgradeResult:
    """Upgrade the ledger at ``path`` if it is older than this program; safe to run twice at once.

    Writers wait at the gate meanwhile. The backup lies beside the ledger, named after the old
    format. When a migration fails the ledger stays as it was.

    Raises: :class:`~ledger.errors.LedgerReadOnly` for a newer format or without permission to
    write, :class:`~ledger.errors.LedgerCorrupt` when the file is damaged, and as
    :meth:`ledger.sqlite_log.SqliteLog.open`.
    """
    with SqliteLog.open(path, patience_s=patience_s) as log:
        if log.format > sqlite_schema.FORMAT:
            raise LedgerReadOnly(log.read_only_reason or "", "use a newer Leasebook")
        why = why_unwritable(log.path)
        if why is not None:
            raise LedgerReadOnly(*why)
        log.gate.acquire(patience_s)
        try:
            with SqliteLog.open(log.path, patience_s=patience_s) as fresh:
                if fresh.format == sqlite_schema.FORMAT:
                    return UpgradeResult(fresh.format, fresh.format, None)
                saved = copy_checked(fresh, _backup_name(log.path, fresh.format), _require_sound)
                old_format, old_head = fresh.format, fresh.head()
            _migrate(log.path, patience_s)
            with SqliteLog.open(log.path, patience_s=patience_s) as done:
                if done.format != sqlite_schema.FORMAT or done.head() != old_head:
                    raise LedgerCorrupt(
                        f"the upgrade of {log.path} did not keep its events",
                        f"restore {saved.path}",
                    )
        finally:
            log.gate.release()
    return UpgradeResult(old_format, sqlite_schema.FORMAT, saved.path)


def _migrate(path: Path, patience_s: float) -> None:
    from sqlite_utils import Database

    with no_fork(), translated(path):
        connection = connect(path, patience_s=patience_s)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            migrations().apply(Database(connection, recursive_triggers=False))
            choose_journal(connection)
            # The header in the file itself shall show the new format at once.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()


def _backup_name(path: Path, format_: int) -> Path:
    for number in range(1, BACKUP_NAMES_MAX + 1):
        name = beside(path, f".format-{format_}" + (f".{number}" if number > 1 else "") + ".backup")
        if not os.path.lexists(name):
            return name
    raise LedgerUnavailable(
        f"{BACKUP_NAMES_MAX} backups of {path} lie beside it", "move them to another folder"
    )


def _require_sound(copy: SqliteLog) -> None:
    problems = copy.quick_check()
    if problems:
        raise LedgerCorrupt(
            f"the ledger is damaged and was not upgraded: {problems[0]}",
            "run `leasebook verify`, and restore from a backup",
        )
