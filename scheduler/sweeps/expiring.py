"""The expire sweep: writes down what time has ended.

That is so already, for decisions and for reads alike; the sweep only puts it on record, so that the
log does not wait for the next command. ``expired.at`` is the lease's end, however late that is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final

from ledger.book import Book
from ledger.codec import from_row
from ledger.events import Event, Expired, Withdrawn
from ledger.evolve import evolve
from ledger.log import Head
from ledger.step import is_due, settle_due
from ledger.writer import Writer
from scheduler.sweeps.reclaiming import SweepReport

LIMIT: Final = 500
"""How many endings a report lists one by one."""


def expire(writer: Writer, *, limit: int = LIMIT, dry_run: bool = False) -> SweepReport:
    """Write down what time has ended, and grant what that frees. Safe to run twice and at once.

    Everything that is due is written, in transactions that the writer bounds; ``limit`` bounds
    ``details`` only. ``examined`` counts what time can end. Raises what
    :meth:`ledger.writer.Writer.settle` raises for failures of the infrastructure.
    """
    timed = writer.read(_count_timed)
    if dry_run:
        ended = [event for event in _would_settle(writer) if _is_end_by_time(event)]
    else:
        ended = _settle(writer)
    details = [_detail(event) for event in ended[:limit]]
    return SweepReport("expire", timed + len(ended), len(ended), details, dry_run)


def _count_timed(book: Book, now: int) -> int:
    return sum(allocation.due is not None for allocation in book.allocations.values())


def _settle(writer: Writer) -> list[Event]:
    """Settle, and return the ends by time that this very call has written.

    A commit tells its listeners in the thread that made it, so another thread's is told apart.
    """
    ended: list[Event] = []
    me = threading.get_ident()

    def note(events: list[Event]) -> None:
        if threading.get_ident() == me:
            ended.extend(event for event in events if _is_end_by_time(event))

    stop = writer.listen(note)
    try:
        writer.settle()
    finally:
        stop()
    return ended


def _would_settle(writer: Writer) -> Iterable[Event]:
    """What settling would write, worked out on a book of its own, which is thrown away.

    Where the writer's own answer still has an allocation (a commit extends leases for time that was
    slept through before it settles), that answer counts.
    """
    now, live = writer.read(lambda book, now: (now, set(book.allocations)))
    book = _recorded_book(writer)
    while is_due(book, now):
        for event in settle_due(book, now, grant=False):
            if event.allocation not in live:
                yield event


def _recorded_book(writer: Writer) -> Book:
    """The book as the log has it, without what is due: the writer's own answers include that."""

    def known(position: int) -> Head | None:
        rows = writer.log.read(position - 1, position)
        return next((Head(row.position, row.hash, row.recorded_at) for row in rows), None)

    book = None if writer.snapshots is None else writer.snapshots.newest(known)
    book = book or Book()
    for row in writer.log.read(book.position):
        evolve(book, from_row(row))
    return book


def _is_end_by_time(event: Event) -> bool:
    body = event.body
    return isinstance(body, Expired) or (isinstance(body, Withdrawn) and body.cause == "timed_out")


def _detail(event: Event) -> dict[str, Any]:
    body = event.body
    assert isinstance(body, Expired | Withdrawn)
    expired = isinstance(body, Expired)
    return {
        "allocation": event.allocation,
        "pool": event.pool,
        "tenant": event.tenant,
        "holder": event.holder,
        "cause": "expired" if expired else "timed_out",
        "ended_at": event.at,
        "positions": [event.position],
    }
