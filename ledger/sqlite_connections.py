"""The two connections of a log to its SQLite file, and how they survive forks.

One connection writes, inside the gate; another reads, so that readers never wait for a commit. Both
are opened when first needed.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any

from ledger.errors import LeasebookError, LedgerUnavailable
from ledger.forks import no_fork
from ledger.gate import Gate, holders_of
from ledger.sqlite_driver import DRIVER_ERRORS, connect, sqlite3, translate, translated
from ledger.sqlite_file import beside, choose_journal, needs_immutable

FORK_PATIENCE_S = 5.0
"""How long a fork waits for the calls of other threads to end."""

WIPE_PATIENCE_MS = 1_000
"""How long a redaction waits for readers before it leaves the last wiping to a later commit."""


class Connections:
    """The files of one log in one process. ``writable`` is false when the log may only be read."""

    def __init__(
        self,
        path: Path,
        gate: Gate,
        *,
        found: os.stat_result,
        writable: bool,
        patience_s: float,
    ) -> None:
        """``found`` is the stat of the file that was opened; it must stay the one at ``path``."""
        self.path = path
        self.gate = gate
        self._identity = (found.st_dev, found.st_ino)
        self.writable = writable
        self.patience_s = patience_s
        self.erasure_pending = False
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._read_lock = threading.Lock()
        self._unusable = ""
        _ALL.add(self)

    def select(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of one query on the reading connection.

        Raises: what :func:`~ledger.sqlite_driver.translate` makes of the driver's errors.
        """
        self.require_in_place()
        try:
            with self._read_lock:
                return (self._reader or self._connect_reader()).execute(sql, parameters).fetchall()
        except DRIVER_ERRORS as error:
            raise self.translate(error) from error

    def copy_into(self, target: sqlite3.Connection) -> None:
        """SQLite's backup API in one step: one read transaction, so one moment of the file.

        A connection of its own does it, so that readers of this process need not wait.

        Raises: the driver's ``OperationalError`` for what goes wrong with the target.
        """
        self.require_usable()
        self.require_in_place()
        immutable = needs_immutable(self.path)
        with no_fork():
            with translated(self.path):
                source = connect(
                    self.path, read_only=True, immutable=immutable, patience_s=self.patience_s
                )
            try:
                source.backup(target)
            except sqlite3.OperationalError:
                raise
            except DRIVER_ERRORS as error:
                raise self.translate(error) from error
            finally:
                source.close()

    def writer(self) -> sqlite3.Connection:
        """The writing connection; only inside the gate.

        Raises: the driver's own errors.
        """
        return self._writer or self._connect_writer()

    def roll_back(self) -> None:
        """Undo what is open on the writing connection; one that cannot is closed."""
        writer = self._writer
        if writer is None:
            return
        try:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        except DRIVER_ERRORS:
            self._writer = None
            writer.close()

    def require_usable(self) -> None:
        """Raise :class:`~ledger.errors.LedgerUnavailable` after a close or a fork inside a call."""
        if self._unusable:
            raise LedgerUnavailable(self._unusable, "open the ledger again")

    def require_in_place(self) -> None:
        """Raise :class:`~ledger.errors.LedgerUnavailable` where the file is no longer at its path.

        SQLite would go on with a file that was deleted or replaced, and what it acknowledged would
        be nowhere, while everybody else used another ledger under the same name.
        """
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                return
            what = "was replaced by another file"
        except (FileNotFoundError, NotADirectoryError):
            what = "was deleted or moved"
        except OSError as error:
            what = f"cannot be reached any more ({error.strerror})"
        raise LedgerUnavailable(
            f"{self.path} {what} while it was open; nothing was recorded",
            "put the file back, or open the ledger again",
        )

    def wipe(self) -> None:
        """Move the write-ahead log into the file and cut it, so that no erased byte stays there."""
        writer = self._writer
        if writer is None:
            return
        try:
            writer.execute(f"PRAGMA busy_timeout = {WIPE_PATIENCE_MS}").close()
            try:
                busy = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                writer.execute(f"PRAGMA busy_timeout = {int(self.patience_s * 1000)}").close()
            self.erasure_pending = bool(busy)
        except DRIVER_ERRORS:
            # The redaction itself is committed, so this is no failure of it; it stays pending.
            self.erasure_pending = True

    def translate(self, error: Exception) -> LeasebookError:
        """The exception of the house for one of the driver, naming who holds the lock."""
        files = (self.path, beside(self.path, "-shm"))
        return translate(error, self.path, held_by=lambda: holders_of(files))

    def close(self) -> None:
        """Close every file. Safe to call twice."""
        with self._read_lock:
            self._unusable = self._unusable or f"{self.path} was closed"
            self._close_both()
        self.gate.close()
        _ALL.discard(self)

    def _close_both(self) -> None:
        if self.erasure_pending:
            self.wipe()
        connections = (self._reader, self._writer)
        self._reader = self._writer = None
        with translated(self.path):
            for connection in connections:
                if connection is not None:
                    connection.close()

    def _connect_reader(self) -> sqlite3.Connection:
        """The reading connection; called under the reading lock."""
        self.require_usable()
        immutable = needs_immutable(self.path)
        connection = connect(
            self.path,
            read_only=not self.writable,
            immutable=immutable,
            patience_s=self.patience_s,
        )
        connection.execute("PRAGMA query_only = ON").close()
        if not immutable:
            # The promise that nobody writes is made anew for each query, since it may be broken in
            # between; any other connection is kept.
            self._reader = connection
        return connection

    def _connect_writer(self) -> sqlite3.Connection:
        connection = connect(self.path, patience_s=self.patience_s)
        connection.execute("PRAGMA synchronous = FULL").close()
        # What a redaction erases must be gone from the pages, also from copies that SQLite made
        # while it moved rows about; nothing else is ever deleted, so this costs appends nothing.
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        choose_journal(connection)
        self._writer = connection
        return connection

    # Forks.

    def before_fork(self) -> bool:
        """Close every file, so that parent and child each open their own. False when in use."""
        if not self.gate.pause(FORK_PATIENCE_S):
            return False
        if not self._read_lock.acquire(timeout=FORK_PATIENCE_S):
            self.gate.resume()
            return False
        self._close_both()
        return True

    def after_fork_in_parent(self, paused: bool) -> None:
        """End the pause."""
        if paused:
            self._read_lock.release()
            self.gate.resume()

    def after_fork_in_child(self, paused: bool) -> None:
        """Start anew; after a fork in the middle of a call, never again."""
        self._read_lock = threading.Lock()
        self.gate.after_fork_in_child()
        if not paused:
            # The connections are the parent's, which is in the middle of using them. To close them
            # here would harm it, so they are kept for ever and never used.
            _KEPT_OPEN.extend((self._reader, self._writer))
            self._reader = self._writer = None
            self._unusable = f"the process forked in the middle of a transaction on {self.path}"


# A SQLite connection that is carried over a fork corrupts what it writes, and even a new one in the
# child would share the library's notes on which locks it holds (https://sqlite.org/howtocorrupt.html
# "Carrying an open database connection across a fork"). So every log closes its files before.
_ALL: weakref.WeakSet[Connections] = weakref.WeakSet()
_KEPT_OPEN: list[sqlite3.Connection | None] = []
_forking: list[tuple[Connections, bool]] = []


def _before_fork() -> None:
    _forking[:] = [(connections, connections.before_fork()) for connections in list(_ALL)]


def _after_fork_in_parent() -> None:
    for connections, paused in _forking:
        connections.after_fork_in_parent(paused)
    _forking.clear()


def _after_fork_in_child() -> None:
    for connections, paused in _forking:
        connections.after_fork_in_child(paused)
    _forking.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
