"""The spool: what a run could not record, kept until a ledger takes it.

One JSON object a line, in a file of its owner's only, under the user's state directory and not
beside the ledger: a ledger that cannot be written is often on a disk that cannot be. The next run
that can use the ledger records what is there, and so does a sweep (:func:`record_spooled`).

Two kinds. *unfinished*: a run whose allocation is in the ledger, but not its use or its release;
both are recorded as they are, under their own command ids, so that twice is once. *unrecorded*: a
run that went on without an allocation (``--if-unavailable proceed``). It held nothing, so nothing
is allocated after the fact, which would put a false grant into the record. It becomes an alert with
the facts in it (program's name, when, use, exit code), raised and cleared at once: the log tells of
it for ever and nobody has to clear it by hand.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leasebook.settings import state_directory
from ledger.commands import ClearAlert, RaiseAlert
from ledger.errors import (
    LeasebookError,
    LedgerCorrupt,
    LedgerUnavailable,
    LimitExceeded,
    Refused,
)

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager

LINE_BYTES_MAX: Final = 64 * 1024
BYTES_MAX: Final = 16 * 1024 * 1024
"""How much is kept; past it a run says that it could not be kept."""

Json = dict[str, Any]


class SpoolUnusable(LedgerUnavailable):
    """The spool itself cannot be used; the ledger may be in the best of health."""


def spool_path() -> Path:
    """Where the spool lies."""
    return state_directory() / "spool.jsonl"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the spool's lock. Raises OSError where the folder cannot be used."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """All of the data, on disk. A disk that fills up takes a part of it and says nothing."""
    while data:
        written = os.write(fd, data)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]
    os.fsync(fd)


def _append(fd: int, line: bytes) -> None:
    """Add a line at the end of a file: whole or not at all."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        # A crash cut the last one off. It must not take this one with it.
        line = b"\n" + line
    try:
        _write(fd, line)
    except OSError:
        os.ftruncate(fd, size)
        raise


def add(entry: Json) -> None:
    """Keep an entry, on disk when this returns.

    Raises SpoolUnusable where it cannot be written, LimitExceeded where the spool is full.
    """
    line = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    path = spool_path()
    try:
        with _locked(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                full = os.fstat(fd).st_size + len(line) > BYTES_MAX
                if full or len(line) > LINE_BYTES_MAX:
                    raise LimitExceeded(
                        f"the spool {path} takes no more", "see why its ledgers cannot be written"
                    )
                _append(fd, line)
            finally:
                os.close(fd)
    except OSError as error:
        raise SpoolUnusable(
            f"the spool {path} cannot be written ({error.strerror})", "check the disk"
        ) from error


def record_spooled(manager: ResourceManager) -> int:
    """Record what was spooled for this manager's ledger; how many entries that was.

    Safe to run twice and at once. Raises LedgerUnavailable or LedgerCorrupt when the ledger fails
    meanwhile; what it has not taken stays spooled. Raises SpoolUnusable when the spool fails.
    """
    path, ledger = spool_path(), manager.ledger.path
    if ledger is None or not path.exists():
        return 0
    try:
        with _locked(path):
            lines = path.read_bytes().splitlines()
            ours, others = _split(lines, os.path.realpath(ledger))
            if not ours:
                return 0
            _record(manager, ours)
            _rewrite(path, others)
    except OSError as error:
        raise SpoolUnusable(
            f"the spool {path} cannot be used ({error.strerror})", "check the disk"
        ) from error
    return len(ours)


def _split(lines: Sequence[bytes], ledger: str) -> tuple[list[Json], list[bytes]]:
    """Entries for a ledger, and the lines of others. A line that a crash cut off tells nothing."""
    ours, others = [], []
    for line in lines:
        try:
            entry = json.loads(line)
            mine = os.path.realpath(entry["ledger"]) == ledger
        except (ValueError, TypeError, KeyError):
            continue
        if mine:
            ours.append(entry)
        else:
            others.append(line)
    return ours, others


def _rewrite(path: Path, lines: Sequence[bytes]) -> None:
    if not lines:
        path.unlink()
        return
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, b"\n".join(lines) + b"\n")
    finally:
        os.close(fd)
    fresh.replace(path)


def _record(manager: ResourceManager, entries: Sequence[Json]) -> None:
    for entry in entries:
        try:
            if entry["kind"] == "unfinished":
                _record_unfinished(manager, entry)
            else:
                _record_unrecorded(manager, entry)
        except (LedgerUnavailable, LedgerCorrupt):
            raise
        except (LeasebookError, KeyError, TypeError):
            # What the ledger will never take (the allocation is not there) is not kept for ever.
            continue


def _record_unfinished(manager: ResourceManager, entry: Json) -> None:
    for usage in entry["usages"]:
        manager.record_usage(
            entry["allocation"],
            **usage,
            tenant=entry["tenant"],
            command_id=f"run-{entry['allocation']}-usage-{usage['since']}",
        )
    with contextlib.suppress(Refused):
        manager.release(
            entry["allocation"],
            holder=entry["holder"],
            token=entry["token"],
            tenant=entry["tenant"],
            command_id=f"run-{entry['allocation']}-release",
        )


def _record_unrecorded(manager: ResourceManager, entry: Json) -> None:
    name = f"unrecorded run {entry['id']}"
    facts = {k: v for k, v in entry.items() if k not in ("id", "kind", "ledger") and v is not None}
    writer = manager.ledger.writer
    writer.execute(
        RaiseAlert(
            command_id=f"spool-{entry['id']}",
            alert=name,
            message=f"{entry['program']} ran without an allocation: {entry['why']}",
            details=facts,
        )
    )
    writer.execute(
        ClearAlert(
            command_id=f"spool-{entry['id']}-clear",
            alert=name,
            by=entry["holder"],
            reason="it is on record; the run is over",
        )
    )
