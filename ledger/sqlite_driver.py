"""The SQLite that is used, and what its errors mean here: the one place where they are translated.

Everything in the house that speaks to SQLite imports ``sqlite3`` from this module, so that one
process never mixes two copies of the library on one file (their locks would not see each other).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import quote

from ledger.errors import LeasebookError, LedgerCorrupt, LedgerReadOnly, LedgerUnavailable
from ledger.gate import PATIENCE_S

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        # The bundled library is newer than most systems' own, and free of the bug below.
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        import sqlite3

__all__ = [
    "DRIVER_ERRORS",
    "SQLITE_VERSION",
    "WAL_INDEX_BYTES",
    "connect",
    "is_full",
    "sqlite3",
    "translate",
    "translated",
    "wal_reset_bug",
]

SQLITE_VERSION: str = sqlite3.sqlite_version

_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT = 5, 6, 8, 10, 11
_FULL, _CANTOPEN, _PROTOCOL, _TOOBIG, _CONSTRAINT, _NOTADB = 13, 14, 15, 18, 19, 26
_IOERR_CORRUPTFS = 8458

WAL_INDEX_BYTES = 32 * 1024
"""What the index of a write-ahead log takes on disk at least, also for reading."""

_DAMAGE_TEXTS = ("decode to UTF-8", "unsupported file format")
_CODE_OF_TEXT = (
    ("locked", _BUSY),
    ("readonly", _READONLY),
    ("malformed", _CORRUPT),
    ("not a database", _NOTADB),
    ("disk is full", _FULL),
    ("disk I/O", _IOERR),
    ("unable to open", _CANTOPEN),
    ("too big", _TOOBIG),
)


def wal_reset_bug(version: str = SQLITE_VERSION) -> bool:
    """Whether a SQLite version may corrupt a WAL file that two connections write.

    Affected are 3.7.0 to 3.51.2, except for the backports from 3.44.6 on in the 3.44 series and
    from 3.50.7 on in the 3.50 series (https://sqlite.org/wal.html, "The WAL-Reset Bug").
    """
    parts = tuple(int(part) for part in version.split(".")[:3])
    number = parts + (0,) * (3 - len(parts))
    if number[:2] == (3, 44):
        return number < (3, 44, 6)
    if number[:2] == (3, 50):
        return number < (3, 50, 7)
    return (3, 7, 0) <= number < (3, 51, 3)


def connect(
    path: Path,
    *,
    read_only: bool = False,
    immutable: bool = False,
    patience_s: float = PATIENCE_S,
) -> sqlite3.Connection:
    """Open a database file that exists, in autocommit, with the pragmas that every use shares.

    The connection may be handed from thread to thread; its user takes care that one thread uses it
    at a time. ``immutable`` promises SQLite that nobody writes meanwhile, so that it needs no lock
    and no file beside the database.

    Raises: the driver's own errors; use it inside :class:`translated`.
    """
    mode = "ro&immutable=1" if immutable else "ro" if read_only else "rw"
    connection = sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode={mode}",
        uri=True,
        timeout=patience_s,
        isolation_level=None,
        check_same_thread=False,
    )
    for pragma in (
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",
        "mmap_size = 0",
    ):
        connection.execute("PRAGMA " + pragma).close()
    return connection


DRIVER_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What the driver raises; the second where damaged text stands in what it wants to say."""


def _code_of(error: Exception) -> int:
    if isinstance(error, UnicodeDecodeError):
        return _CORRUPT
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code
    text = str(error)
    return next((number for part, number in _CODE_OF_TEXT if part in text), 0)


def is_full(path: Path) -> bool:
    """Whether the disk has no room for the index of a write-ahead log, which reading takes too."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < WAL_INDEX_BYTES


def translate(error: Exception, path: Path, *, held_by: Callable[[], str] = str) -> LeasebookError:
    """The exception of the house for one of :data:`DRIVER_ERRORS`.

    ``held_by`` tells who holds the lock; it is asked only when the error is about one.
    """
    extended = _code_of(error)
    code = extended & 0xFF
    if code in (_BUSY, _LOCKED, _PROTOCOL):
        return LedgerUnavailable(
            f"{path} is locked by {held_by() or 'another program'}",
            "end that program or its transaction, then try again",
        )
    odd = any(part in str(error) for part in _DAMAGE_TEXTS)
    if code in (_CORRUPT, _NOTADB, _TOOBIG) or extended == _IOERR_CORRUPTFS or odd:
        return LedgerCorrupt(
            f"{path} is damaged ({error})",
            "keep the file as it is, run `leasebook verify`, and restore from a backup",
        )
    if code == _FULL or (code == _IOERR and is_full(path)):
        return LedgerUnavailable(
            f"no space left on the disk of {path}; nothing was recorded",
            "free disk space and try again",
        )
    if code == _READONLY:
        return LedgerReadOnly(
            f"{path} cannot be written ({error})",
            "check the permissions of the file and its folder",
        )
    if code == _IOERR:
        return LedgerUnavailable(
            f"the disk failed while using {path} ({error}); nothing was recorded",
            "check the disk and its free space, then try again",
        )
    if code == _CANTOPEN:
        return LedgerUnavailable(
            f"{path} cannot be opened ({error})",
            "check the permissions of the file and its folder; on a read-only medium, copy it together"
            " with its -wal file to a folder that can be written",
        )
    if code == _CONSTRAINT:
        return LedgerCorrupt(
            f"{path} refused a change that would break the record ({error})",
            "nothing was recorded; this is a fault in the program, please report it",
        )
    if str(error).startswith("no such "):
        return LedgerCorrupt(f"{path} lacks a part of a ledger ({error})", "restore from a backup")
    return LedgerUnavailable(f"SQLite failed on {path}: {error}", "try again, and report it")


class translated:
    """A context in which the driver's errors leave as the house's: ``with translated(path): …``."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, DRIVER_ERRORS):
            raise translate(error, self._path) from error
