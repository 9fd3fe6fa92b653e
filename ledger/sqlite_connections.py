"""The two connections of a log to its SQLite file, and how they survive forks.

One connection writes, inside the gate; another reads, so that readers never wait for a commit. Both
are opened when first needed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from ledger.errors import LeasebookError, LedgerUnavailable
from ledger.forks import no_fork, when_shut
from ledger.gate import Gate, holders_of
from ledger.held_file import HeldFile, held
from ledger.locks import OwnedLock
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
        self._log_name = os.fspath(beside(path, "-wal"))
        self._log: HeldFile | None = None
        self._read_lock = OwnedLock()
        self._unusable = ""
        # In there, so that a fork under way knows of it before it is used.
        with no_fork():
            _ALL.add(self)

    def select(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of one query on the reading connection.

        Raises: what :func:`~ledger.sqlite_driver.translate` makes of the driver's errors.
        """
        self.require_in_place()
        try:
            self._renew_reader()
            with self._read_lock.lock:
                rows = (self._reader or self._connect_reader()).execute(sql, parameters).fetchall()
                if self._log is None:
                    self._log = held(self._log_name)
                return rows
        except DRIVER_ERRORS as error:
            raise self.translate(error) from error

    def copy_into(self, target: sqlite3.Connection) -> None:
        """SQLite's backup API in one step: one read transaction, so one moment of the file.

        A connection of its own does it, so that readers of this process need not wait.

        Raises: the driver's ``OperationalError`` for what goes wrong with the target.
        """
        self.require_usable()
        self.require_in_place()
        self._renew_reader()
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

    # The write-ahead log that the connections use.
    #
    # Another copy of SQLite in the same process (the standard library's, which pandas and others use)
    # does not see the locks of this one: POSIX locks belong to the process. When it closes the ledger
    # it takes itself for the last and removes the write-ahead log, and what is written from then on
    # would be in a file without a name (https://sqlite.org/howtocorrupt.html, "Multiple copies of
    # SQLite linked into the same application").

    def note_log(self) -> None:
        """Remember which write-ahead log the connections use, once there is one."""
        if self._log is None:
            with self._read_lock.lock:
                self._let_go_of_log()
                self._log = held(self._log_name)

    def lost_its_log(self) -> bool:
        """Whether the write-ahead log is no longer at its path. Then all connections to it are closed:
        what was written last goes into the ledger's file. Only inside the gate.

        Raises: the driver's own errors.
        """
        if not self._is_stale():
            return False
        self._close_stale()
        return True

    def _renew_reader(self) -> None:
        """The same for whoever reads. Inside a transaction things stay as they are until its end."""
        if not self._is_stale():
            return
        if not self.writable:
            self._close_stale()
        elif not self.gate.is_mine():
            self.gate.acquire(self.patience_s)
            try:
                self._close_stale()
            finally:
                self.gate.release()

    def _is_stale(self) -> bool:
        """Whether connections here use a write-ahead log that is gone, or new ones would."""
        if self._log is not None:
            return not self._log.is_in_place()
        logs = [other._log for other in self._alike()]
        return any(log is not None and not log.is_in_place() for log in logs)

    def _alike(self) -> list[Connections]:
        """Those of this process that are open on the same file, itself among them."""
        return [other for other in list(_ALL) if other._identity == self._identity]

    def _close_stale(self) -> None:
        # All of the process, because they share what the library knows of the file, and of the log that
        # is gone. Nobody is inside a transaction: the gate is held here.
        for other in self._alike():
            with other._read_lock.lock:
                stale = (other._reader, other._writer)
                other._reader = other._writer = None
                other._let_go_of_log()
                for connection in stale:
                    if connection is not None:
                        connection.close()

    def _let_go_of_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            log.close()

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
        with self._read_lock.lock:
            self._unusable = self._unusable or f"{self.path} was closed"
            self._close_both()
        self.gate.close()
        _ALL.discard(self)

    def _close_both(self) -> None:
        if self.erasure_pending:
            self.wipe()
        connections = (self._reader, self._writer)
        self._reader = self._writer = None
        self._let_go_of_log()
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
        if self.gate.is_mine() or self._read_lock.is_mine():
            return False
        try:
            if self.gate.pause(FORK_PATIENCE_S) and self._read_lock.take(FORK_PATIENCE_S):
                with contextlib.suppress(LeasebookError):
                    self._close_both()
                return True
        except BaseException:
            self.after_fork_in_parent(True)
            raise
        self.after_fork_in_parent(True)
        return False

    def after_fork_in_parent(self, paused: bool) -> None:
        """End the pause. Safe to call twice."""
        if paused and self._read_lock.is_mine():
            self._read_lock.release()
        if paused and self.gate.is_mine():
            self.gate.resume()

    def after_fork_in_child(self, paused: bool) -> None:
        """Start anew; after a fork in the middle of a call, never again."""
        self._read_lock = OwnedLock()
        self.gate.after_fork_in_child()
        if not paused:
            # The connections are the parent's, which is in the middle of using them. To close them
            # here would harm it, so they are kept for ever and never used.
            _KEPT_OPEN.extend((self._reader, self._writer))
            self._reader = self._writer = None
            self._let_go_of_log()
            self._unusable = f"the process forked in the middle of a transaction on {self.path}"


# A SQLite connection that is carried over a fork corrupts what it writes, and even a new one in the
# child would share the library's notes on which locks it holds (https://sqlite.org/howtocorrupt.html
# "Carrying an open database connection across a fork"). So every log closes its files before.
_ALL: weakref.WeakSet[Connections] = weakref.WeakSet()
_KEPT_OPEN: list[sqlite3.Connection | None] = []
_forking: dict[int, dict[Connections, bool]] = {}
"""Forking thread → its logs, and whether they could be paused. Several threads may fork at once."""


def _before_fork() -> None:
    """Pause every log that is not paused yet: once before the door is shut, and once after it."""
    found = _forking.setdefault(threading.get_ident(), {})
    interruption = None
    for connections in list(_ALL):
        if connections not in found:
            try:
                found[connections] = connections.before_fork()
            except BaseException as error:
                # The interpreter goes on with the fork, whatever is raised here.
                found[connections] = False
                interruption = error
    if interruption is not None:
        raise interruption


def _after_fork_in_parent() -> None:
    try:
        _end_pauses()
    except BaseException:
        # Interrupted (Ctrl-C): nobody else would end them.
        _end_pauses()
        raise


def _end_pauses() -> None:
    found = _forking.get(threading.get_ident(), {})
    for connections, paused in found.items():
        connections.after_fork_in_parent(paused)
    _forking.pop(threading.get_ident(), None)


def _after_fork_in_child() -> None:
    found = _forking.get(threading.get_ident(), {})
    for connections in list(_ALL):
        connections.after_fork_in_child(found.get(connections, False))
    _forking.clear()


when_shut(_before_fork)
os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
