"""A few columns of many events, without their payloads: what a chain to a far head needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ledger.advance import ENDS
from ledger.events import Corrected
from ledger.sqlite_driver import connect, translated
from ledger.sqlite_file import needs_immutable
from ledger.sqlite_log import SqliteLog
from projections.past import Readable

PAGE = 10_000
"""Rows per query, so that no read holds up whoever wipes the write-ahead log."""


def digests(log: Readable, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
    """Position and digest of each event with ``after < position <= upto``, in order."""
    if not isinstance(log, SqliteLog):
        yield from ((row.position, row.digest) for row in log.read(after, upto))
        return
    sql = (
        "SELECT position, digest FROM events WHERE position > ? AND position <= ?"
        " ORDER BY position LIMIT ?"
    )
    yield from _pages(log, sql, after, upto)


def of_type(log: Readable, type_: str, after: int, upto: int) -> Iterator[tuple[int, str]]:
    """Position and data of each event of a type between two positions, as :func:`digests`."""
    if not isinstance(log, SqliteLog):
        found = (row for row in log.read(after, upto) if row.type == type_)
        yield from ((row.position, row.data) for row in found)
        return
    sql = (
        "SELECT position, data FROM events WHERE position > ? AND position <= ? AND type = ?"
        " ORDER BY position LIMIT ?"
    )
    yield from _pages(log, sql, after, upto, type_)


class Life(NamedTuple):
    """From when to when an allocation of an observed pool lived (ns UTC), and its events' positions.

    ``ended`` is None for what never ended. ``corrected`` says that its times are uncertain.
    """

    first: int
    last: int
    begun: int
    ended: int | None
    corrected: bool


def lives(log: SqliteLog, pools: Iterable[str]) -> Iterator[Life]:
    """What is known of every allocation of some pools, from the log itself, without folding it."""
    wanted = sorted(pools)
    ends = ", ".join(f"'{body.TYPE}'" for body in ENDS)
    sql = (
        "SELECT min(position), max(position),"
        " min(min(at), coalesce(min(json_extract(data, '$.queued_at')), min(at))),"
        f" max(CASE WHEN type IN ({ends}) THEN at END), max(type = '{Corrected.TYPE}')"
        f" FROM events WHERE pool IN ({', '.join('?' * len(wanted))}) AND allocation IS NOT NULL"
        " GROUP BY allocation"
    )
    with translated(log.path), contextlib.closing(_connected(log)) as connection:
        for first, last, begun, ended, corrected in connection.execute(sql, wanted):
            yield Life(first, last, begun, ended, bool(corrected))


def _connected(log: SqliteLog) -> Any:
    return connect(log.path, read_only=True, immutable=needs_immutable(log.path))


def _pages(log: SqliteLog, sql: str, after: int, upto: int, *more: str) -> Iterator[Any]:
    with translated(log.path), contextlib.closing(_connected(log)) as connection:
        while after < upto:
            rows = connection.execute(sql, (after, upto, *more, PAGE)).fetchall()
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1][0]
