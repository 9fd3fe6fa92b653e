"""The exports themselves: which rows go where, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ledger.errors import InvalidInput
from ledger.log import GENESIS, Row
from ledger.times import rfc3339
from projections.past import Readable
from reports.audit.entries import data_of
from reports.audit.writing import subject_of_row
from reports.exporting.checking import checked
from reports.exporting.cloudevents import cloud_event, source_of
from reports.exporting.destination import (
    PARTIAL,
    Covered,
    Folder,
    Json,
    Part,
    Write,
    file_manifest,
    new_file,
    opened,
)
from reports.exporting.jsonl import lines_of, write_lines

FORMATS: Final = ("jsonl", "parquet", "cloudevents")
EVENTS: Final = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be exported of a log: positions after ``after`` up to ``upto``, at times (ns UTC) from
    ``since`` to before ``until``, as one of :data:`FORMATS`."""

    format: str = "jsonl"
    after: int = 0
    upto: int | None = None
    since: int | None = None
    until: int | None = None


class Count:
    """Rows as they go by: how many, and the first and last position."""

    def __init__(self) -> None:
        self.rows = 0
        self.first: int | None = None
        self.last: int | None = None

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows themselves."""
        for row in rows:
            if self.first is None:
                self.first = row.position
            self.rows, self.last = self.rows + 1, row.position
            yield row


class EventExport:
    """One export of a log's events, up to the head at the moment it is made.

    Rows are checked as they are read: what writes them raises LedgerCorrupt at the first one that is
    not as it was recorded. A file or folder is left as it was then; a stream ends before that row.
    """

    def __init__(self, log: Readable, wanted: Wanted, now: int) -> None:
        """Raises InvalidInput for positions that are not there."""
        self._log = log
        self._wanted = wanted
        head = log.head()
        self.last = head.position if wanted.upto is None else min(wanted.upto, head.position)
        if wanted.after > head.position:
            raise InvalidInput(
                f"there is no event {wanted.after} yet: the record ends at {head.position}",
                "give --after a position that is there",
            )
        self._now = now
        self.ledger_id = _ledger_id(log)

    def covered(self) -> Covered:
        """What it covers, for a manifest."""
        wanted = self._wanted
        return Covered(
            self.ledger_id,
            EVENTS,
            wanted.format,
            wanted.after,
            self.last,
            _hash_at(self._log, self.last).hex(),
            _hash_at(self._log, wanted.after).hex(),
            rfc3339(self._now),
            None if wanted.since is None else rfc3339(wanted.since),
            None if wanted.until is None else rfc3339(wanted.until),
            {"partitioned_by": "recorded_at"} if wanted.format == "parquet" else {},
        )

    def rows(self) -> Iterator[Row]:
        """The events wanted, in order. Raises LedgerCorrupt at the first that is not as recorded."""
        wanted = self._wanted
        rows = self._log.read(wanted.after, self.last)
        for row in checked(self._log, rows, wanted.after, _hash_at(self._log, wanted.after)):
            if (wanted.since is None or row.at >= wanted.since) and (
                wanted.until is None or row.at < wanted.until
            ):
                yield row

    def lines(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """Events as lines of the format."""
        if self._wanted.format == "jsonl":
            return lines_of(rows)
        source = source_of(self.ledger_id)
        return (_cloud_line(row, source) for row in rows)

    def to_stream(self, write: Write) -> Json:
        """Write lines; what was written."""
        count = Count()
        write_lines(self.lines(count.of(self.rows())), write)
        return _done(self, count)

    def to_file(self, path: Path, *, force: bool) -> Json:
        """Write lines to one file, through gzip where it ends in ``.gz``, and a manifest beside it.

        Raises InvalidInput where the file is there or cannot be written.
        """
        count, covered = Count(), self.covered()
        with (
            new_file(path, force=force) as partial,
            opened(partial, compressed=path.suffix == ".gz") as stream,
        ):
            write_lines(self.lines(count.of(self.rows())), stream.write)
        part = Part(path.name, count.rows, count.first, count.last)
        file_manifest(path, covered, part)
        return _done(self, count) | {"path": str(path)}

    def to_folder(self, path: Path, *, force: bool) -> Json:
        """Add files to a folder, and write its manifest. Raises InvalidInput."""
        if self._wanted.format == "parquet":
            from reports.exporting.parquet import require_pyarrow

            require_pyarrow()
        folder = Folder(path, self.covered(), force=force)
        count = Count()
        manifest = folder.fill(lambda staging: self._parts(staging, count))
        return _done(self, count) | {"path": str(path), "files": len(manifest["files"])}

    def _parts(self, staging: Path, count: Count) -> Iterator[Part]:
        rows = count.of(self.rows())
        if self._wanted.format == "parquet":
            from reports.exporting.parquet import write_events

            for name, first, last, number in write_events(rows, staging):
                yield Part(name, number, first, last)
            return
        name = f"events-{self._wanted.after + 1}-{self.last}.jsonl"
        with opened(staging / (name + PARTIAL), compressed=False) as stream:
            write_lines(self.lines(rows), stream.write)
        if count.rows:
            yield Part(name, count.rows, count.first, count.last)


def _done(export: EventExport, count: Count) -> Json:
    return {
        "export": EVENTS,
        "format": export._wanted.format,
        "ledger_id": export.ledger_id,
        "position": export.last,
        "rows": count.rows,
        "first_position": count.first,
        "last_position": count.last,
    }


def _cloud_line(row: Row, source: str) -> bytes:
    data = {"data": data_of(row)}
    if row.metadata is not None:
        try:
            data["metadata"] = orjson.loads(row.metadata)
        except ValueError:
            data["metadata"] = {"unreadable": row.metadata}
    event = cloud_event(row, source, subject_of_row(row), data)
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


def _ledger_id(log: Readable) -> str:
    for row in log.read(0, 1):
        return str(data_of(row).get("ledger_id", ""))
    return ""


def _hash_at(log: Readable, position: int) -> bytes:
    if position <= 0:
        return GENESIS
    row = next(iter(log.read(position - 1, position)), None)
    return b"" if row is None else row.hash


# --- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """A projection's table to be exported: its columns (name, SQL type) and rows, as of ``position``."""

    name: str
    columns: list[tuple[str, str]]
    rows: Iterator[tuple[Any, ...]]
    position: int


def table_lines(table: Table) -> Iterator[bytes]:
    """A table's rows as lines: names and values, JSON columns as they are stored."""
    names = [name for name, _ in table.columns]
    for row in table.rows:
        document = dict(zip(names, row, strict=True))
        yield orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def export_table(table: Table, path: Path, format: str, *, force: bool) -> Json:
    """Write a table to one file. Raises InvalidInput, also for a format that is for events only."""
    if format == "cloudevents":
        raise InvalidInput("only events can be CloudEvents", "use --format jsonl or parquet")
    if format == "parquet":
        from reports.exporting.parquet import require_pyarrow, write_table

        require_pyarrow()
        with new_file(path, force=force) as partial:
            count = write_table(table.columns, table.rows, partial)
    else:
        counted = _Counted(table_lines(table))
        with (
            new_file(path, force=force) as partial,
            opened(partial, compressed=path.suffix == ".gz") as stream,
        ):
            write_lines(counted, stream.write)
        count = counted.count
    return {
        "export": table.name,
        "format": format,
        "position": table.position,
        "rows": count,
        "path": str(path),
    }


class _Counted:
    """Lines, counted as they go by."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.count += 1
            yield line
