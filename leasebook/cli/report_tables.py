"""Reports as tables for a terminal, made from the same documents that programs get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.amounts import BYTE_RESOURCES, MILLI_RESOURCES

Row = Mapping[str, Any]

SHARES = ("EFFICIENCY", "COVERAGE")


def report_table(document: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """A report as a table with its headline below; only the headline where there are no rows."""
    from leasebook.cli.text import table

    rows = document["rows"]
    if not rows:
        return str(document["headline"])
    if document["report"] == "utilization":
        head, cells = _utilization(rows)
    elif document["report"] == "compare":
        head = (
            keys[0].upper(),
            *["GRANTED", "WAITED", "MEDIAN WAIT", "NODES", "EFFICIENCY", "COVERAGE"],
        )
        cells = [_compared(row, keys[0]) for row in rows]
    else:
        head = (keys[0].upper(), "ALLOCATIONS", "HELD", "WAITED", *SHARES)
        cells = [_efficient(row, keys[0]) for row in rows]
    return f"{table(head, cells)}\n{document['headline']}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _efficiency_text(values: Mapping[str, float | None] | None) -> str:
    return " ".join(f"{r}={_share(v)}" for r, v in (values or {}).items()) or "-"


def _efficient(row: Row, by: str) -> tuple[str | None, ...]:
    from leasebook.cli.text import span_text

    return (
        row[by],
        str(row["allocations"]),
        span_text(row["held_s"]),
        span_text(row["wait_s"]),
        _efficiency_text(row["efficiency"]),
        _share(row["coverage"]),
    )


def _compared(row: Row, by: str) -> tuple[str | None, ...]:
    from leasebook.cli.text import span_text

    wait = row["wait_s_median"]
    return (
        row[by],
        str(row["granted"]),
        str(row["waited"]),
        None if wait is None else span_text(wait),
        str(row["nodes"]),
        _efficiency_text(row["efficiency"]),
        _share(row["coverage"]),
    )


def _utilization(rows: list[Row]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Hours of each resource, and how much of the capacity that is where it is known."""
    first = list(rows[0])
    names = first[: first.index("capacity_seconds")]
    resources = sorted({resource for row in rows for resource in row["granted_seconds"]})
    head = (
        *(name.upper() for name in names),
        *(f"{resource.upper()} {_unit(resource)}" for resource in resources),
        *["OF CAPACITY", "HELD H", "NODE H", "STARTED", "ENDED", "RUNNING", "WAIT H"],
    )
    return head, [_utilized(row, names, resources) for row in rows]


def _unit(resource: str) -> str:
    return "GiB·H" if resource in BYTE_RESOURCES else "H"


def _hours(resource: str, base_seconds: int | None) -> str | None:
    if base_seconds is None:
        return None
    scale = 1000 if resource in MILLI_RESOURCES else 1 << 30 if resource in BYTE_RESOURCES else 1
    return f"{base_seconds / scale / 3600:.2f}"


def _utilized(row: Row, names: list[str], resources: list[str]) -> tuple[Any, ...]:
    granted, capacity = row["granted_seconds"], row["capacity_seconds"] or {}
    over = row["over_capacity"] or {}
    shares = [
        f"{resource}={granted.get(resource, 0) / there:.1%}{'!' if resource in over else ''}"
        for resource, there in sorted(capacity.items())
        if there
    ]
    shares += [f"{resource}!" for resource in over if not capacity.get(resource)]
    return (
        *(row[name] for name in names),
        *(_hours(resource, granted.get(resource)) for resource in resources),
        " ".join(shares) or None,
        f"{row['held_s'] / 3600:.2f}",
        f"{row['nodes_seconds'] / 3600:.2f}",
        str(row["allocations_started"]),
        str(row["allocations_ended"]),
        str(row["allocations_running"]),
        f"{row['wait_s'] / 3600:.2f}",
    )
