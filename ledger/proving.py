"""Proving rows as they are read: each in its place, as its digest says, and chained to the one before.

A row whose metadata was erased is proven by its redaction, which stands further on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import error as StructError
from typing import Protocol

from ledger.canonical import loads
from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.log import GENESIS, Row

_MISFITS = (StructError, TypeError, AttributeError, ValueError, OverflowError)
"""What the computation of a digest raises on values that no sound row holds: a schema beyond 32 bits, or
a damaged cell whose text has become a number."""


class Rows(Protocol):
    """Whatever rows can be read from by position, as from a :class:`~ledger.log.Log`."""

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        """Rows with ``after < position <= upto``, in order."""
        ...


class Fault(Exception):
    """A row that is not as it was recorded: its position, why in one line, and its stored hash."""

    def __init__(self, position: int, reason: str, hash_: bytes = GENESIS) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason
        self.hash = hash_


class Proof:
    """A pass over rows, in order, after the event at ``position``, whose hash is ``hash``.

    ``redacted`` counts the rows whose metadata is proven to have been erased rightly.
    """

    def __init__(self, log: Rows, position: int = 0, hash_: bytes = GENESIS) -> None:
        self.position = position
        self.hash = hash_
        self.redacted = 0
        self._log = log
        # Rows without metadata whose digest says that there was some. Until their redaction is met the
        # stored digest is taken for true.
        self._bare: set[int] = set()

    def take(self, row: Row) -> None:
        """Take the next row. Raises Fault."""
        position = self.position + 1
        if row[0] < position:
            reason = f"a row lies at position {row[0]}, where no event can be"
            raise Fault(position, reason, row[14])
        if row[0] != position:
            raise Fault(position, f"event {position} is missing; {row[0]} follows", row[14])
        digest = row[13]
        try:
            sound = digest_of(*row[:12], metadata_hash(row[12])) == digest
            following = link(self.hash, digest)
        except _MISFITS:
            sound, following = False, b""
        if not sound and (row[12] is not None or not following):
            raise Fault(position, f"event {position} was changed: its digest differs", row[14])
        if following != row[14]:
            reason = f"event {position} does not follow the one before it: its hash differs"
            raise Fault(position, reason, row[14])
        self.position, self.hash = position, following
        if not sound:
            self._bare.add(position)
        elif row[3] == "redacted":
            self._believe(row)

    def first_fault(
        self, fault: Fault | None, rest: Iterable[Row], last: bytes | None
    ) -> Fault | None:
        """The first fault of all that was taken, ``fault`` included, which ended the pass; or None.

        ``rest`` are the rows behind, where redactions of rows before may stand, so that those are not
        blamed; ``last`` is the hash stored before them (None: it cannot be read).
        """
        self._seek_redactions(rest, last)
        bare = min((position for position in self._bare if position <= self.position), default=None)
        if bare is None or (fault is not None and fault.position < bare):
            return fault
        why = "was changed, or its metadata went without a redaction: its digest differs"
        return Fault(bare, f"event {bare} {why}")

    def _seek_redactions(self, rest: Iterable[Row], last: bytes | None) -> None:
        try:
            for row in rest if self._bare else ():
                if (
                    row.type == "redacted"
                    and last is not None
                    and link(last, row.digest) == row.hash
                ):
                    if _digest(row, metadata_hash(row.metadata)) == row.digest:
                        self._believe(row)
                    elif row.metadata is None:
                        # Its own metadata was erased too, as one further on may prove.
                        self._bare.add(row.position)
                last = row.hash
        except (LedgerCorrupt, *_MISFITS):
            return

    def _believe(self, row: Row) -> None:
        """Take a sound ``redacted`` row as proof for the row that it names."""
        sound = [row]
        while sound:
            fact = _fact(sound.pop())
            if fact is None or fact[0] not in self._bare:
                continue
            for bare in self._log.read(fact[0] - 1, fact[0]):
                if _digest(bare, fact[1]) == bare.digest:
                    self._bare.discard(fact[0])
                    self.redacted += fact[0] <= self.position
                    if bare.type == "redacted":
                        sound.append(bare)


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
