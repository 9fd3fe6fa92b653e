"""Ledger time: wall time that never runs backwards and never believes a jump.

The wall clock is checked against the boot clock, which counts suspended time and cannot be set. A
jump expires nothing: ledger time goes on by elapsed time, an alert is raised, and an operator
accepts. Time in which the machine slept is found as the boot clock's lead over the monotonic one.
The last reading lies in the gate file, so that all processes of a machine share one ledger time. With it
lies how far the log had come by then: a log that ends before that has lost its end, which nothing in
what is left would show.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

JUMP_TOLERANCE_NS = 2_000_000_000
DRIFT_TOLERANCE = 1_000
"""A wall clock that is being slewed may part from the boot clock by one part in this many."""
SLEEP_TOLERANCE_NS = 1_000_000_000
NOTE_AGE_NS = 250_000_000
"""How old a note may grow before it is written anew."""
CLOCK_ALERT = "clock_jumped"
SHORTENED_ALERT = "log_shortened"

_NOTE = Struct(">4sqqqqB36sq32sI")
_MAGIC = b"LBC2"
_NO_HASH = bytes(32)


class Reading(NamedTuple):
    """The machine's clocks at one moment, in ns; ``boot_id`` tells one boot from another."""

    wall: int
    boot: int
    monotonic: int
    boot_id: str


class ClockNote(NamedTuple):
    """The last reading that a ledger's processes share.

    ``ledger_time`` is what it came to; ``offset`` is ledger time less wall time, as accepted;
    ``accept`` tells the next reading to take the wall clock at its word. ``position`` and ``hash`` are
    a head that the log had by then (0: none is noted), ``ledger`` whose (:func:`mark_of`).
    """

    ledger_time: int
    boot: int
    monotonic: int
    offset: int
    accept: bool
    boot_id: str
    position: int = 0
    hash: bytes = _NO_HASH
    ledger: int = 0

    def pack(self) -> bytes:
        """The note as it lies in the gate file."""
        return _NOTE.pack(
            _MAGIC,
            self.ledger_time,
            self.boot,
            self.monotonic,
            self.offset,
            self.accept,
            self.boot_id.encode()[:36],
            self.position,
            self.hash,
            self.ledger,
        )

    def lost(self, ledger_id: str, position: int) -> int:
        """How many events a ledger that ends at a position has lost since this was noted."""
        return max(0, self.position - position) if self.ledger == mark_of(ledger_id) else 0


class Tick(NamedTuple):
    """A reading of ledger time: ``now`` (ns), the note to keep, and what was found.

    ``slept_ns``: nobody could renew for that long. ``jump_ns``: the wall clock jumped by that much
    and was not believed. ``adopted_ns``: a jump forward that an operator accepted.
    """

    now: int
    note: ClockNote
    slept_ns: int = 0
    jump_ns: int = 0
    adopted_ns: int = 0


def unpack(data: bytes) -> ClockNote | None:
    """The note in a gate file, or None where there is none."""
    try:
        magic, ledger_time, boot, monotonic, offset, accept, boot_id, *head = _NOTE.unpack(
            data[: _NOTE.size]
        )
    except StructError:
        return None
    if magic != _MAGIC:
        return None
    text = boot_id.rstrip(b"\0").decode("ascii", "replace")
    return ClockNote(ledger_time, boot, monotonic, offset, bool(accept), text, *head)


def mark_of(ledger_id: str) -> int:
    """What a note knows a ledger by: another one may lie in its place one day."""
    return crc32(ledger_id.encode())


def tell(reading: Reading, note: ClockNote | None, last_recorded_at: int) -> Tick:
    """Ledger time at a reading, given the last note and the log's last ``recorded_at``.

    Pure. Without a note of this boot there is nothing to check against: the wall clock is believed,
    unless it lies behind the log.
    """
    least = last_recorded_at + 1
    if note is None or note.boot_id != reading.boot_id:
        now = max(reading.wall, least)
        behind = now - reading.wall
        offset = behind if behind > JUMP_TOLERANCE_NS else 0
        fresh = ClockNote(now, reading.boot, reading.monotonic, offset, False, reading.boot_id)
        return Tick(now, fresh, jump_ns=-behind if offset else 0)
    elapsed = max(0, reading.boot - note.boot)
    slept = elapsed - max(0, reading.monotonic - note.monotonic)
    expected = note.ledger_time + elapsed
    offset = note.offset
    drift = reading.wall + offset - expected
    jump = adopted = 0
    if abs(drift) <= JUMP_TOLERANCE_NS + elapsed // DRIFT_TOLERANCE:
        now = reading.wall + offset
    elif note.accept:
        now = max(expected, reading.wall)
        adopted = now - expected
        offset = now - reading.wall
    else:
        now, jump = expected, drift
    now = max(now, least, note.ledger_time)
    fresh = ClockNote(now, reading.boot, reading.monotonic, offset, False, reading.boot_id)
    return Tick(now, fresh, slept if slept > SLEEP_TOLERANCE_NS else 0, jump, adopted)


def is_fresh(note: ClockNote | None, tick: Tick) -> bool:
    """Whether the note that a tick was told from does as well as the tick's own.

    Then it need not be written: to one that is a moment older, the next reading comes out the same.
    """
    return (
        note is not None
        and not note.accept
        and 0 <= tick.note.boot - note.boot < NOTE_AGE_NS
        and note.offset == tick.note.offset
        and note.boot_id == tick.note.boot_id
        and not (tick.slept_ns or tick.jump_ns or tick.adopted_ns)
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def machine_clock() -> Callable[[], Reading]:
    """A function that reads this machine's clocks."""
    boot_id = _boot_id()
    boottime = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    read, wall = time.clock_gettime_ns, time.time_ns

    def reading() -> Reading:
        return Reading(wall(), read(boottime), read(time.CLOCK_MONOTONIC), boot_id)

    return reading
