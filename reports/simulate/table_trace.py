"""Any table as a trace: one request a line, its columns told by a mapping.

The mapping says which column is what: ``start`` (or ``arrived``), ``end`` or ``duration``, ``holder``,
``task``, ``name``, and resources, each as ``cpu=cores`` or with a unit, ``memory=mem_mb:MiB``. Times
are seconds, relative or since 1970, or RFC 3339.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

from ledger.amounts import InvalidValue, parse_amount
from ledger.requests import Request
from reports.simulate.lifetimes import Job
from reports.simulate.openb import BadTrace

_WORDS = ("name", "start", "arrived", "end", "duration", "holder", "task")


def read_table(path: Path, mapping: dict[str, str]) -> list[Job]:
    """The jobs of a table, in order of arrival. An empty end or duration holds to the end.

    Raises BadTrace for a column that is not there and for a line that cannot be understood.
    """
    resources = {key: value for key, value in mapping.items() if key not in _WORDS}
    start = mapping.get("start") or mapping.get("arrived")
    if start is None or not resources:
        raise BadTrace(
            "the mapping names no start column, or no resource",
            "give --map start=COLUMN,duration=COLUMN,cpu=COLUMN",
        )
    jobs = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = {column.partition(":")[0] for column in mapping.values()}
        missing = sorted(wanted - set(reader.fieldnames or ()))
        if missing:
            raise BadTrace(
                f"{path.name} has no column {', '.join(missing)}",
                f"it has {', '.join(reader.fieldnames or ())}",
            )
        for row in reader:
            where = f"{path.name} line {reader.line_num}"
            if None in row or None in row.values():
                raise BadTrace(
                    f"{where} has another number of fields than the head",
                    "mend the line or take it out",
                )
            jobs.append(_job(where, row, mapping, start, resources))
    jobs.sort(key=lambda job: (job.arrived_s, job.name))
    return jobs


def _job(
    where: str, row: dict[str, str], mapping: dict[str, str], start: str, resources: dict[str, str]
) -> Job:
    arrived = _seconds(where, start, row[start])
    lasts = None
    if mapping.get("duration") and row[mapping["duration"]]:
        lasts = _seconds(where, mapping["duration"], row[mapping["duration"]])
    elif mapping.get("end") and row[mapping["end"]]:
        lasts = _seconds(where, mapping["end"], row[mapping["end"]]) - arrived
    if lasts is not None and lasts < 0:
        raise BadTrace(f"{where} ends before it begins", "mend the line or take it out")
    amounts = {}
    for resource, column in resources.items():
        name, _, unit = column.partition(":")
        if not row[name]:
            continue
        try:
            amount = parse_amount(resource, row[name] + unit, allow_zero=True)
        except InvalidValue as error:
            raise BadTrace(f"{where}: {error.message}", "mend the line or take it out") from None
        if amount:
            amounts[resource] = amount
    if not amounts:
        raise BadTrace(f"{where} asks for nothing", "take the line out")
    named = row[mapping["name"]] if "name" in mapping else where.rpartition(" ")[2]
    holder = (row[mapping["holder"]] if "holder" in mapping else "") or "trace"
    task = row[mapping["task"]] if "task" in mapping else ""
    return Job(named, Request(amounts), arrived, lasts, holder, task or None)


def _seconds(where: str, column: str, text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadTrace(
            f"{where}: {column} is {text[:40]!r}, not a time", "seconds, or 2026-11-22T06:49:00Z"
        ) from None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    return int(moment.timestamp())
