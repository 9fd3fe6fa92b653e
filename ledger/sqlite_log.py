"""The log in a SQLite file: what ``leasebook.open(path)`` stands on.

A transaction passes the gate, then ``BEGIN IMMEDIATE``; an acknowledged commit is on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from ledger.batches import refused_beside
from ledger.errors import LedgerCorrupt, LedgerReadOnly, LedgerUnavailable
from ledger.gate import PATIENCE_S, Gate
from ledger.log import COLUMNS, EMPTY, Head, Row
from ledger.sqlite_connections import Connections
from ledger.sqlite_driver import DRIVER_ERRORS, sqlite3
from ledger.sqlite_file import (
    beside,
    create_file,
    locate,
    require_ledger,
    why_unwritable,
    why_wrong_format,
)
from ledger.sqlite_schema import DESCRIBE, FORMAT, faults

PAGE_ROWS = 256
"""How many rows one read takes at a time, so that no read transaction is held for long.

A page that fits into a processor's cache folds a fifth faster than one of thousands of rows.
"""

_LAST_POSITION = 2**63 - 1
_UNKNOWN = -1
_NAMES = ", ".join(COLUMNS)
_HEAD = "SELECT position, hash, recorded_at FROM events ORDER BY position DESC LIMIT 1"
_PAGE = (
    f"SELECT {_NAMES} FROM events WHERE position >= ? AND position <= ?"
    f" ORDER BY position LIMIT {PAGE_ROWS}"
)
_APPEND = f"INSERT INTO events ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"
# The predicate is repeated word for word: only then does SQLite use the partial index.
_BY_COMMAND = (
    f"SELECT {_NAMES} FROM events WHERE tenant = ? AND command_id = ?"
    " AND command_id IS NOT NULL AND type <> 'refused' ORDER BY position"
)
_REFUSED_BESIDE = (
    f"SELECT {_NAMES} FROM events WHERE position BETWEEN ? AND ? AND tenant = ? AND command_id = ?"
    " AND type = 'refused' AND recorded_at = ? ORDER BY position"
)
_BY_ALLOCATION = f"SELECT {_NAMES} FROM events WHERE allocation = ? ORDER BY position"
# The join is crossed so that the keys come first and the index answers each of them.
_COLUMNS_OF_E = ", ".join(f"e.{name}" for name in COLUMNS)
_BY_COMMANDS = (
    f"SELECT {_COLUMNS_OF_E} FROM json_each(?) AS k CROSS JOIN events AS e"
    " ON e.tenant = k.value AND e.command_id = k.key"
    " AND e.command_id IS NOT NULL AND e.type <> 'refused'"
)
_BY_ALLOCATIONS = (
    f"SELECT {_COLUMNS_OF_E} FROM json_each(?) AS k CROSS JOIN events AS e"
    " ON e.allocation = k.value AND e.allocation IS NOT NULL"
)
_row: Callable[[Any], Row] = partial(tuple.__new__, Row)
"""As ``Row._make`` without counting the columns, which the queries name; in half the time."""
_ERASE = "UPDATE events SET metadata = NULL WHERE position = ?"


class SqliteLog:
    """A :class:`~ledger.log.Log` in one SQLite file. Threads may share it; forks are survived.

    ``path`` is the file with links resolved, ``format`` its format's number, ``gate`` the writers'
    gate beside it, and ``read_only_reason`` says why nothing can be written (None when it can).
    """

    def __init__(
        self, path: Path, owner: os.stat_result, *, read_only: bool, patience_s: float
    ) -> None:
        """Use :meth:`open`."""
        self.path = path
        self.gate = Gate(beside(path, ".gate"), owner=owner)
        self._patience_s = patience_s
        self._files = Connections(
            path, self.gate, found=owner, writable=not read_only, patience_s=patience_s
        )
        self._transaction = _SqliteTransaction(self)
        try:
            require_ledger(path, int(self._files.select("PRAGMA application_id")[0][0]))
            self.format = int(self._files.select("PRAGMA user_version")[0][0])
        except BaseException:
            self.close()
            raise
        why = why_wrong_format(path, self.format) or why_unwritable(path)
        if read_only:
            why = (f"{path} was opened for reading only", "open it for writing")
        self.read_only_reason: str | None = why[0] if why else None
        self._hint = why[1] if why else ""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        read_only: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> SqliteLog:
        """Open a ledger; with ``create``, make it where there is none. Never migrates.

        A ledger that cannot be written here (permissions, an older or newer format) opens all the
        same; ``read_only_reason`` says why, and a transaction raises
        :class:`~ledger.errors.LedgerReadOnly`. ``patience_s`` bounds every wait for a lock.

        Raises: :class:`~ledger.errors.NotALedger` for a file that is something else,
        :class:`~ledger.errors.LedgerUnavailable` where there is none, where it cannot be read, or
        on a network file system, :class:`~ledger.errors.LedgerCorrupt` for a damaged one.
        """
        real, found = locate(path)
        if found is None and create and not read_only:
            create_file(real, patience_s)
            real, found = locate(real)
        if found is None:
            raise LedgerUnavailable(
                f"no ledger at {real}", "check the path, or open a pool to begin a ledger there"
            )
        return cls(real, found, read_only=read_only, patience_s=patience_s)

    # The Log protocol.

    def require_writable(self) -> None:
        """As :meth:`ledger.log.Log.require_writable`."""
        if self.read_only_reason is not None:
            raise LedgerReadOnly(self.read_only_reason, self._hint)

    def transaction(self) -> _SqliteTransaction:
        """As :meth:`ledger.log.Log.transaction`."""
        return self._transaction

    def abandon(self) -> None:
        """As :meth:`ledger.log.Log.abandon`."""
        self._transaction.abandon()

    def head(self) -> Head:
        """As :meth:`ledger.log.Log.head`."""
        return _head(self._files.select(_HEAD))

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        """As :meth:`ledger.log.Log.read`."""
        last = _LAST_POSITION if upto is None else min(upto, _LAST_POSITION)
        while after < last:
            rows = self._files.select(_PAGE, (after + 1, last))
            yield from map(_row, rows)
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    def rows_of_command(self, tenant: str, command_id: str) -> list[Row]:
        """As :meth:`ledger.log.Log.rows_of_command`."""
        return _rows_of_command(self._files.select, tenant, command_id)

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """As :meth:`ledger.log.Log.rows_of_allocation`."""
        return list(map(_row, self._files.select(_BY_ALLOCATION, (allocation,))))

    def close(self) -> None:
        """As :meth:`ledger.log.Log.close`."""
        self._files.close()

    def __enter__(self) -> SqliteLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # What only a file has.

    @property
    def erasure_pending(self) -> bool:
        """Whether erased metadata still lies in the write-ahead log, because a reader was busy.

        It is tried again after each later commit and when the log is closed.
        """
        return self._files.erasure_pending

    def journal_mode(self) -> str:
        """``wal``, or a rollback journal's mode where this SQLite's WAL cannot be trusted."""
        return str(self._files.select("PRAGMA journal_mode")[0][0])

    def quick_check(self, problems_max: int = 10) -> list[str]:
        """SQLite's own check of the file's structure: what it finds wrong, empty when nothing."""
        try:
            rows = self._files.select(f"PRAGMA quick_check({int(problems_max)})")
        except LedgerCorrupt as error:
            return [error.message]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def schema_faults(self) -> list[str]:
        """What is missing of the tables, indexes and triggers that guard the events, or too much."""
        return faults(self._files.select(DESCRIBE))

    def copy_into(self, target: sqlite3.Connection) -> None:
        """Copy the whole database, as it is at one moment, over another one."""
        self._files.copy_into(target)

    def size_bytes(self) -> int:
        """The bytes that the ledger's file and its write-ahead log take on disk."""
        total = 0
        for name in (self.path, beside(self.path, "-wal")):
            try:
                total += name.stat().st_size
            except FileNotFoundError:
                continue
        return total


