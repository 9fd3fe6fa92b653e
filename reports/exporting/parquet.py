"""The log as Parquet, partitioned by day in Hive's style: ``date=2026-11-22/events-1-5000.parquet``.

The day is that of ``recorded_at`` (UTC), which never falls with position: so a day once over gets no
more rows, an export that goes on from an earlier one adds files and changes none, and one file at a
time is open however many days an import reaches back. Filter by ``at`` for when things happened; the
row groups carry its bounds.

Needs pyarrow (the ``parquet`` extra).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

import orjson

from ledger.errors import InvalidInput
from ledger.log import Row

BATCH_ROWS: Final = 20_000
"""Rows of one row group, and what is in memory at a time."""
FILE_ROWS_MAX: Final = 2_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_NS: Final = 86_400 * 1_000_000_000


def require_pyarrow() -> Any:
    """The pyarrow module. Raises InvalidInput where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InvalidInput(
            "Parquet needs pyarrow, which is not installed",
            "install it with: pip install 'leasebook[parquet]', or use --format jsonl",
        ) from None
    return pyarrow


def event_schema() -> Any:
    """The columns of exported events."""
    pa = require_pyarrow()
    text, moment = pa.string(), pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            pa.field("position", pa.int64(), nullable=False),
            pa.field("at", moment, nullable=False),
            pa.field("recorded_at", moment, nullable=False),
            pa.field("at_ns", pa.int64(), nullable=False),
            pa.field("recorded_at_ns", pa.int64(), nullable=False),
            pa.field("type", text, nullable=False),
            pa.field("schema", pa.int32(), nullable=False),
            pa.field("tenant", text, nullable=False),
            pa.field("pool", text),
            pa.field("allocation", text),
            pa.field("holder", text),
            pa.field("task", text),
            pa.field("command_id", text),
            pa.field("amounts", pa.map_(text, pa.int64())),
            pa.field("data", text, nullable=False),
            pa.field("metadata", text),
            pa.field("digest", pa.binary(32), nullable=False),
            pa.field("hash", pa.binary(32), nullable=False),
        ]
    )


def amounts_of(row: Row) -> list[tuple[str, int]] | None:
    """What an event is about in base units: granted, else asked for; None where it names neither."""
    try:
        data = orjson.loads(row.data)
        found = data.get("amounts")
        if found is None:
            found = data["request"]["amounts"]
        return [(str(r), int(a)) for r, a in found.items() if -(2**63) <= int(a) < 2**63]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def day_of(time_ns: int) -> str:
    """The day in UTC: ``2026-11-22``."""
    return f"{_EPOCH + timedelta(days=time_ns // _DAY_NS):%Y-%m-%d}"


def write_events(rows: Iterable[Row], folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """Write events under ``folder``; yields (name, first and last position, rows) of each file written.

    Every name has ``.partial`` behind it, until the caller has renamed it. Raises InvalidInput without
    pyarrow, OSError.
    """
    for day, of_day in groupby(rows, key=lambda row: day_of(row.recorded_at)):
        inside = folder / f"date={day}"
        inside.mkdir(parents=True, exist_ok=True)
        following = iter(of_day)
        while (first := next(following, None)) is not None:
            last, count = _write_file(inside / "events.parquet.partial", first, following)
            name = f"events-{first.position}-{last.position}.parquet"
            (inside / "events.parquet.partial").rename(inside / f"{name}.partial")
            yield f"date={day}/{name}", first.position, last.position, count


def _write_file(path: Path, first: Row, following: Iterator[Row]) -> tuple[Row, int]:
    pa = require_pyarrow()
    schema = event_schema()
    last, count = first, 0
    batch = [first, *islice(following, BATCH_ROWS - 1)]
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch:
            writer.write_batch(_batch(pa, schema, batch), row_group_size=BATCH_ROWS)
            last, count = batch[-1], count + len(batch)
            batch = [] if count >= FILE_ROWS_MAX else list(islice(following, BATCH_ROWS))
    return last, count


def _batch(pa: Any, schema: Any, rows: list[Row]) -> Any:
    columns = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
    columns["at_ns"], columns["recorded_at_ns"] = columns["at"], columns["recorded_at"]
    for name in ("at", "recorded_at"):
        # Whole microseconds: the nanoseconds stand in the column beside.
        columns[name] = tuple(time_ns // 1000 for time_ns in columns[name])
    columns["amounts"] = tuple(map(amounts_of, rows))
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.record_batch(arrays, schema=schema)


# --- tables --------------------------------------------------------------------------------------

_MAPS: Final = frozenset({"amounts", "used", "peak"})


def table_schema(columns: Iterable[tuple[str, str]]) -> Any:
    """The columns of a table: (name, SQL type) → Arrow. ``_at`` becomes a timestamp, amounts a map."""
    pa = require_pyarrow()
    kinds = {"INTEGER": pa.int64(), "REAL": pa.float64(), "FLOAT": pa.float64()}

    def kind(name: str, declared: str) -> Any:
        if is_map(name, declared):
            return pa.map_(pa.string(), pa.int64())
        if is_time(name, declared):
            return pa.timestamp("us", tz="UTC")
        return kinds.get(declared.upper(), pa.string())

    return pa.schema([pa.field(name, kind(name, declared)) for name, declared in columns])


def is_map(name: str, declared: str) -> bool:
    """Whether a table's column holds amounts by resource, as JSON: named so, and a text."""
    return declared.upper() == "TEXT" and name in _MAPS


def is_time(name: str, declared: str) -> bool:
    """Whether a table's column holds a time: named so, and an integer."""
    return declared.upper() == "INTEGER" and (name == "at" or name.endswith("_at"))


def write_table(columns: list[tuple[str, str]], rows: Iterator[tuple[Any, ...]], path: Path) -> int:
    """Write a table's rows to one file; how many there were."""
    pa = require_pyarrow()
    schema = table_schema(columns)
    times = {name for name, declared in columns if is_time(name, declared)}
    maps = {name for name, declared in columns if is_map(name, declared)}
    count = 0
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            arrays = []
            for (name, _), values, field in zip(
                columns, zip(*batch, strict=True), schema, strict=True
            ):
                arrays.append(
                    _array(pa, [_value(name, v, times, maps) for v in values], field.type)
                )
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(batch)
    return count


def _array(pa: Any, values: list[Any], kind: Any) -> Any:
    if pa.types.is_floating(kind):
        # Sums are whole up to 64 bits, and beyond what a float holds exactly.
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)


def _value(name: str, value: Any, times: set[str], maps: set[str]) -> Any:
    if value is None:
        return None
    if name in times:
        return value // 1000
    if name in maps:
        # Not orjson: it rounds what is beyond 64 bits.
        amounts = json.loads(value)
        for resource, amount in amounts.items():
            if not -(2**63) <= amount < 2**63:
                raise InvalidInput(
                    f"{name} has {amount} of {resource} in one row, more than 64 bits hold",
                    "use --format jsonl, which takes any number",
                )
        return list(amounts.items())
    return value
