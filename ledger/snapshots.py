"""Snapshots: cached books beside the ledger, so that nobody folds from position 1.

They lie in ``NAME.views.db`` and may be deleted at any time. One counts only if the log, at its
position, has the hash that the snapshot names; whatever is wrong with one, the log is folded instead.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.book import Book
from ledger.fields import FIELDS, load
from ledger.forks import no_fork
from ledger.log import Head
from ledger.sqlite_driver import sqlite3

KEPT = 512
"""How many snapshots are kept: the newest, and older ones spread evenly, for time travel."""

DENSE = 16
"""How many of the newest are kept however close to each other they are, at most half of all."""

PACKED_FROM_BYTES = 64 * 1024
"""Books from this size on are compressed: a millisecond of it saves more in writing them."""

UNPACKED_BYTES_MAX = 1 << 30
"""What a compressed book may come to: a file that may be garbled must not fill the memory."""

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
            kept = self._select(
                "SELECT position, hash FROM snapshots WHERE position <= ? AND fields = ?"
                " ORDER BY position DESC",
                (2**62 if upto is None else upto, FIELDS),
            )
            for position, hash_ in kept:
                head = known(position)
                if head is None or head.hash != hash_:
                    continue
                book = self._load(position, proof)
                if book is not None:
                    return book
        return None

    def _select(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        # The log is asked in between, so each query has a connection of its own (see no_fork).
        with no_fork():
            connection = self._connect(create=False)
            if connection is None:
                return []
            with contextlib.closing(connection):
                return list(connection.execute(sql, parameters).fetchall())

    def _load(self, position: int, proof: Callable[[int], str | None] | None) -> Book | None:
        ((kept,),) = self._select("SELECT book FROM snapshots WHERE position = ?", (position,))
        data = _unpacked(kept)
        if data is None:
            return None
        if proof is not None and proof(position) != sha256(data).hexdigest():
            return None
        return load(data)

    def save(self, head: Head, data: bytes) -> None:
        """Keep a book that :func:`ledger.fields.dump` wrote at ``head``."""
        with contextlib.suppress(sqlite3.Error, OSError), no_fork():
            connection = self._connect(create=True)
            with contextlib.closing(connection):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "INSERT OR REPLACE INTO snapshots (position, hash, fields, recorded_at, book)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (head.position, head.hash, FIELDS, head.recorded_at, _packed(data)),
                )
                _thin_out(connection)
                connection.execute("COMMIT")


def _packed(data: bytes) -> bytes:
    """A book as it lies in the file. A JSON document and a zlib stream differ in their first byte."""
    return data if len(data) < PACKED_FROM_BYTES else zlib.compress(data, 1)


def _unpacked(kept: bytes) -> bytes | None:
    """The book that :func:`_packed` made a row of; None for anything else."""
    if kept[:1] == b"{":
        return kept
    stream = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        data = stream.decompress(kept, UNPACKED_BYTES_MAX)
        return data if stream.eof else None
    return None


def _thin_out(connection: Any) -> None:
    """Delete down to :data:`KEPT`, each time the one whose neighbours are closest to each other.

    So what is left is spread evenly over the log. The oldest stays, and the newest few.
    """
    positions = [
        row[0] for row in connection.execute("SELECT position FROM snapshots ORDER BY position")
    ]
    dense = min(DENSE, KEPT // 2)
    while len(positions) > KEPT:
        _, doomed = min(
            (positions[i + 1] - positions[i - 1], i) for i in range(1, len(positions) - dense)
        )
        connection.execute("DELETE FROM snapshots WHERE position = ?", (positions.pop(doomed),))