class _SqliteTransaction:
    """The writer's view of a :class:`SqliteLog`, and the context that commits it.

    One object serves all transactions of its log, since the gate lets in one at a time.
    """

    __slots__ = ("_connection", "_log", "_position", "_seen")

    _connection: sqlite3.Connection

    def __init__(self, log: SqliteLog) -> None:
        self._log = log
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._position = _UNKNOWN

    def __enter__(self) -> _SqliteTransaction:
        log = self._log
        log.require_writable()
        log._files.require_usable()
        log.gate.acquire(log._patience_s)
        try:
            log._files.require_in_place()
            log._files.lost_its_log()
            self._connection = log._files.writer()
            self._connection.execute("BEGIN IMMEDIATE")
            log._files.note_log()
            # It changes with every commit of another connection, and with no other.
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            if self._seen is None or self._seen != (self._connection, version):
                self._position = _UNKNOWN
                # An upgrade may have come by since the last transaction.
                format_ = self._connection.execute("PRAGMA user_version").fetchone()[0]
                if format_ != FORMAT:
                    raise LedgerReadOnly(*(why_wrong_format(log.path, format_) or ("", "")))
                self._seen = (self._connection, version)
        except BaseException as error:
            self._roll_back()
            log.gate.release()
            if isinstance(error, DRIVER_ERRORS):
                raise log._files.translate(error) from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        log = self._log
        try:
            if kind is None:
                self._connection.execute("COMMIT")
                if log._files.lost_its_log():
                    self._require_written()
                elif log._files.erasure_pending:
                    log._files.wipe()
            else:
                self._roll_back()
        except DRIVER_ERRORS as failure:
            self._roll_back()
            raise log._files.translate(failure) from failure
        except BaseException:
            # Interrupted before the commit or after it: what is still open goes back.
            self._roll_back()
            raise
        finally:
            log.gate.release()

    def _require_written(self) -> None:
        """After a commit into a write-ahead log that was taken away: what was appended must be there."""
        wanted, self._position = self._position, _UNKNOWN
        self._connection = self._log._files.writer()
        if wanted not in (_UNKNOWN, _head(self._select(_HEAD)).position):
            raise LedgerUnavailable(
                f"another SQLite in this process took the write-ahead log of {self._log.path} away"
                " while it was written to",
                "try again under the same command id",
            )

    def abandon(self) -> None:
        """As :meth:`ledger.log.Log.abandon`."""
        if self._log.gate.is_mine():
            self._roll_back()
            self._log.gate.release()

    def head(self) -> Head:
        """As :meth:`ledger.log.Transaction.head`."""
        return _head(self._select(_HEAD))

    def read(self, after: int) -> Iterator[Row]:
        """As :meth:`ledger.log.Transaction.read`; costs no query where nobody else has written."""
        while after != self._position:
            rows = self._select(_PAGE, (after + 1, _LAST_POSITION))
            yield from map(_row, rows)
            if rows:
                after = rows[-1][0]
            if len(rows) < PAGE_ROWS:
                self._position = after
                return

    def append(self, rows: Iterable[Row]) -> None:
        """As :meth:`ledger.log.Transaction.append`."""
        added = list(rows)
        self._position = _UNKNOWN
        try:
            self._connection.executemany(_APPEND, added)
        except DRIVER_ERRORS as error:
            raise self._log._files.translate(error) from error
        if added:
            self._position = added[-1].position

    def rows_of_command(self, tenant: str, command_id: str) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_command`."""
        return _rows_of_command(self._select, tenant, command_id)

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_allocation`."""
        return list(map(_row, self._select(_BY_ALLOCATION, (allocation,))))

    def rows_of_commands(self, keys: Iterable[tuple[str, str]]) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_commands`."""
        rows: list[Row] = []
        left = set(keys)
        while left:
            # An object of id and tenant is what SQLite takes apart fastest; ids are mostly unique.
            some = {id_: tenant for tenant, id_ in left}
            rows += self._joined(_BY_COMMANDS, some)
            left = left.difference((tenant, id_) for id_, tenant in some.items())
        return sorted(rows)

    def rows_of_allocations(self, allocations: Iterable[str]) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_allocations`."""
        return self._joined(_BY_ALLOCATIONS, list(set(allocations)))

    def _joined(self, sql: str, keys: list[str] | dict[str, str]) -> list[Row]:
        if not keys:
            return []
        return sorted(map(_row, self._select(sql, (orjson.dumps(keys).decode(),))))

    def erase_metadata(self, position: int) -> None:
        """As :meth:`ledger.log.Transaction.erase_metadata`."""
        try:
            # Older versions count json_extract, which the trigger uses, among what an untrusted
            # schema must not call.
            self._connection.execute("PRAGMA trusted_schema = ON").close()
            changed = self._connection.execute(_ERASE, (position,)).rowcount
            self._connection.execute("PRAGMA trusted_schema = OFF").close()
        except DRIVER_ERRORS as error:
            raise self._log._files.translate(error) from error
        if changed != 1:
            raise LedgerCorrupt(
                f"there is no event {position} whose metadata could be dropped",
                "nothing was recorded; check the position",
                position=position,
            )
        self._log._files.erasure_pending = True

    def _select(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except DRIVER_ERRORS as error:
            raise self._log._files.translate(error) from error

    def _roll_back(self) -> None:
        """Undo, whatever state the failure left; a connection that cannot is dropped."""
        self._position = _UNKNOWN
        self._log._files.roll_back()


def _head(rows: list[Any]) -> Head:
    return Head._make(rows[0]) if rows else EMPTY


def _rows_of_command(
    select: Callable[[str, tuple[Any, ...]], list[Any]], tenant: str, command_id: str
) -> list[Row]:
    rows = list(map(_row, select(_BY_COMMAND, (tenant, command_id))))
    window = refused_beside(rows)
    if window is not None:
        key = (*window, tenant, command_id, rows[0].recorded_at)
        refused = list(map(_row, select(_REFUSED_BESIDE, key)))
        if refused:
            rows = sorted(rows + refused)
    return rows
