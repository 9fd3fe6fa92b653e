"""A copy of a ledger while it is in use: consistent, checked, and never half a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import InvalidInput, LedgerCorrupt, LedgerUnavailable
from ledger.forks import no_fork
from ledger.log import Head
from ledger.sqlite_driver import connect, translated
from ledger.sqlite_file import beside, sync_folder
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify


@dataclass(frozen=True, slots=True)
class BackupResult:
    """A backup that was made: where, how far it reaches, and its size."""

    path: Path
    head: Head
    size_bytes: int


def backup(path: str | os.PathLike[str], dest: str | os.PathLike[str]) -> BackupResult:
    """Copy the ledger at ``path`` to a new file ``dest``, readable by its owner only.

    Writers go on meanwhile; the copy is the ledger as it was at one moment. It is one file, without
    a write-ahead log, and is checked like any ledger before it gets its name. Nothing is ever
    overwritten.

    Raises: :class:`~ledger.errors.InvalidInput` when ``dest`` exists,
    :class:`~ledger.errors.LedgerCorrupt` when the ledger is damaged (no backup is left then),
    :class:`~ledger.errors.LedgerUnavailable` when it cannot be read or the copy not written.
    """
    with SqliteLog.open(path) as log:
        return copy_checked(log, Path(os.path.abspath(dest)), _require_whole)


def copy_checked(log: SqliteLog, dest: Path, check: Callable[[SqliteLog], None]) -> BackupResult:
    """As :func:`backup`, for an open log; ``check`` raises when the copy is not to be kept."""
    _require_new(dest)
    try:
        fd, name = tempfile.mkstemp(prefix=f".{dest.name}.", suffix=".part", dir=dest.parent)
    except OSError as error:
        raise _failed(dest, error) from error
    os.close(fd)
    part = Path(name)
    try:
        _copy(log, part, dest)
        with SqliteLog.open(part, read_only=True) as copy:
            check(copy)
            head = copy.head()
        size = part.stat().st_size
        _publish(part, dest)
    except OSError as error:
        raise _failed(dest, error) from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            beside(part, suffix).unlink(missing_ok=True)
    return BackupResult(dest, head, size)


def _copy(log: SqliteLog, part: Path, dest: Path) -> None:
    with no_fork(), translated(dest):
        target = connect(part)
        try:
            target.execute("PRAGMA synchronous = FULL")
            log.copy_into(target)
            # Without a write-ahead log the copy is one file, which a read-only medium can hold.
            target.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            target.close()
    fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _publish(part: Path, dest: Path) -> None:
    """Give the finished copy its name, without ever replacing another file."""
    try:
        os.link(part, dest)
    except FileExistsError:
        _require_new(dest)
    except OSError:
        # Some file systems have no hard links. The moment between look and rename is then open.
        _require_new(dest)
        os.rename(part, dest)
    sync_folder(dest.parent)


def _require_new(dest: Path) -> None:
    if os.path.lexists(dest):
        raise InvalidInput(f"{dest} exists already", "choose another name for the backup")


def _require_whole(copy: SqliteLog) -> None:
    result = verify(copy)
    if not result.ok:
        raise LedgerCorrupt(
            f"the backup was not kept, because the ledger is damaged: {result.reason}",
            "run `leasebook verify`, and restore from an older backup",
            position=result.first_bad,
        )


def _failed(dest: Path, error: OSError) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"the backup {dest} cannot be written ({error.strerror})",
        "check the folder, its permissions and its free space",
    )
