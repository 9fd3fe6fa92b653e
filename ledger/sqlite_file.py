"""The ledger's file: finding it, telling it from other files, creating it, and who may write it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ledger import sqlite_schema
from ledger.errors import LedgerCorrupt, LedgerReadOnly, LedgerUnavailable, NotALedger
from ledger.filesystem import require_local
from ledger.forks import no_fork
from ledger.gate import Gate
from ledger.sqlite_driver import (
    SQLITE_VERSION,
    WAL_INDEX_BYTES,
    connect,
    is_full,
    sqlite3,
    translated,
    wal_reset_bug,
)

_MAGIC = b"SQLite format 3\x00"
_APPLICATION_ID_AT = 68
_WAL_VERSIONS_AT = 18


def beside(path: Path, suffix: str) -> Path:
    """The file that belongs to a ledger: its name and a suffix (``-wal``, ``.gate``)."""
    return path.with_name(path.name + suffix)


def locate(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
    """The file that a path leads to, links resolved, and its stat; None where nothing is yet.

    An empty file counts as nothing yet.

    Raises: :class:`~ledger.errors.NotALedger` for anything that cannot be a ledger,
    :class:`~ledger.errors.LedgerCorrupt` for a ledger whose first bytes are damaged,
    :class:`~ledger.errors.LedgerUnavailable` when it cannot be looked at.
    """
    real = Path(os.path.realpath(path))
    try:
        os.fspath(real).encode()
    except UnicodeEncodeError:
        raise NotALedger(
            f"{os.fspath(real)!a} is no name for a ledger: it is not UTF-8", "choose another name"
        ) from None
    try:
        found = real.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
            raise NotALedger(f"{real} is {kind}, not a ledger", "name a file")
        require_local(real)
        if not found.st_size:
            return real, None
        with real.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        require_local(real)
        return real, None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise LedgerUnavailable(
            f"{real} cannot be read ({why})", "check the path and its permissions"
        ) from error
    if not header.startswith(_MAGIC):
        if _application_id(header) == sqlite_schema.APPLICATION_ID:
            raise LedgerCorrupt(f"{real} is a ledger with a damaged header", "restore a backup")
        raise _not_a_ledger(real, "it is no SQLite database")
    return real, found


def _application_id(header: bytes) -> int:
    return int.from_bytes(header[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4], "big")


def _not_a_ledger(path: Path, why: str) -> NotALedger:
    return NotALedger(f"{path} is not a ledger: {why}", "check the path")


def require_ledger(path: Path, application_id: int) -> None:
    """Refuse a database whose header says that another program made it.

    Raises: :class:`~ledger.errors.NotALedger`.
    """
    if application_id != sqlite_schema.APPLICATION_ID:
        raise _not_a_ledger(path, "it is another program's SQLite database")


def why_wrong_format(path: Path, format_: int) -> tuple[str, str] | None:
    """Why a ledger of this format is not written, and what to do; None for the present one."""
    ours = sqlite_schema.FORMAT
    if format_ < ours:
        return (
            f"{path} is in format {format_}; this program writes format {ours}",
            "run `leasebook upgrade`",
        )
    if format_ > ours:
        return (
            f"{path} is in format {format_}, newer than this program's {ours}: it can only be read",
            "use a newer Leasebook",
        )
    return None


def why_unwritable(path: Path) -> tuple[str, str] | None:
    """Why this process may not write the file, and what to do; None when it may."""
    for place in (path, path.parent):
        if not _writable(place):
            return (
                f"{path} can only be read: no permission to write {place}",
                "ask its owner, or use another ledger",
            )
    return None


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, effective_ids=effective)


def needs_immutable(path: Path) -> bool:
    """Whether the file can only be read by promising SQLite that nobody writes it.

    So it is for a file in WAL mode in a place where SQLite cannot make its two companions, as on a
    read-only medium or a full disk. Where a write-ahead log holds something, or is in use, the
    promise would be a lie.
    """
    wal = beside(path, "-wal")
    if wal.exists() and (wal.stat().st_size or _is_indexed(path)):
        return False
    if _writable(path.parent) and not is_full(path):
        return False
    with path.open("rb") as file:
        return file.read(100)[_WAL_VERSIONS_AT : _WAL_VERSIONS_AT + 2] == b"\x02\x02"


def _is_indexed(path: Path) -> bool:
    """Whether there is an index of the write-ahead log. A full disk leaves a few bytes of one."""
    try:
        size = beside(path, "-shm").stat().st_size
    except FileNotFoundError:
        return False
    return size >= WAL_INDEX_BYTES or not is_full(path)


def create_file(path: Path, patience_s: float) -> None:
    """Make an empty ledger where there is none, readable by its owner only. Safe to race.

    Raises: :class:`~ledger.errors.LedgerUnavailable` when it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        gate = Gate(beside(path, ".gate"))
        gate.acquire(patience_s)
        try:
            _create_in_gate(path, patience_s)
        finally:
            gate.release()
            gate.close()
    except OSError as error:
        raise LedgerUnavailable(
            f"no ledger can be made at {path} ({error.strerror})",
            "check the folder's permissions and free space, or choose another path",
        ) from error
    except LedgerReadOnly as error:
        raise LedgerUnavailable(
            f"no ledger can be made at {path}: {error.message}", error.hint
        ) from error


def _create_in_gate(path: Path, patience_s: float) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size:
            return
        # SQLite gives its companion files the mode of this one.
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
    with no_fork(), translated(path):
        connection = connect(path, patience_s=patience_s)
        try:
            # The first transaction goes into the file itself, not into a write-ahead log, so that
            # the header shows what the file is from its first moment on.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            sqlite_schema.create(connection)
            connection.execute("COMMIT")
            choose_journal(connection)
        finally:
            connection.close()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder as durable as the files behind them.

    Raises: ``OSError``.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def choose_journal(connection: sqlite3.Connection, version: str = SQLITE_VERSION) -> str:
    """Put a writing connection on the write-ahead log, or off it where it cannot be trusted.

    Returns the journal mode that holds then. While other connections use the file the mode cannot
    change; it stays as it is, and the next one to open the ledger alone changes it.
    """
    wanted = "truncate" if wal_reset_bug(version) else "wal"
    mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    if mode == wanted:
        return mode
    patience_ms = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        return str(connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()[0])
    except sqlite3.OperationalError:
        return mode
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
