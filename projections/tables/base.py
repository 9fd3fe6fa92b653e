"""What every projection stands on: tables as values, rows that are kept at hand and written back.

A projection is fed one event at a time, as :class:`Seen`: the envelope, the decoded ``data``, and what
the event did to an allocation and to who has what where, which
:class:`projections.tables.lives.Lives` works out once for all that follow it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import orjson

from ledger.quick import dataclass
from ledger.sqlite_driver import sqlite3

Row = dict[str, Any]
Key = tuple[Any, ...]
Handler = Callable[["Seen"], None]

STORED_MAX = 2**63 - 1
"""The most that a cell holds: sums of times over many allocations stop there (292 years)."""
BEYOND = "beyond"
"""A column beside sums of amounts: JSON of those that no cell can hold, exactly; NULL mostly."""
LOW = 2**32 - 1
"""The lower half of the bits of a number."""
_LONG = re.compile(r"\d{19}")
ROWS_KEPT = 50_000
"""How many rows of one table are kept at hand from one chunk to the next."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns (name → SQLite type), its key, and the columns of each index.

    Columns whose names stand in ``json`` hold JSON text. A ``clustered`` table is kept in the order of
    its key (WITHOUT ROWID). ``sums`` are columns whose values may come to more than a cell holds
    (:data:`STORED_MAX`, up or down): they stop there, and column :data:`BEYOND` has what they are.
    """

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    indexes: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    clustered: bool = False
    sums: tuple[str, ...] = ()


class Span:
    """How much of one resource an allocation has on one node from ``since`` to ``until`` (ns UTC).

    ``until`` is None while it lasts. ``holder`` and ``task`` are those of that time.
    """

    __slots__ = ("amount", "holder", "node", "resource", "seq", "since", "task", "until")

    def __init__(
        self,
        seq: int,
        node: str,
        resource: str,
        amount: int,
        since: int,
        until: int | None,
        holder: str,
        task: str | None,
    ) -> None:
        self.seq = seq
        self.node = node
        self.resource = resource
        self.amount = amount
        self.since = since
        self.until = until
        self.holder = holder
        self.task = task

    def same(self, other: Span) -> bool:
        """Whether another one says the same."""
        return (
            self.amount == other.amount
            and self.since == other.since
            and self.until == other.until
            and self.holder == other.holder
            and self.task == other.task
        )


class Seen:
    """One event on its way through the projections. One object serves for all events.

    ``life`` is the allocation that it is about, as it is after it; ``was`` the state, holder, task and
    wait that it had before (None: there was none). ``opened`` are spans that are new, ``closed`` those
    that ended with it, ``removed`` those that turned out never to have been so. ``ended`` are those
    of them that are over, each with 1 or, where it was removed, -1 (None: not worked out yet).
    ``let_go`` and ``taken`` are placements (as in the log) that were given up and that were taken.
    ``shifted`` are all allocations whose ends a ``time_extended`` moved.
    """

    __slots__ = (
        "allocation",
        "at",
        "closed",
        "data",
        "ended",
        "holder",
        "let_go",
        "life",
        "opened",
        "pool",
        "position",
        "recorded_at",
        "removed",
        "shifted",
        "taken",
        "task",
        "tenant",
        "type",
        "was",
    )

    position: int
    at: int
    recorded_at: int
    type: str
    tenant: str
    pool: str | None
    allocation: str | None
    holder: str | None
    task: str | None
    data: dict[str, Any]
    life: Any
    was: tuple[str, str, str | None, int | None] | None
    opened: list[Span]
    closed: list[Span]
    removed: list[Span]
    ended: list[tuple[Span, int]] | None
    let_go: list[dict[str, Any]] | None
    taken: list[dict[str, Any]] | None
    shifted: list[Any]


def as_json(value: Any) -> str | None:
    """JSON text of a value, None for None. Sums beyond 64 bits are written too."""
    if value is None:
        return None
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"))


def from_json(text: str | None) -> Any:
    """The inverse of :func:`as_json`: of large numbers as well, which orjson would round."""
    if text is None:
        return None
    return json.loads(text) if _LONG.search(text) else orjson.loads(text)


def sum_sql(column: str) -> str:
    """SQL that adds up a column of integers: SQLite's own sum fails where it passes 64 bits.

    It is an integer up to there and beyond it REAL, of 15 digits.
    """
    return whole_sql(f"sum({column} >> 32)", f"sum({column} & {LOW})")


def whole_sql(high: str, low: str) -> str:
    """SQL of a sum whose numbers were added up in two halves: ``x >> 32`` and ``x &`` :data:`LOW`."""
    return f"({high} + ({low} >> 32)) * {LOW + 1} + ({low} & {LOW})"


def quoted(name: str) -> str:
    """A table's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


