"""The openb format: what a cluster that shares GPUs ran, as a table of nodes and a table of pods.

Which of the two a file is shows in its head. Nodes: ``sn, cpu_milli, memory_mib, gpu, model``. Pods:
``name, cpu_milli, memory_mib, num_gpu, gpu_milli`` (of each GPU), ``gpu_spec`` (models, ``A|B``), ``qos,
pod_phase, creation_time, deletion_time, scheduled_time`` (seconds since the trace began). From
https://github.com/hkust-adsl/kubernetes-scheduler-simulator (Apache-2.0).

The trace does not say on which node a pod was: it stands somewhere in its pool. A pod without a
``scheduled_time`` never held anything: it asked, and left when it was deleted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Final

from leasebook.importers.base import Found, Inventory, Item, Options, Reject, Source, WrongFormat
from ledger.commands import Fact
from ledger.requests import CARD, Amounts, NodeSpec, Placement, Request
from reports.lives import UNPLACED
from reports.simulate.openb import MEBIBYTE, MODEL

NODE_COLUMNS: Final = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS: Final = (
    "name",
    "cpu_milli",
    "memory_mib",
    "num_gpu",
    "gpu_milli",
    "creation_time",
    "deletion_time",
    "scheduled_time",
)
POOL: Final = "openb"
NS_PER_S: Final = 1_000_000_000
DIGITS_MAX: Final = 12
NODES_AT_ONCE: Final = 5_000
_KEPT: Final = ("qos", "pod_phase", "gpu_spec")


class BadRow(Exception):
    """A row that cannot be understood, and why."""


Row = dict[str, str]


def read(source: Source, options: Options) -> Iterator[Item]:
    """The nodes, or the pods, of a trace. Raises WrongFormat for another table."""
    lines = source.lines()
    _, line = next(lines, (0, ""))
    head = [name.strip() for name in _fields(line)]
    pool = options.pool or POOL
    if set(NODE_COLUMNS) <= set(head):
        yield from _nodes(lines, head, pool, options.origin)
    elif set(POD_COLUMNS) <= set(head):
        yield from _pods(lines, head, pool, options)
    else:
        missing = [name for name in POD_COLUMNS if name not in head]
        raise WrongFormat(
            f"{source.name} is not in the openb format: its head has no column {missing[0]}",
            f"it needs {', '.join(POD_COLUMNS)}, or for nodes {', '.join(NODE_COLUMNS)}",
        )


def _fields(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    return next(csv.reader([line]), [])


def _rows(
    lines: Iterator[tuple[int, str]], head: list[str]
) -> Iterator[tuple[int, str, Row | None]]:
    """Each line with its fields by name; None where it has another number of fields than the head."""
    for number, line in lines:
        if line.strip():
            fields = _fields(line)
            right = len(fields) == len(head)
            yield number, line, dict(zip(head, fields, strict=True)) if right else None


def _nodes(
    lines: Iterator[tuple[int, str]], head: list[str], pool: str, origin: int
) -> Iterator[Item]:
    """The nodes of a table, all of them known from the trace's beginning on."""
    nodes: dict[str, NodeSpec] = {}
    for number, line, row in _rows(lines, head):
        try:
            spec = _node(row)
        except BadRow as error:
            yield Reject(number, str(error), line)
            continue
        nodes.setdefault(spec.name, spec)
    if nodes:
        yield Inventory(pool, tuple(nodes.values()), origin)


def _node(row: Row | None) -> NodeSpec:
    if row is None:
        raise BadRow("has another number of fields than the head")
    if not row["sn"].strip():
        raise BadRow("names no node")
    capacity = _amounts(row, cards=_whole(row, "gpu") * CARD)
    if not capacity:
        raise BadRow("is a node that has nothing")
    return NodeSpec(row["sn"].strip(), capacity, {MODEL: row["model"]} if row["model"] else None)


def _pods(
    lines: Iterator[tuple[int, str]], head: list[str], pool: str, options: Options
) -> Iterator[Item]:
    for number, line, row in _rows(lines, head):
        try:
            fact = _fact(row, pool, options)
        except BadRow as error:
            yield Reject(number, str(error), line)
            continue
        yield Found(number, pool, fact, line)


def _fact(row: Row | None, pool: str, options: Options) -> Fact:
    if row is None:
        raise BadRow("has another number of fields than the head")
    name = row["name"].strip()
    if not name:
        raise BadRow("names no pod")
    asked, began, ended = (
        _time(row, column, options.origin)
        for column in ("creation_time", "scheduled_time", "deletion_time")
    )
    if asked is None and began is None and ended is None:
        raise BadRow("says of no time")
    if began is not None and ended is not None and ended < began:
        raise BadRow("was deleted before it was scheduled")
    amounts = _amounts(row, cards=_whole(row, "num_gpu") * _whole(row, "gpu_milli"))
    models = "|".join(sorted(set(filter(None, row.get("gpu_spec", "").split("|")))))
    return Fact(
        key=f"openb:{pool}:{name}",
        holder=name,
        request=Request(amounts, select={MODEL: models} if models else None),
        tenant=options.tenant or "default",
        placements=() if began is None else (Placement(UNPLACED, amounts, {}),),
        requested_at=asked,
        began_at=began,
        ended_at=ended,
        ended_by="withdrawn" if began is None else "released",
        metadata={column: row[column] for column in _KEPT if row.get(column)} or None,
    )


def _amounts(row: Row, *, cards: int) -> Amounts:
    amounts = {
        "cpu": _whole(row, "cpu_milli"),
        "memory": _whole(row, "memory_mib") * MEBIBYTE,
        "gpu": cards,
    }
    return {resource: amount for resource, amount in amounts.items() if amount}


def _whole(row: Row, column: str) -> int:
    text = row[column].strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        raise BadRow(f"has {text[:40]!r} as {column}, which is no whole number")
    return int(text)


def _time(row: Row, column: str, origin: int) -> int | None:
    return origin + _whole(row, column) * NS_PER_S if row[column].strip() else None
