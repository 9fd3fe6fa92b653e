"""Proof that a log is whole: positions, digests, the chain, redactions, and earlier heads.

``verify`` reads every payload byte once, in constant memory, and says where the first fault lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ledger.clock import mark_of, unpack
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.log import GENESIS, Log, Row
from ledger.proving import Fault, Proof


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
    :class:`NotedHead`, or a plain pair of position and hash. The one that lies in the log's gate file
    is looked at in any case.

    Raises: :class:`~ledger.errors.InvalidInput` for a note that cannot be a head,
    :class:`~ledger.errors.LedgerUnavailable` when the log cannot be read; damage is a
    result, not an exception.
    """
    return _Check(log, [*notes, *_noted_beside(log)]).run()


def _noted_beside(log: Log) -> list[NotedHead]:
    """The head that the log's writers left in its gate file, if it is of this ledger."""
    note = unpack(log.gate.read_note())
    if note is None or not note.position:
        return []
    with suppress(LedgerCorrupt, ValueError, KeyError, AttributeError, TypeError):
        for row in log.read(0, 1):
            if mark_of(orjson.loads(row.data)["ledger_id"]) == note.ledger:
                return [NotedHead(note.position, note.hash)]
    return []


BEFORE_ALL = -(2**63) - 1
"""Below every position that a store could hold, also those where no event can be."""

SINGLE_STEPS_MAX = 10_000
"""How many rows are read one at a time to find the exact place of a damage."""


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
        self._proof = Proof(log)

    def run(self) -> VerifyResult:
        rows = _rows(self._log)
        fault: Fault | None = None
        rest: Iterable[Row] = ()
        last: bytes | None = None
        try:
            self._go_forward(rows)
            self._require_noted_end()
        except Fault as found:
            fault, rest, last = found, rows, found.hash
        except LedgerCorrupt as error:
            fault = Fault(error.position or self._proof.position + 1, error.message)
            rest = self._log.read(fault.position)
        fault = self._proof.first_fault(fault, rest, last)
        if fault is not None:
            return self._bad(fault)
        proof = self._proof
        return VerifyResult(True, proof.position, proof.hash, None, proof.redacted, "")

    def _go_forward(self, rows: Iterator[Row]) -> None:
        proof, noted = self._proof, self._noted
        take = proof.take
        for row in rows:
            take(row)
            if noted and proof.position in noted:
                self._compare_with_notes(proof.position, proof.hash)

    def _compare_with_notes(self, position: int, hash_: bytes) -> None:
        if self._noted.get(position, {hash_}) != {hash_}:
            sound = max((p for p in self._noted if p < position), default=0)
            raise Fault(
                position,
                f"the hash of event {position} is not the one noted earlier: something from event"
                f" {sound + 1} on was written anew",
                hash_,
            )

    def _require_noted_end(self) -> None:
        beyond = max(self._noted, default=0)
        if beyond > self._proof.position:
            raise Fault(
                self._proof.position + 1,
                f"the log ends at event {self._proof.position}, but event {beyond} was noted earlier:"
                " its end was cut off",
            )

    def _bad(self, fault: Fault) -> VerifyResult:
        before = fault.position - 1
        head = GENESIS
        try:
            for row in self._log.read(before - 1, before) if before else ():
                head = row.hash
        except LedgerCorrupt:
            head = GENESIS
        return VerifyResult(False, before, head, fault.position, self._proof.redacted, fault.reason)


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
