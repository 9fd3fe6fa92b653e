"""Proof that a log is whole: positions, digests, the chain, redactions, and earlier heads.

``verify`` reads every payload byte once, in constant memory, and says where the first fault lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import error as StructError
from typing import Any, NamedTuple

from ledger.canonical import loads
from ledger.chain import NO_METADATA, digest_of, link, metadata_hash
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.log import GENESIS, Log, Row


class NotedHead(NamedTuple):
    """A head that was seen earlier and kept elsewhere: the hash (32 bytes) at a position."""

    position: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What ``verify`` found. ``first_bad`` is the first position at fault, None when ``ok``.

    ``events`` counts the rows read up to there, ``head`` is the hash of the last sound one,
    ``redacted`` counts the rows whose metadata was redacted rightly, ``reason`` is one line and
    empty when ``ok``.
    """

    ok: bool
    events: int
    head: bytes
    first_bad: int | None
    redacted: int
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The shape of the contract; ``head`` in hexadecimal."""
        return {
            "ok": self.ok,
            "events": self.events,
            "head": self.head.hex(),
            "first_bad": self.first_bad,
            "redacted": self.redacted,
            "reason": self.reason,
        }


def verify(log: Log, *, notes: Iterable[tuple[int, bytes]] = ()) -> VerifyResult:
    """Check a log from its first position to its last.

    ``notes`` are heads from signed checkpoints or earlier runs: with them it also shows when the
    log's end was cut off, or when everything from some position on was written anew. Each is a
    :class:`NotedHead`, or a plain pair of position and hash.

    Raises: :class:`~ledger.errors.InvalidInput` for a note that cannot be a head,
    :class:`~ledger.errors.LedgerUnavailable` when the log cannot be read; damage is a
    result, not an exception.
    """
    return _Check(log, notes).run()


BEFORE_ALL = -(2**63) - 1
"""Below every position that a store could hold, also those where no event can be."""

SINGLE_STEPS_MAX = 10_000
"""How many rows are read one at a time to find the exact place of a damage."""


class _Fault(Exception):
    """The first fault met while going forward."""

    def __init__(self, position: int, reason: str, hash_: bytes = GENESIS) -> None:
        """``hash_`` is the stored hash of the row at fault."""
        super().__init__(reason)
        self.position = position
        self.reason = reason
        self.hash = hash_


class _Check:
    """One pass over a log."""

    def __init__(self, log: Log, notes: Iterable[tuple[int, bytes]]) -> None:
        self._log = log
        self._noted: dict[int, set[bytes]] = {}
        for position, hash_ in notes:
            if position < 0 or len(hash_) != 32 or (position == 0 and hash_ != GENESIS):
                raise InvalidInput(
                    f"no log ever had the noted head {hash_.hex()} at position {position}",
                    "check where the head was noted",
                )
            self._noted.setdefault(position, set()).add(hash_)
        # Rows without metadata whose digest says that there was some. The proof of their redaction
        # stands further on; until it is met the stored digest is taken for true.
        self._unproven: set[int] = set()
        self._redacted = 0
        self._position = 0
        self._hash = GENESIS

    def run(self) -> VerifyResult:
        rows = _rows(self._log)
        try:
            self._go_forward(rows)
            self._require_noted_end()
        except _Fault as fault:
            self._seek_proofs(rows, fault.hash)
            return self._bad(fault)
        except LedgerCorrupt as error:
            position = error.position or self._position + 1
            self._seek_proofs(self._log.read(position), None)
            return self._bad(_Fault(position, error.message))
        if self._unproven:
            return self._bad(None)
        return VerifyResult(True, self._position, self._hash, None, self._redacted, "")

    def _go_forward(self, rows: Iterator[Row]) -> None:
        last, noted = GENESIS, self._noted
        for position, row in enumerate(rows, 1):
            if row[0] < position:
                reason = f"a row lies at position {row[0]}, where no event can be"
                raise _Fault(position, reason, row[14])
            if row[0] != position:
                raise _Fault(position, f"event {position} is missing; {row[0]} follows", row[14])
            digest = row[13]
            try:
                sound = digest_of(*row[:12], metadata_hash(row[12])) == digest
                following = link(last, digest)
            except _MISFITS:
                sound, following = False, b""
            if not sound and (row[12] is not None or not following):
                reason = f"event {position} was changed: its digest differs"
                raise _Fault(position, reason, row[14])
            if not sound:
                self._unproven.add(position)
            last = following
            if last != row[14]:
                reason = f"event {position} does not follow the one before it: its hash differs"
                raise _Fault(position, reason, row[14])
            self._position, self._hash = position, last
            if row[3] == "redacted" and position not in self._unproven:
                self._believe(row)
            if position in noted:
                self._compare_with_notes(position, last)

    def _compare_with_notes(self, position: int, hash_: bytes) -> None:
        if self._noted.get(position, {hash_}) != {hash_}:
            sound = max((p for p in self._noted if p < position), default=0)
            raise _Fault(
                position,
                f"the hash of event {position} is not the one noted earlier: something from event"
                f" {sound + 1} on was written anew",
                hash_,
            )

    def _require_noted_end(self) -> None:
        beyond = max(self._noted, default=0)
        if beyond > self._position:
            raise _Fault(
                self._position + 1,
                f"the log ends at event {self._position}, but event {beyond} was noted earlier:"
                " its end was cut off",
            )

    def _believe(self, row: Row) -> None:
        """Take a sound ``redacted`` row as proof for the row that it names."""
        sound = [row]
        while sound:
            fact = _fact(sound.pop())
            if fact is None or fact[0] not in self._unproven:
                continue
            for bare in self._log.read(fact[0] - 1, fact[0]):
                if _digest(bare, fact[1]) == bare.digest:
                    self._unproven.discard(fact[0])
                    self._redacted += 1
                    if bare.type == "redacted":
                        sound.append(bare)

    def _seek_proofs(self, rows: Iterator[Row], last: bytes | None) -> None:
        """Look beyond a fault for the redactions of rows before it, so as not to blame those.

        ``last`` is the hash stored at the fault, None where that cannot be read.
        """
        try:
            for row in rows if self._unproven else ():
                whole = _digest(row, NO_METADATA) == row.digest
                follows = last is not None and link(last, row.digest) == row.hash
                if whole and follows and row.type == "redacted":
                    self._believe(row)
                last = row.hash
        except (LedgerCorrupt, *_MISFITS):
            return

    def _bad(self, fault: _Fault | None) -> VerifyResult:
        first = min(self._unproven, default=None)
        if fault is None or (first is not None and first < fault.position):
            assert first is not None
            fault = _Fault(
                first,
                f"event {first} was changed, or its metadata went without a redaction: its digest"
                " differs",
            )
        before = fault.position - 1
        head = GENESIS
        try:
            for row in self._log.read(before - 1, before) if before else ():
                head = row.hash
        except LedgerCorrupt:
            head = GENESIS
        return VerifyResult(False, before, head, fault.position, self._redacted, fault.reason)


# What the computation of a digest raises on values that no sound row holds: a schema beyond 32 bits,
# or a damaged cell whose text has become a number.
_MISFITS = (StructError, TypeError, AttributeError, ValueError)


def _digest(row: Row, metadata_sha256: bytes) -> bytes:
    try:
        return digest_of(*row[:12], metadata_sha256)
    except _MISFITS:
        return b""


def _fact(row: Row) -> tuple[int, bytes] | None:
    """What a ``redacted`` row says: the position, and the SHA-256 of what stood there."""
    try:
        data = loads(row.data)
        return int(data["position"]), bytes.fromhex(data["metadata_sha256"])
    except (InvalidInput, KeyError, TypeError, ValueError):
        return None


def _rows(log: Log) -> Iterator[Row]:
    """All rows; before a damaged place one at a time, so that its position is known."""
    after = 0
    try:
        for row in log.read(BEFORE_ALL):
            yield row
            after = row[0]
    except LedgerCorrupt as error:
        damage = error
    else:
        return
    for position in range(after + 1, after + 1 + SINGLE_STEPS_MAX):
        try:
            row_here = list(log.read(position - 1, position))
        except LedgerCorrupt as error:
            raise LedgerCorrupt(error.message, error.hint, position=position) from error
        if not row_here:
            break
        yield from row_here
    raise LedgerCorrupt(damage.message, damage.hint)
