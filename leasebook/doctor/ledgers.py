"""The doctor's checks of one ledger: its SQLite, file, permissions, clock, alerts and growth."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from leasebook.doctor.finding import Finding, Level, guarded, size
from leasebook.when import rfc3339
from ledger import clock as clocks
from ledger.errors import LeasebookError, NotALedger
from ledger.log import Head

SUFFIXES: Final = ("", "-wal", "-shm", "-journal", ".gate", ".wake", ".views.db", ".views.db-wal")
"""What may lie at a ledger's path: the file itself, and its companions."""

GROWTH_DAYS: Final = 7
DAY_NS: Final = 86_400_000_000_000
EVENTS_MIN: Final = 1_000
"""Below this many events a file's size says more about empty pages than about events."""

FREE_BYTES_BAD: Final = 16 * 2**20
FREE_BYTES_WARN: Final = 512 * 2**20
DAYS_LEFT_WARN: Final = 30

_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_LAYERED: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_WAL_VERSIONS: Final = b"\x02\x02"


def sqlite() -> Iterator[Finding]:
    """The SQLite that is used, and whether its write-ahead log can be trusted."""
    from ledger.sqlite_driver import SQLITE_VERSION, sqlite3, wal_reset_bug

    driver = sqlite3.__name__.partition(".")[0]
    faulty = wal_reset_bug()
    facts = {"version": SQLITE_VERSION, "driver": driver, "wal_reset_bug": faulty}
    said = f"SQLite {SQLITE_VERSION} of {driver}"
    if not faulty:
        yield Finding("sqlite", "ok", f"{said}, free of the WAL-reset bug", "", facts)
        return
    yield Finding(
        "sqlite",
        "warn",
        f"{said} may damage a write-ahead log that several connections write (the WAL-reset bug);"
        " ledgers use a slower rollback journal instead",
        "install pysqlite3 0.6.1 or later, or SQLite 3.51.3 or later",
        facts,
    )


def examine_ledger(path: Path) -> list[Finding]:
    """All findings about the ledger at a path, in reading order. Raises nothing."""
    from ledger.sqlite_file import locate
    from ledger.sqlite_log import SqliteLog

    findings = guarded("file system", lambda: file_system(path))
    log: SqliteLog | None = None
    try:
        # Raises where the path leads nowhere, which is not the same as a ledger yet to come.
        real, _ = locate(path)
        if not real.exists():
            hint = "the first command that opens a pool begins it, or give --ledger"
            findings.append(Finding("ledger", "note", f"there is no ledger at {path} yet", hint))
        else:
            log = SqliteLog.open(path, read_only=True, patience_s=2.0)
    except NotALedger as error:
        return [*findings, Finding("ledger", "bad", error.message, error.hint)]
    except (LeasebookError, OSError) as error:
        hint = error.hint if isinstance(error, LeasebookError) else ""
        findings.append(Finding("ledger", "bad", f"it cannot be opened: {error}", hint))
    findings += guarded("permissions", lambda: permissions(path))
    if log is None:
        return findings + guarded("clock", lambda: wall_clock(None))
    try:
        what_is_in_it = guarded("ledger", lambda: record(log))
        findings += what_is_in_it
        findings += guarded("gate", lambda: gate(log.path))
        if all("could not be examined" not in finding.message for finding in what_is_in_it):
            findings += guarded("clock", lambda: wall_clock(log))
            findings += guarded("projections", lambda: projections(log.path))
            findings += guarded("alerts", lambda: alerts(log))
            findings += guarded("growth", lambda: growth(log))
    finally:
        log.close()
    return findings


def file_system(path: Path) -> Iterator[Finding]:
    """Whether a ledger may lie there, would survive a reboot, and has room to grow."""
    from ledger.filesystem import is_network, kind_of

    kind = kind_of(path)
    place = path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    facts = {"path": str(path), "type": kind or None, "free_bytes": free}
    said = f"{path} lies on {kind or 'a file system of unknown type'}, {size(free)} free"
    level: Level = "ok"
    hint = ""
    if is_network(kind):
        level = "bad"
        said += "; locks between machines are not reliable there, so it is refused"
        hint = "put the ledger on a local disk"
    elif free < FREE_BYTES_BAD:
        level, hint = "bad", "free some space: the ledger will soon refuse to write"
    elif kind in _VOLATILE:
        level, hint = "warn", "put the ledger on a disk, unless it may be forgotten"
        said += "; it is memory, gone after a reboot"
    elif free < FREE_BYTES_WARN:
        level, hint = "warn", "free some space"
    elif kind in _LAYERED:
        level, hint = "note", "put the ledger on a volume, if it is to outlive the container"
        said += "; it is a container's own layer, gone with the container"
    yield Finding("file system", level, said, hint, facts)


