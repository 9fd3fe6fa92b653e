"""Rows → book: the fold itself, as the writer and time travel do it."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.book import Book
from ledger.codec import fact_of
from ledger.events import UsageRecorded
from ledger.evolve import evolve
from ledger.garbage import uncollected
from ledger.log import Row

PASSED_OVER = frozenset({UsageRecorded.TYPE})
"""Types that change nothing in a book but its position, and are too many to be read for nothing."""


def fold(book: Book, rows: Iterable[Row]) -> Row | None:
    """Evolve ``book`` by rows that go on from it, in order; the last of them, None without any.

    Raises: what :func:`~ledger.codec.fact_of` and :func:`~ledger.evolve.evolve` raise; then the
    book is to be thrown away.
    """
    row = None
    for row in rows:
        position = row.position
        if (
            row.type in PASSED_OVER
            and position == book.position + 1
            and row.schema <= UsageRecorded.SCHEMA
        ):
            book.position = position
            book.recorded_at = row.recorded_at
        else:
            evolve(book, fact_of(row))
    return row


def fold_many(book: Book, rows: Iterable[Row]) -> Row | None:
    """As :func:`fold`, for as many rows as a whole log has."""
    with uncollected():
        return fold(book, rows)
