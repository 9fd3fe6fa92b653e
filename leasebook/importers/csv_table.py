"""``csv``: any table with a column mapping, such as ``start=Begin,end=End,holder=User,memory=Mem:GiB``.

Names that are no resource: ``start``, ``end``, ``submit``, ``holder``, ``task``, ``tenant``,
``node``, ``pool``, ``id``; every other name is a resource. An empty end never ended. An empty start
began before the file: it is known to hold from the file's first time on. The key is
``csv:POOL:ID``, or the digest of the row and how often that row has stood in the file before.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO

import orjson

from leasebook.importers.base import Found, Item, Options, Reject, Source, WrongFormat
from leasebook.importers.units import moment, number_in, since_epoch
from ledger.amounts import check_resource_name
from ledger.commands import Fact
from ledger.errors import InvalidInput
from ledger.requests import Amounts, Placement, Request
from ledger.rules.history import UNKNOWN

TIMES = ("submit", "start", "end")
WORDS = ("holder", "task", "tenant", "node", "pool", "id")
TIME_UNITS = ("s", "ms", "us", "ns", "iso")
RESOURCE_UNITS: dict[str, Decimal] = {
    "cores": Decimal(1000),
    "cards": Decimal(1000),
    "milli": Decimal(1),
    "count": Decimal(1),
    "B": Decimal(1),
    **{f"{letter}iB": Decimal(1024) ** power for power, letter in enumerate("KMGTP", 1)},
    **{f"{letter}B": Decimal(1000) ** power for power, letter in enumerate("KMGTP", 1)},
    "kB": Decimal(1000),
}
"""Unit → base units."""
_DEFAULT_UNITS = {"cpu": "cores", "gpu": "cards", "memory": "B"}
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class _Column:
    """Where a value stands, and in which unit."""

    index: int
    unit: str


def read(source: Source, options: Options) -> Iterator[Item]:
    """As :class:`leasebook.importers.base.Reader`."""
    if not options.mapping or not {"start", "end"} & options.mapping.keys():
        raise InvalidInput(
            "a csv needs to know which columns mean what, the start or the end at least",
            "give --map start=COLUMN,end=COLUMN,holder=COLUMN,cpu=COLUMN,memory=COLUMN:GiB",
        )
    table = _Table(source, options)
    try:
        yield from table.items()
    finally:
        if table.count is not None:
            table.count.close()


class _Table:
    """One pass over a table."""

    def __init__(self, source: Source, options: Options) -> None:
        self.options = options
        lines = source.lines()
        first = next(((n, line) for n, line in lines if line.strip()), None)
        head = first[1] if first is not None else ""
        delimiter = options.delimiter or max(_DELIMITERS, key=head.count)
        if len(delimiter) != 1:
            raise InvalidInput(f"{delimiter!r} is not one character", "give another --delimiter")
        self.delimiter = delimiter
        self.before = 0 if first is None else first[0] - 1
        texts = (f"{line}\n" for line in _again(first, lines))
        self.rows = csv.reader(texts, delimiter=delimiter)
        names = list(options.columns or ())
        if not names:
            try:
                names = [name.strip() for name in next(self.rows, [])]
            except csv.Error as error:
                raise WrongFormat(
                    f"{source.name} is no table: {error}", _expected(options)
                ) from None
        self.width = len(names)
        self.columns = _columns(options.mapping, names, source.name, options)
        self.resources = {n: c for n, c in self.columns.items() if n not in (*TIMES, *WORDS)}
        self.first_time: int | None = None
        self.count = None if "id" in self.columns else _Occurrences()

    def items(self) -> Iterator[Item]:
        """All rows; those that began before the file last, when its first time is known."""
        with TemporaryFile("w+b") as kept:
            while True:
                try:
                    row = next(self.rows)
                except StopIteration:
                    break
                except csv.Error as error:
                    yield Reject(self.line, f"not readable: {error}", "")
                    continue
                if row:
                    yield from self._row(self.line, row, kept)
            kept.seek(0)
            for held in kept:
                line, row, occurrence = orjson.loads(held)
                yield self._fact(line, row, occurrence, at_first=True)

    @property
    def line(self) -> int:
        """The number of the line at which the last row ended."""
        return self.rows.line_num + self.before

    def _row(self, line: int, row: list[str], kept: IO[bytes]) -> Iterator[Item]:
        text = self.delimiter.join(row)
        if len(row) != self.width:
            yield Reject(line, f"{len(row)} columns where {self.width} were expected", text)
            return
        occurrence = 0 if self.count is None else self.count.next(text)
        if "start" in self.columns and not self._word(row, "start"):
            try:
                self._see(self._time(row, "end"))
            except ValueError as error:
                yield Reject(line, str(error), text)
                return
            kept.write(orjson.dumps([line, row, occurrence]) + b"\n")
            return
        yield self._fact(line, row, occurrence)

    def _fact(self, line: int, row: list[str], occurrence: int, at_first: bool = False) -> Item:
        text = self.delimiter.join(row)
        try:
            fact = self._understood(row, text, occurrence, at_first)
        except ValueError as error:
            return Reject(line, str(error), text)
        return Found(line, self._pool(row), fact, text)

    def _pool(self, row: list[str]) -> str:
        return self.options.pool or self._word(row, "pool") or "imported"

    def _understood(self, row: list[str], text: str, occurrence: int, at_first: bool) -> Fact:
        """Raises ValueError."""
        began, ended = self._time(row, "start"), self._time(row, "end")
        submit = self._time(row, "submit")
        for at in (submit, began, ended):
            self._see(at)
        amounts: Amounts = {}
        for resource, column in self.resources.items():
            amount = _amount(row[column.index], column.unit, resource)
            if amount:
                amounts[resource] = amount
        node = self._word(row, "node")
        id_ = self._word(row, "id")
        if self.count is None and not id_:
            raise ValueError("the row has no id")
        if not id_:
            id_ = f"{sha256(text.encode()).hexdigest()[:24]}:{occurrence}"
        seen_from = None
        metadata = None
        if at_first:
            seen_from = self.first_time
            metadata = {"began": "before the file"}
            if ended is not None and seen_from is not None:
                seen_from = min(seen_from, ended)
        if began is None and ended is None and submit is None and seen_from is None:
            raise ValueError("the row says of no time, and neither does any other of the file")
        return Fact(
            key=f"csv:{self._pool(row)}:{id_}",
            holder=self._word(row, "holder") or UNKNOWN,
            tenant=self.options.tenant or self._word(row, "tenant") or "default",
            task=self._word(row, "task") or None,
            request=Request(amounts),
            placements=(Placement(node, amounts, {}),) if node else (),
            requested_at=submit,
            began_at=began,
            ended_at=ended,
            seen_from=seen_from,
            metadata=metadata,
        )

    def _word(self, row: list[str], name: str) -> str:
        column = self.columns.get(name)
        return "" if column is None else row[column.index].strip()

    def _time(self, row: list[str], name: str) -> int | None:
        column = self.columns.get(name)
        text = "" if column is None else row[column.index].strip()
        if not text or column is None:
            return None
        if column.unit in ("", "iso"):
            return moment(text, self.options.zone)
        return since_epoch(text, column.unit)

    def _see(self, at: int | None) -> None:
        if at is not None and (self.first_time is None or at < self.first_time):
            self.first_time = at


def _again(first: tuple[int, str] | None, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    if first is not None:
        yield first[1]
    for _, line in lines:
        yield line


def _expected(options: Options) -> str:
    wanted = ", ".join(text.partition(":")[0] for text in options.mapping.values())
    return f"a csv here is a table with the columns {wanted}; give --columns if it has no header"


def _columns(
    mapping: dict[str, str], names: list[str], file: str, options: Options
) -> dict[str, _Column]:
    """The mapping against the names that there are. Raises WrongFormat, InvalidInput."""
    found = {}
    for name, text in mapping.items():
        column, colon, unit = text.rpartition(":")
        known = TIME_UNITS if name in TIMES else RESOURCE_UNITS
        if not colon or text in names:
            column, unit = text, ""
        if column not in names:
            there = ", ".join(names)[:120] or "none at all"
            raise WrongFormat(f"{file} has no column {column!r}, but {there}", _expected(options))
        if name in WORDS and unit:
            raise InvalidInput(f"{name}={text}: {name} is text and takes no unit", "leave it out")
        if unit and unit not in known:
            raise InvalidInput(
                f"{name}={text}: there is no unit {unit!r}", f"use one of {', '.join(known)}"
            )
        if name not in TIMES and name not in WORDS:
            check_resource_name(name)
            unit = unit or _DEFAULT_UNITS.get(name, "count")
        found[name] = _Column(names.index(column), unit)
    return found


def _amount(text: str, unit: str, resource: str) -> int:
    """Base units, rounded down. Raises ValueError."""
    text = text.strip()
    if not text:
        return 0
    number = number_in(text)
    if number < 0:
        raise ValueError(f"{resource} {text[:40]!r} is less than nothing")
    return int(number * RESOURCE_UNITS[unit])


class _Occurrences:
    """How often each row was seen, on disk: files may be larger than memory."""

    def __init__(self) -> None:
        from ledger.sqlite_driver import sqlite3

        # An empty name is a file of SQLite's own, which goes when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF").fetchall()
        self._database.execute("PRAGMA synchronous = OFF").fetchall()
        self._database.execute("CREATE TABLE seen (row BLOB PRIMARY KEY, n INTEGER) WITHOUT ROWID")

    def next(self, text: str) -> int:
        """How often this row has stood before."""
        digest = sha256(text.encode()).digest()[:16]
        found = self._database.execute(
            "INSERT INTO seen VALUES (?, 0) ON CONFLICT DO UPDATE SET n = n + 1 RETURNING n",
            (digest,),
        ).fetchall()
        return int(found[0][0])

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