def permissions(path: Path) -> Iterator[Finding]:
    """Whether the ledger, what lies beside it, and the keys are their owner's only."""
    from leasebook.settings import key_directory

    keys = key_directory()
    places = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    places += [keys, *(sorted(keys.iterdir()) if keys.is_dir() else [])]
    looked = 0
    sound = True
    for place in places:
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            sound = False
            yield Finding("permissions", "warn", f"{place} cannot be looked at: {error.strerror}")
            continue
        looked += 1
        for finding in _too_open(place, found, secret=keys in (place, place.parent)):
            sound = False
            yield finding
    if path.parent.is_dir():
        found = path.parent.stat()
        shared = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if shared:
            sound = False
            yield Finding(
                "permissions",
                "bad",
                f"the folder {path.parent} can be written by others, who could replace the ledger",
                f"chmod go-w {path.parent}",
                {"path": str(path.parent), "mode": f"{stat.S_IMODE(found.st_mode):04o}"},
            )
    if sound and looked:
        yield Finding("permissions", "ok", f"{looked} files and folders are their owner's only")


def _too_open(place: Path, found: os.stat_result, *, secret: bool) -> Iterator[Finding]:
    mode = stat.S_IMODE(found.st_mode)
    facts = {"path": str(place), "mode": f"{mode:04o}", "owner": found.st_uid}
    own = "700" if stat.S_ISDIR(found.st_mode) else "600"
    if mode & 0o077:
        what = "written" if mode & 0o022 else "read"
        level: Level = "bad" if mode & 0o022 or secret else "warn"
        yield Finding(
            "permissions",
            level,
            f"{place} can be {what} by others (mode {mode:04o})",
            f"chmod {own} {place}",
            facts,
        )
    if found.st_uid not in (os.geteuid(), 0) and os.geteuid() == 0:
        yield Finding("permissions", "note", f"{place} is of user {found.st_uid}", "", facts)
    elif found.st_uid != os.geteuid():
        yield Finding(
            "permissions",
            "warn",
            f"{place} is of user {found.st_uid}, not yours (user {os.geteuid()})",
            f"have it handed over: chown {os.geteuid()} {place}",
            facts,
        )


def record(log: Any) -> Iterator[Finding]:
    """What the file holds, whether it can be written here, and how it keeps its journal."""
    from ledger.sqlite_driver import wal_reset_bug
    from ledger.sqlite_file import why_unwritable, why_wrong_format

    head: Head = log.head()
    mode = log.journal_mode()
    facts = {
        "path": str(log.path),
        "format": log.format,
        "events": head.position,
        "bytes": log.size_bytes(),
        "journal_mode": mode,
        "last_recorded_at": rfc3339(head.recorded_at or None),
    }
    last = facts["last_recorded_at"]
    said = f"{log.path}: {head.position:,} events" + (f", the last at {last}" if last else "")
    faults = [] if why_wrong_format(log.path, log.format) else log.schema_faults()
    if faults:
        yield Finding(
            "ledger",
            "bad",
            f"the file no longer guards its events itself: {', '.join(faults)}",
            "find out who changed it, run `leasebook verify`, and restore a backup",
            {"path": str(log.path), "faults": faults},
        )
    why = why_wrong_format(log.path, log.format) or why_unwritable(log.path)
    if why is not None:
        yield Finding("ledger", "warn", why[0], why[1], facts)
    elif mode == "wal" and wal_reset_bug():
        said += "; it is in WAL mode, which this SQLite may damage"
        hint = "close every program that uses it; the next command changes the mode"
        yield Finding("ledger", "bad", said, hint, facts)
    else:
        yield Finding("ledger", "ok", said, "", facts)


