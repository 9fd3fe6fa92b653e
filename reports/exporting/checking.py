"""Checking rows as they are exported: what was tampered with must not leave as if it were the record.

Each row is compared with its digest and its hash with the row before, as :mod:`ledger.verify` does it.
What that cannot see from the rows alone (a record cut off at its end, or written anew as a whole)
takes a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import error as StructError

import orjson

from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import LedgerCorrupt
from ledger.log import Row
from projections.past import Readable

HINT = (
    "run `leasebook verify`, keep the file as it is, and compare it with a backup; --until and --after"
    " export what lies before and behind it"
)
_MISFITS = (StructError, TypeError, AttributeError, ValueError, OverflowError)


class Checked:
    """Rows in order after a position, each checked before it is passed on.

    ``before`` is the hash of the event at ``after``. A row whose metadata was erased is proven by its
    redaction, which stands further on in ``log``; where it is not met by the end it is looked for.
    """

    def __init__(self, log: Readable, after: int, before: bytes) -> None:
        self._log = log
        self._position = after
        self._hash = before
        self._unproven: set[int] = set()

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows themselves. Raises LedgerCorrupt, whose ``position`` is the first at fault."""
        try:
            for row in rows:
                self._take(row)
                yield row
        except LedgerCorrupt:
            self._require_proofs()
            raise
        self._require_proofs()

    def _take(self, row: Row) -> None:
        position = self._position + 1
        if row.position != position:
            raise _fault(position, f"event {position} is missing; {row.position} follows")
        try:
            following = link(self._hash, row.digest)
            sound = digest_of(*row[:12], metadata_hash(row.metadata)) == row.digest
        except _MISFITS:
            sound, following = False, b""
        if not sound and (row.metadata is not None or not following):
            raise _fault(position, f"event {position} was changed: its digest differs")
        if following != row.hash:
            said = f"event {position} does not follow the one before it: its hash differs"
            raise _fault(position, said)
        if not sound:
            self._unproven.add(position)
        elif row.type == "redacted":
            self._believe(row)
        self._position, self._hash = position, following

    def _believe(self, row: Row) -> None:
        """Take a sound redaction as proof for the row that it names."""
        waiting = [row]
        while waiting:
            try:
                data = orjson.loads(waiting.pop().data)
                position, erased = int(data["position"]), bytes.fromhex(data["metadata_sha256"])
            except (*_MISFITS, KeyError):
                continue
            if position not in self._unproven:
                continue
            for bare in self._log.read(position - 1, position):
                if _fits(bare, erased):
                    self._unproven.discard(position)
                    waiting += [bare] if bare.type == "redacted" else []

    def _require_proofs(self) -> None:
        """Look behind the last row for the redactions that are still missing. Raises LedgerCorrupt."""
        if not self._unproven:
            return
        last = self._hash
        for row in self._log.read(self._position):
            if row.type == "redacted" and _follows(last, row):
                if _fits(row, metadata_hash(row.metadata)):
                    self._believe(row)
                elif row.metadata is None:
                    # A redaction whose own metadata was erased, as one further on may prove.
                    self._unproven.add(row.position)
            last = row.hash
        first = min(self._unproven, default=0)
        if 0 < first <= self._position:
            why = "was changed, or its metadata went without a redaction: its digest differs"
            raise _fault(first, f"event {first} {why}")


def _fits(row: Row, metadata_sha256: bytes) -> bool:
    try:
        return digest_of(*row[:12], metadata_sha256) == row.digest
    except _MISFITS:
        return False


def _follows(before: bytes, row: Row) -> bool:
    try:
        return link(before, row.digest) == row.hash
    except _MISFITS:
        return False


def _fault(position: int, said: str) -> LedgerCorrupt:
    return LedgerCorrupt(f"the export ends: {said}", HINT, position=position)
