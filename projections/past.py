"""The past of a log: which position a time falls on, and the book as it stood at a position.

A :class:`Past` reads from anything that has a log's reading half: a ledger's own log, or the events
of an incident bundle, which begin in the middle and bring the book they go on from.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Protocol

from ledger.book import Book
from ledger.codec import from_row
from ledger.errors import InvalidInput
from ledger.events import Checkpointed
from ledger.fields import dump, load
from ledger.fold import fold_many
from ledger.log import Head, Row
from ledger.snapshots import Snapshots

FAR = 8_192
"""Events between two snapshots from which on a fold leaves one on its way, for who comes after it."""


class Readable(Protocol):
    """The reading half of a :class:`~ledger.log.Log`, which is all that the past needs."""

    def head(self) -> Head:
        """The last event."""
        ...

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        """Rows with ``after < position <= upto``, in order."""
        ...

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """All rows of one allocation, oldest first."""
        ...


class Past:
    """What was so at any position of a log.

    ``snapshots`` are cached books to go on from (None: there are none). ``begins_with`` is the book
    that the first readable event goes on from, where that is not position 1.
    """

    def __init__(
        self, log: Readable, snapshots: Snapshots | None = None, begins_with: Book | None = None
    ) -> None:
        self.log = log
        self._snapshots = snapshots
        self._begins_with = begins_with

    @property
    def first(self) -> int:
        """The earliest position at which the book is known: 0, or where a bundle begins."""
        return 0 if self._begins_with is None else self._begins_with.position

    def row(self, position: int) -> Row | None:
        """The row at a position, or None."""
        return next(iter(self.log.read(position - 1, position)), None)

    def recorded_at(self, position: int) -> int:
        """When the event at a position was written (ns UTC); at 0, when the first one was.

        Raises InvalidInput for a position that is not there.
        """
        if position == self.first and self._begins_with is not None:
            return self._begins_with.recorded_at
        row = self.row(max(position, 1))
        if row is None:
            raise _not_there(position, self.first, self.log.head().position)
        return row.recorded_at

    def position_at(self, time_ns: int) -> int:
        """The last position that was written at or before a time (``recorded_at``, ns UTC).

        :attr:`first` where nothing had been written yet. ``recorded_at`` never falls with position,
        so this takes about log2(events) reads.
        """
        low, high = self.first, self.log.head().position
        while low < high:
            middle = (low + high + 1) // 2
            row = self.row(middle)
            assert row is not None
            if row.recorded_at <= time_ns:
                low = middle
            else:
                high = middle - 1
        return low

    def book_at(self, position: int) -> Book:
        """The book after the event at a position, folded from the nearest snapshot before it.

        The book is the caller's own. Raises InvalidInput for a position that is not there,
        LedgerCorrupt for a damaged log.
        """
        head = self.log.head().position
        if not self.first <= position <= head:
            raise _not_there(position, self.first, head)
        book = None
        if self._snapshots is not None:
            book = self._snapshots.newest(self._known, position, proof=self._digest_after)
        if book is None:
            # A fork keeps no account of what stands where, which what is due is found by.
            book = Book() if self._begins_with is None else load(dump(self._begins_with))
        fold_many(book, self._rows_onwards(book, position))
        return book

    def _rows_onwards(self, book: Book, upto: int) -> Iterator[Row]:
        """The rows that go on from a book that is being folded from them.

        Where that is far, the book is kept now and then, at positions whose digest the log gives:
        of any other position nobody could tell whether a snapshot is right.
        """
        kept_at = book.position
        before: Row | None = None
        for row in self.log.read(book.position, upto):
            if (
                row.type == Checkpointed.TYPE
                and before is not None
                and before.position - kept_at >= FAR
            ):
                kept_at = before.position
                self._keep(book, before, row)
            before = row
            yield row

    def _keep(self, book: Book, at: Row, checkpoint: Row) -> None:
        """Save the book after a row, if it is what the checkpoint behind it says."""
        body = from_row(checkpoint).body
        if self._snapshots is None or book.position != at.position:
            return
        data = dump(book)
        if isinstance(body, Checkpointed) and body.book == sha256(data).hexdigest():
            self._snapshots.save(Head(at.position, at.hash, at.recorded_at), data)

    def _known(self, position: int) -> Head | None:
        row = self.row(position)
        return None if row is None else Head(row.position, row.hash, row.recorded_at)

    def _digest_after(self, position: int) -> str | None:
        row = self.row(position + 1)
        body = None if row is None else from_row(row).body
        return body.book if isinstance(body, Checkpointed) else None


def _not_there(position: int, first: int, last: int) -> InvalidInput:
    return InvalidInput(f"there is no position {position} here", f"give one from {first} to {last}")