def gate(path: Path) -> Iterator[Finding]:
    """Whether the writers' gate can be opened, without which nobody writes; None yet is fine."""
    from ledger.sqlite_file import beside, why_unwritable

    if why_unwritable(path) is not None:
        return  # Nothing is written here anyway, which is said already.
    place = beside(path, ".gate")
    try:
        # As the gate itself opens it, but that it is not made here.
        os.close(os.open(place, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
    except FileNotFoundError:
        return
    except OSError as error:
        said = (
            f"{place} cannot be opened ({error.strerror}), so nothing can be written to the ledger"
        )
        hint = f"chmod 600 {place}, or move it away while nothing uses the ledger"
        yield Finding("gate", "bad", said, hint, {"path": str(place)})


def projections(path: Path) -> Iterator[Finding]:
    """Whether the file of the projections, if there is one, is sound as a database."""
    from projections.engine import views_path
    from projections.views_damage import MAKE_ANEW, damage

    views = views_path(path)
    found = damage(views)
    facts = {"path": str(views), "bytes": views.stat().st_size if views.exists() else None}
    if found is not None:
        said = f"{found}; the ledger itself is not concerned, but reports cannot be made"
        yield Finding("projections", "bad", said, MAKE_ANEW, facts)
    elif views.exists():
        yield Finding("projections", "ok", f"{views} can be read, page by page", "", facts)


def wall_clock(log: Any | None) -> Iterator[Finding]:
    """Whether the wall clock can be believed: against the boot clock, the log, and NTP."""
    reading = clocks.machine_clock()()
    synchronised, error_ns = _ntp()
    facts: dict[str, Any] = {
        "wall": rfc3339(reading.wall),
        "ntp_synchronised": synchronised,
        "ntp_error_s": None if error_ns is None else error_ns / 1e9,
        "jump_s": None,
        "offset_s": None,
    }
    if log is not None:
        note = clocks.unpack(log.gate.read_note())
        tick = clocks.tell(reading, note, log.head().recorded_at)
        facts.update(jump_s=tick.jump_ns / 1e9, offset_s=tick.note.offset / 1e9)
        if tick.jump_ns:
            yield Finding(
                "clock",
                "warn",
                f"the wall clock has jumped by {tick.jump_ns / 1e9:+.0f} s; ledger time goes on by"
                " elapsed time instead",
                "set the clock right, or accept it: leasebook doctor --accept-clock",
                facts,
            )
            return
    said = f"the wall clock says {facts['wall']}"
    if facts["offset_s"]:
        said += f"; ledger time runs {facts['offset_s']:.0f} s ahead of it"
    if synchronised is False:
        said += "; the kernel does not know it to be synchronised"
        yield Finding(
            "clock", "note", said, "run a time service (chrony, systemd-timesyncd)", facts
        )
    else:
        yield Finding("clock", "note" if facts["offset_s"] else "ok", said, "", facts)


def _ntp() -> tuple[bool | None, int | None]:
    """Whether the kernel holds the clock to be synchronised, and its greatest error in ns.

    None where the system does not tell. As adjtimex(2) with ``modes`` 0, which only reads.
    """
    import ctypes
    import sys

    if not sys.platform.startswith("linux"):
        return None, None

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    timex = Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        return None, None
    unsynchronised = bool(timex.status & 0x40) or state == 5
    return not unsynchronised, None if unsynchronised else timex.maxerror * 1000


def alerts(log: Any) -> Iterator[Finding]:
    """What the ledger has raised and nobody has cleared."""
    from ledger.snapshots import Snapshots
    from ledger.writer import Writer

    writer = Writer(log, snapshots=Snapshots(log.path))
    pending: dict[str, Any] = writer.read(lambda book, now: dict(book.alerts))
    for name, raised in pending.items():
        hint = "see `leasebook events --type alert_raised`"
        if name == clocks.CLOCK_ALERT:
            hint = "if the wall clock is right now: leasebook doctor --accept-clock"
        facts = {"alert": name, **raised}
        message = str(raised.get("message") or name)
        yield Finding("alerts", "warn", f"{name}: {message}", hint, facts)
    if not pending:
        yield Finding("alerts", "ok", "no alert is pending")


def growth(log: Any, days: int = GROWTH_DAYS) -> Iterator[Finding]:
    """How fast the ledger grows, from what the last days added and the room an event takes.

    Bytes an event = the file's bytes / all events; a day's growth = that × the events recorded in
    the last ``days`` days / ``days``, or over the ledger's whole life where that is shorter, but at
    least a day: a younger ledger's growth is not known.
    """
    head: Head = log.head()
    bytes_now = log.size_bytes()
    per_event = bytes_now / head.position if head.position >= EVENTS_MIN else None
    first = _recorded_at(log, 1) if head.position else None
    span = 0 if first is None else min(head.recorded_at - first, days * DAY_NS)
    facts: dict[str, Any] = {
        "bytes": bytes_now,
        "bytes_per_event": None if per_event is None else round(per_event),
        "over_days": None,
        "events_per_day": None,
        "bytes_per_day": None,
        "days_left": None,
    }
    if span < DAY_NS:
        said = f"{size(bytes_now)}; too young to tell how fast it grows"
        yield Finding("growth", "ok", said, "", facts)
        return
    events = head.position - _position_at(log, head, head.recorded_at - span)
    a_day = events * DAY_NS / span
    facts.update(over_days=round(span / DAY_NS, 2), events_per_day=round(a_day))
    said = f"{size(bytes_now)}; {a_day:,.0f} events a day"
    level: Level = "ok"
    hint = ""
    if per_event is not None:
        grown = per_event * a_day
        room = os.statvfs(log.path.parent)
        left = room.f_bavail * room.f_frsize / grown if grown else None
        facts.update(bytes_per_day=round(grown), days_left=None if left is None else round(left))
        said += f", {size(grown)} a day at {per_event:,.0f} bytes an event"
        if left is not None and left < DAYS_LEFT_WARN:
            level, hint = "warn", "free some space, or move the ledger to a larger disk"
            said += f"; the disk is full in {left:.0f} days"
    yield Finding("growth", level, said, hint, facts)


def _recorded_at(log: Any, position: int) -> int:
    return next(int(row.recorded_at) for row in log.read(position - 1, position))


def _position_at(log: Any, head: Head, instant: int) -> int:
    """The last position recorded before an instant; recording times only rise, so this bisects."""
    low, high = 0, head.position
    while low < high:
        middle = (low + high + 1) // 2
        if _recorded_at(log, middle) < instant:
            low = middle
        else:
            high = middle - 1
    return low
