"""Checking projections: made anew aside, in a temporary database, and compared row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from ledger.quick import dataclass
from ledger.sqlite_driver import sqlite3
from projections import views_file as views
from projections.feeding import Feed, Stopped, with_lives
from projections.tables import PROJECTIONS
from projections.tables.base import Table, quoted

if TYPE_CHECKING:
    from projections.engine import Engine


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a live table is not what the log adds up to.

    ``key`` is the row's key, column → value, and ``column`` the first that differs; both are None
    where the table itself is missing. A row that is not there has None for ``live`` or ``rebuilt`` and
    ``column`` None. ``position`` is where both stand.
    """

    projection: str
    table: str
    key: dict[str, Any] | None
    column: str | None
    live: Any
    rebuilt: Any
    position: int

    def __str__(self) -> str:
        where = f"{self.table}, at position {self.position}"
        if self.key is None:
            return f"{where}: the table is missing"
        key = " ".join(f"{name}={value}" for name, value in self.key.items())
        if self.column is None:
            what = "the row is missing" if self.live is None else "there should be no such row"
            return f"{where}, {key}: {what}"
        return f"{where}, {key}: {self.column} is {self.live!r}, should be {self.rebuilt!r}"


CHUNK = 10_000


def check(engine: Engine, names: tuple[str, ...]) -> Difference | None:
    """The first difference of the projections that are live, or None."""
    if not engine.path.exists():
        return None
    with closing(engine.connect()) as live:
        # One view of the live tables, however long this takes.
        live.execute("BEGIN")
        marks = views.read_marks(live)
        wanted = [name for name in names if name in marks and marks[name].state == "live"]
        for name in wanted:
            for gone in views.missing(live, PROJECTIONS[name]):
                return Difference(name, gone, None, None, None, None, marks[name].position)
        ends = sorted({marks[name].position for name in wanted})
        with closing(sqlite3.connect("", isolation_level=None)) as aside:
            aside.execute("PRAGMA synchronous = OFF")
            feed = _begin(aside, with_lives(wanted))
            position = 0
            for end in ends:
                here = [name for name in wanted if marks[name].position == end]
                stopped = _fold(engine, feed, aside, position, end)
                if stopped is not None:
                    return Difference(here[0], here[0], {}, "state", "live", stopped, end)
                position = end
                for name in here:
                    for table in PROJECTIONS[name].tables:
                        found = _compare(live, aside, name, table, end)
                        if found is not None:
                            return found
    return None


def _begin(aside: sqlite3.Connection, names: list[str]) -> Feed:
    for name in names:
        views.create_tables(aside, PROJECTIONS[name], "", 1)
    return Feed(names, aside)


def _fold(
    engine: Engine, feed: Feed, aside: sqlite3.Connection, position: int, end: int
) -> str | None:
    """Feed what is aside up to ``end``; why it had to stop, or None."""
    while position < end:
        rows = list(islice(engine.log.read(position, end), CHUNK))
        if not rows:
            return f"the log ends at position {position}"
        try:
            feed.take(rows)
            with views.writing(aside):
                feed.flush(aside)
        except Stopped as stop:
            return f"failed at {stop.position}: {stop.why}"
        position = rows[-1].position
        feed.clean((position, rows[-1].hash))
    return None


def _ordered(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    names = ", ".join(table.columns)
    keys = ", ".join(table.key)
    return iter(connection.execute(f"SELECT {names} FROM {quoted(table.name)} ORDER BY {keys}"))


def _compare(
    live: sqlite3.Connection, aside: sqlite3.Connection, name: str, table: Table, position: int
) -> Difference | None:
    columns = list(table.columns)
    at = [columns.index(column) for column in table.key]

    def key_of(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(row[index] for index in at)

    def difference(row: tuple[Any, ...], column: str | None, a: Any, b: Any) -> Difference:
        key = dict(zip(table.key, key_of(row), strict=True))
        return Difference(name, table.name, key, column, a, b, position)

    ours, theirs = _ordered(live, table), _ordered(aside, table)
    for mine in ours:
        other = next(theirs, None)
        if mine == other:
            continue
        if other is None or key_of(mine) < key_of(other):
            return difference(mine, None, dict(zip(columns, mine, strict=True)), None)
        if key_of(mine) > key_of(other):
            return difference(other, None, None, dict(zip(columns, other, strict=True)))
        for column, a, b in zip(columns, mine, other, strict=True):
            if a != b:
                return difference(mine, column, a, b)
    other = next(theirs, None)
    if other is not None:
        return difference(other, None, None, dict(zip(columns, other, strict=True)))
    return None
