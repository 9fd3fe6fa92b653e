"""Any table as a trace: one request a line, its columns told by a mapping.

The mapping says which column is what: ``arrived`` (when it was asked), ``start`` (when it began),
``end`` or ``duration``, ``holder``, ``task``, ``name``, and resources, each as ``cpu=cores`` or with a
unit, ``memory=mem_mb:MiB``. Times are seconds, relative or since 1970, or with a unit (``end=t:ms``), or
RFC 3339.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from ledger.amounts import InvalidValue, check_name, check_resource_name, parse_amount
from ledger.requests import Request
from reports.simulate.traces import SECOND, Arrival, BadTrace, asked, at, rows

_TIMES = ("arrived", "start", "end", "duration")
_WORDS = ("name", "holder", "task")
_UNITS = {"": SECOND, "s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
_LATEST_NS = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Column(NamedTuple):
    name: str
    unit: str


def read_table(path: Path, mapping: dict[str, str]) -> list[Arrival]:
    """The requests of a table, in the file's order. An empty end or duration holds to the end.

    With both ``arrived`` and ``start``, an empty start never began. Raises BadTrace for a mapping that
    makes no sense, a column that is not there, and a line that cannot be understood.
    """
    columns = _columns(mapping)
    wanted = list(dict.fromkeys(column.name for column in columns.values()))
    return [_arrival(where, row, columns) for where, row in rows(path, wanted)]


def _columns(mapping: dict[str, str]) -> dict[str, _Column]:
    columns = {}
    for what, text in mapping.items():
        name, _, unit = text.partition(":")
        if what in _TIMES and unit not in _UNITS:
            raise BadTrace(f"{what}={text[:40]} has no unit of time", f"write {what}=COLUMN:ms")
        if what not in (*_TIMES, *_WORDS):
            check_resource_name(what)
        columns[what] = _Column(text if what in _WORDS else name, unit)
    if not columns.keys() & {"start", "arrived"} or not columns.keys() - {*_TIMES, *_WORDS}:
        raise BadTrace(
            "the mapping names no start column, or no resource",
            "give --map start=COLUMN,duration=COLUMN,cpu=COLUMN",
        )
    if {"end", "duration"} <= columns.keys():
        raise BadTrace("the mapping names an end and a duration", "name one of them")
    return columns


def _arrival(where: str, row: dict[str, str], columns: dict[str, _Column]) -> Arrival:
    began = _time(where, row, columns.get("start"))
    arrived = _time(where, row, columns["arrived"]) if "arrived" in columns else began
    left = _time(where, row, columns.get("end"))
    since = arrived if began is None else began
    if began is not None and arrived is not None and began < arrived:
        raise BadTrace(f"{where} begins before it is asked", "mend the line or take it out")
    lasts = _time(where, row, columns.get("duration"), is_span=True)
    if lasts is not None and since is not None:
        left = since + lasts
    if (lasts or 0) < 0 or (left is not None and since is not None and left < since):
        raise BadTrace(f"{where} ends before it begins", "mend the line or take it out")
    with at(where):
        holder = check_name("holder", _word(row, columns.get("holder")) or "trace")
        task = _word(row, columns.get("task"))
        return Arrival(
            _word(row, columns.get("name")) or f"{int(where.rpartition(' ')[2]):09}",
            Request(_amounts(where, row, columns)),
            arrived,
            left,
            began,
            ran=began is not None or not {"arrived", "start"} <= columns.keys(),
            holder=holder,
            task=check_name("task", task) if task else None,
        )


def _word(row: dict[str, str], column: _Column | None) -> str:
    return "" if column is None else row[column.name]


def _amounts(where: str, row: dict[str, str], columns: dict[str, _Column]) -> dict[str, int]:
    amounts = {}
    for resource, column in columns.items():
        text = row[column.name].strip()
        if resource not in (*_TIMES, *_WORDS) and text:
            amounts[resource] = parse_amount(resource, text + column.unit, allow_zero=True)
    return asked(where, amounts)


def _time(
    where: str, row: dict[str, str], column: _Column | None, *, is_span: bool = False
) -> int | None:
    """A field as nanoseconds; None where there is no such column, or nothing in it."""
    text = "" if column is None else row[column.name].strip()
    if column is None or not text:
        return None
    try:
        ns = _number_ns(text, _UNITS[column.unit])
        if ns is None and not is_span:
            ns = _moment_ns(text)
    except (ValueError, OverflowError):
        ns = None
    if ns is None or abs(ns) >= _LATEST_NS:
        example = "seconds" if is_span else "seconds, or 2026-11-22T06:49:00Z"
        raise BadTrace(f"{where}: {column.name} is {text[:40]!r}, not a time", example)
    return ns


def _number_ns(text: str, unit_ns: int) -> int | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > 20 or "_" in text:
        raise InvalidValue("no time", "give another")
    return int(number * unit_ns)


def _moment_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
