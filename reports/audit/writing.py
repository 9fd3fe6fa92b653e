"""A trail for programs: as the JSON document that every report gives, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any, Final, TextIO

import orjson

from ledger.codec import encode_body
from ledger.log import Row
from ledger.times import rfc3339
from reports.audit.entries import Entry, Trail, data_of
from reports.audit.telling import headline

Json = dict[str, Any]

COLUMNS: Final = (
    "position",
    "at",
    "recorded_at",
    "type",
    "tenant",
    "pool",
    "allocation",
    "holder",
    "task",
    "command_id",
    "subject",
    "text",
    "details",
    "links",
    "late_s",
    "source",
    "policy_position",
    "corrected_by",
    "redacted_by",
    "sound",
    "data",
    "metadata",
)
"""The columns of the CSV, which are the keys of the JSON's rows."""

_FORMULA: Final = frozenset("=+-@\t\r\n|%")


def row_out(entry: Entry) -> Json:
    """One entry as the JSON's row. ``data`` are the event's own fields, defaults left out."""
    row = entry.row
    data = data_of(row) if entry.event is None else encode_body(entry.event.body)
    return {
        "position": row.position,
        "at": rfc3339(row.at),
        "recorded_at": rfc3339(row.recorded_at),
        "type": row.type,
        "tenant": row.tenant,
        "pool": row.pool,
        "allocation": row.allocation,
        "holder": row.holder,
        "task": row.task,
        "command_id": row.command_id,
        "subject": subject_of(entry),
        "text": entry.text,
        "details": list(entry.details),
        "links": [
            {
                "relation": link.relation,
                "position": link.position,
                "allocation": link.allocation,
                "text": link.text,
            }
            for link in entry.links
        ],
        "late_s": None if entry.late_ns is None else entry.late_ns / 1e9,
        "source": entry.source,
        "policy_position": entry.policy,
        "corrected_by": _positions(entry, "corrected_by"),
        "redacted_by": _positions(entry, "redacted_by"),
        "sound": entry.sound,
        "data": data,
        "metadata": _metadata(row.metadata),
    }


def subject_of(entry: Entry) -> str:
    """What an entry is about: ``A17``, ``R19``, ``pool box``, ``task t``, … or ``ledger``."""
    known = subject_of_row(entry.row)
    return entry.about if known == "ledger" else known


def subject_of_row(row: Row) -> str:
    """As :func:`subject_of`, of an event that stands alone."""
    if row.allocation is not None:
        return row.allocation
    if row.type == "refused":
        return f"R{row.position}"
    if row.type == "quota_set":
        return f"tenant {row.tenant}"
    for name in ("pool", "task", "holder"):
        value = getattr(row, name)
        if value is not None:
            return f"{name} {value}"
    return "ledger"


def _positions(entry: Entry, relation: str) -> list[int]:
    return [k.position for k in entry.links if k.relation == relation and k.position is not None]


def _metadata(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except ValueError:
        return text


def trail_document(trail: Trail) -> Json:
    """The trail as a report's document: the contract's keys, and ``rests_on``."""
    asked, rests = trail.asked, trail.rests
    since, until = asked.since, asked.until
    return {
        "report": "audit",
        "position": rests.head,
        "generated_at": rfc3339(trail.made_at),
        "since": _bound(since, asked.after + 1 if asked.after else None),
        "until": _bound(until, None if asked.upto is None else asked.upto + 1),
        "headline": headline(trail),
        "filters": asked.filters(),
        "rows": [row_out(entry) for entry in trail.entries],
        "rests_on": {
            "ledger_id": rests.ledger_id,
            "head": rests.head,
            "head_hash": rests.head_hash.hex(),
            "first_position": rests.first,
            "last_position": rests.last,
            "checked": rests.checked,
            "ok": rests.ok,
            "unsound": list(rests.unsound),
            "redacted": list(rests.redacted),
            "unknown": list(rests.unknown),
        },
    }


def _bound(time_ns: int | None, position: int | None) -> str | None:
    if time_ns is not None:
        return rfc3339(time_ns)
    return None if position is None else f"#{position}"


# --- CSV -----------------------------------------------------------------------------------------


def safe_cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula.

    Text that begins with ``= + - @``, a tab, a line's end, ``|`` or ``%`` gets an apostrophe before it
    (OWASP, CSV injection); so does text that begins with an apostrophe, so that taking one away gives
    back what was there. Numbers, booleans and None stay what they are.
    """
    if not isinstance(value, str) or not value:
        return value
    # Spaces before it do not keep a spreadsheet from evaluating what follows.
    first = value.lstrip(" ")[:1]
    return "'" + value if first in _FORMULA or first == "'" else value


def trail_csv(trail: Trail, stream: TextIO) -> None:
    """One row per event under :data:`COLUMNS`, lines ended as RFC 4180 has it. Lists and objects are
    JSON in their cell; see :func:`safe_cell` for cells that would be formulas."""
    write_csv(stream, COLUMNS, (row_out(entry) for entry in trail.entries))


def write_csv(stream: TextIO, columns: Iterable[str], rows: Iterable[Json]) -> None:
    """Rows as CSV, made safe for spreadsheets."""
    head = list(columns)
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([safe_cell(_cell(row.get(name))) for name in head])


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return orjson.dumps(value).decode() if value else ""
    return value