class Rows:
    """The rows of one table as far as they are at hand; changed ones are written back in a flush.

    Rows are dicts with all columns in their order. Who changes one calls :meth:`put` after it. With
    ``whole`` the table is read at once when first needed, so that no miss costs a query.
    """

    def __init__(self, table: Table, *, whole: bool = False) -> None:
        self.table = table
        self._whole = whole
        self._loaded = False
        self._kept: dict[Key, Row | None] = {}
        self._dirty: dict[Key, None] = {}
        self._reader: sqlite3.Connection | None = None
        self._name = table.name
        self._json = [i for i, name in enumerate(table.columns) if name in table.json]
        self._sums = [i for i, name in enumerate(table.columns) if name in table.sums]

    def bind(self, reader: sqlite3.Connection, suffix: str) -> None:
        """Read misses from here. What is kept is forgotten."""
        self._reader = reader
        self._name = self.table.name + suffix
        names = ", ".join(self.table.columns)
        keys = " AND ".join(f"{name} = ?" for name in self.table.key)
        marks = ", ".join("?" * len(self.table.columns))
        name = quoted(self._name)
        self._select = f"SELECT {names} FROM {name} WHERE {keys}"
        self._all = f"SELECT {names} FROM {name}"
        self._write = f"INSERT OR REPLACE INTO {name} ({names}) VALUES ({marks})"
        self._delete = f"DELETE FROM {name} WHERE {keys}"
        self.forget()

    def forget(self) -> None:
        """Let go of everything, written back or not."""
        self._kept.clear()
        self._dirty.clear()
        self._loaded = False

    def _row(self, values: tuple[Any, ...]) -> Row:
        row = dict(zip(self.table.columns, values, strict=True))
        for name in self.table.json:
            row[name] = from_json(row[name])
        if self._sums and row[BEYOND] is not None:
            row.update(from_json(row[BEYOND]))
            row[BEYOND] = None
        return row

    def _key(self, row: Row) -> Key:
        return tuple(row[name] for name in self.table.key)

    def _load(self) -> None:
        assert self._reader is not None
        for values in self._reader.execute(self._all):
            row = self._row(values)
            self._kept.setdefault(self._key(row), row)
        self._loaded = True

    def get(self, key: Key) -> Row | None:
        """The row under a key, or None."""
        try:
            return self._kept[key]
        except KeyError:
            pass
        if self._whole:
            if not self._loaded:
                self._load()
            return self._kept.get(key)
        assert self._reader is not None
        values = self._reader.execute(self._select, key).fetchone()
        row = None if values is None else self._row(values)
        self._kept[key] = row
        return row

    def change(self, key: Key) -> Row | None:
        """The row under a key, which the caller changes now; None where there is none."""
        row = self._kept.get(key)
        if row is None:
            row = self.get(key)
            if row is None:
                return None
        self._dirty[key] = None
        return row

    def new(self, **values: Any) -> Row:
        """A row with these values, None elsewhere."""
        row: Row = dict.fromkeys(self.table.columns)
        row.update(values)
        return row

    def put(self, key: Key, row: Row) -> None:
        """This is the row under its key from here on."""
        self._kept[key] = row
        self._dirty[key] = None

    def drop(self, key: Key) -> None:
        """There is no row under this key any more."""
        self._kept[key] = None
        self._dirty[key] = None

    def under(self, *prefix: Any) -> Iterator[tuple[Key, Row]]:
        """All rows whose key begins so, in no order. For what happens seldom."""
        assert self._reader is not None
        length = len(prefix)
        keys = ", ".join(self.table.key)
        where = " AND ".join(f"{name} = ?" for name in self.table.key[:length]) or "1"
        stored = self._reader.execute(
            f"SELECT {keys} FROM {quoted(self._name)} WHERE {where}", prefix
        ).fetchall()
        found = {tuple(key): None for key in stored}
        found |= {key: None for key in self._kept if key[:length] == prefix}
        for key in found:
            row = self.get(key)
            if row is not None:
                yield key, row

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write back what was changed. They stay at hand, unless they are too many."""
        if not self._dirty:
            return
        written, gone = [], []
        for key in self._dirty:
            row = self._kept[key]
            if row is None:
                gone.append(key)
                continue
            values = list(row.values())
            for index in self._json:
                values[index] = as_json(values[index])
            for index in self._sums:
                if not -STORED_MAX <= values[index] <= STORED_MAX:
                    self._stop(row, values)
                    break
            written.append(values)
        connection.executemany(self._write, written)
        if gone:
            connection.executemany(self._delete, gone)

    def _stop(self, row: Row, values: list[Any]) -> None:
        """Have the sums of a row that no cell holds stop, and say beside them what they are."""
        columns = list(row)
        beyond = {}
        for index in self._sums:
            value = values[index]
            if not -STORED_MAX <= value <= STORED_MAX:
                beyond[columns[index]] = value
                values[index] = STORED_MAX if value > 0 else -STORED_MAX
        values[columns.index(BEYOND)] = as_json(beyond)

    def clean(self) -> None:
        """What was flushed is committed."""
        for key in self._dirty:
            if self._kept[key] is None:
                del self._kept[key]
        self._dirty.clear()
        if len(self._kept) > ROWS_KEPT:
            self.forget()


class Projection(ABC):
    """A projection: its name, its version, its tables, and what it does with which event.

    Raise ``version`` whenever the tables or what stands in them change: it is made anew then.
    ``follows_lives`` says that it needs what :class:`~projections.tables.lives.Lives` works out.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]]
    views: ClassVar[dict[str, str]] = {}
    follows_lives: ClassVar[bool] = True

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {table.name: Rows(table) for table in self.tables}

    @abstractmethod
    def handlers(self) -> dict[str, Handler]:
        """Event type → what is done with such an event. The others do not concern it."""

    def bind(self, reader: sqlite3.Connection, suffix: str) -> None:
        """Stand on the tables of this suffix, read through this connection."""
        for rows in self.rows.values():
            rows.bind(reader, suffix)

    def forget(self) -> None:
        """Let go of everything that is not written."""
        for rows in self.rows.values():
            rows.forget()

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what has changed, inside the caller's transaction."""
        for rows in self.rows.values():
            rows.flush(connection)

    def clean(self) -> None:
        """What was flushed is committed."""
        for rows in self.rows.values():
            rows.clean()


def each(names: Iterable[str], handler: Handler) -> dict[str, Handler]:
    """The same handler for several types."""
    return dict.fromkeys(names, handler)


LIVE = frozenset({"active", "reserved", "ending"})
"""States in which capacity is held."""
GRANTS = ("allocated", "reserved")
ENDS = ("released", "expired", "reclaimed", "withdrawn")
MOVES = ("adjusted", "transferred", "corrected")
"""Types that may change who has how much where, beside grants and ends."""
