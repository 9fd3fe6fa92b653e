"""Snapshots: cached books beside the ledger, so that nobody folds from position 1.

They lie in ``NAME.views.db`` and may be deleted at any time. One counts only if the log, at its
position, has the hash that the snapshot names; whatever is wrong with one, the log is folded instead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.book import Book
from ledger.fields import FIELDS, load
from ledger.log import Head
from ledger.sqlite_driver import sqlite3

KEPT = 64
"""How many snapshots are kept: the newest, and thinned-out older ones for time travel."""

PATIENCE_S = 0.1
"""How long saving waits for whoever writes views at that moment: callers wait for it too."""

_TABLE = """
CREATE TABLE IF NOT EXISTS snapshots (
    position INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    fields INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    book BLOB NOT NULL
) STRICT
"""


class Snapshots:
    """The snapshots of one ledger file. Failing to save or load one is never an error."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(ledger.name + ".views.db")

    def _connect(self, *, create: bool) -> Any:
        if not create and not self.path.exists():
            return None
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(str(self.path), timeout=PATIENCE_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        if create:
            connection.execute(_TABLE)
        return connection

    def newest(
        self,
        known: Callable[[int], Head | None],
        upto: int | None = None,
        *,
        proof: Callable[[int], str | None] | None = None,
    ) -> Book | None:
        """The book of the newest usable snapshot at or before ``upto``; None where there is none.

        ``known`` maps a position to the log's head there, or None; ``proof`` maps it to the book's
        digest there, as the log's next event gives it.
        """
        # Whatever is wrong with a file that may be deleted at any time: the log is folded instead.
        with contextlib.suppress(Exception):
            connection = self._connect(create=False)
            if connection is None:
                return None
            with contextlib.closing(connection):
                kept = connection.execute(
                    "SELECT position, hash FROM snapshots WHERE position <= ? AND fields = ?"
                    " ORDER BY position DESC",
                    (2**62 if upto is None else upto, FIELDS),
                ).fetchall()
                for position, hash_ in kept:
                    head = known(position)
                    if head is None or head.hash != hash_:
                        continue
                    book = self._load(connection, position, proof)
                    if book is not None:
                        return book
        return None

    @staticmethod
    def _load(
        connection: Any, position: int, proof: Callable[[int], str | None] | None
    ) -> Book | None:
        ((data,),) = connection.execute(
            "SELECT book FROM snapshots WHERE position = ?", (position,)
        )
        if proof is not None and proof(position) != sha256(data).hexdigest():
            return None
        return load(data)

    def save(self, head: Head, data: bytes) -> None:
        """Keep a book that :func:`ledger.fields.dump` wrote at ``head``."""
        with contextlib.suppress(sqlite3.Error, OSError):
            connection = self._connect(create=True)
            with contextlib.closing(connection):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "INSERT OR REPLACE INTO snapshots (position, hash, fields, recorded_at, book)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (head.position, head.hash, FIELDS, head.recorded_at, data),
                )
                _thin_out(connection)
                connection.execute("COMMIT")


def _thin_out(connection: Any) -> None:
    """Keep the newest half as they are and every other one of the rest, once there are too many."""
    positions = [
        row[0] for row in connection.execute("SELECT position FROM snapshots ORDER BY position")
    ]
    if len(positions) > KEPT:
        doomed = positions[1 : KEPT // 2 : 2]
        connection.executemany(
            "DELETE FROM snapshots WHERE position = ?", [(position,) for position in doomed]
        )
