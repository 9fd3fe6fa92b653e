"""The openb format: nodes and pods of a cluster that shares GPUs, as two CSV files.

Nodes: ``sn, cpu_milli, memory_mib, gpu, model``. Pods: ``name, cpu_milli, memory_mib, num_gpu,
gpu_milli`` (of each GPU), ``gpu_spec`` (models, ``A|B``), ``creation_time, deletion_time`` (seconds).
From https://github.com/hkust-adsl/kubernetes-scheduler-simulator (Apache-2.0).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger.amounts import InvalidValue
from ledger.requests import CARD, Amounts, NodeSpec, Request

MEBIBYTE = 2**20
MODEL = "model"
"""The label that says which GPUs a node has."""
_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")


class BadTrace(InvalidValue):
    """A file that is not the trace it should be: which line, and why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace: its name, what it asks for, and when it came and went (seconds).

    The times are None where the trace does not say.
    """

    name: str
    request: Request
    arrived_s: int | None = None
    left_s: int | None = None


def read_nodes(path: Path) -> list[NodeSpec]:
    """The nodes of a cluster, in the file's order. Raises BadTrace for a line that is not a node."""
    nodes = []
    for line, row in _rows(path, _NODE_COLUMNS):
        capacity = _amounts(
            {
                "cpu": _whole(path, line, row, "cpu_milli"),
                "memory": _whole(path, line, row, "memory_mib") * MEBIBYTE,
                "gpu": _whole(path, line, row, "gpu") * CARD,
            }
        )
        labels = {MODEL: row["model"]} if row["model"] else {}
        nodes.append(NodeSpec(row["sn"], capacity, labels))
    return nodes


def read_pods(path: Path) -> list[Arrival]:
    """The requests of a trace, in the file's order. Raises BadTrace for a line that is not a pod."""
    return [_arrival(path, line, row) for line, row in _rows(path, _POD_COLUMNS)]


def _arrival(path: Path, line: int, row: dict[str, str]) -> Arrival:
    cards = _whole(path, line, row, "num_gpu")
    milli = _whole(path, line, row, "gpu_milli") if cards else 0
    if milli > CARD or (cards > 1 and milli != CARD):
        raise BadTrace(
            f"{path.name} line {line} asks for {cards} GPUs with {milli} thousandths of each",
            "a share is of one GPU; several are whole",
        )
    amounts = _amounts(
        {
            "cpu": _whole(path, line, row, "cpu_milli"),
            "memory": _whole(path, line, row, "memory_mib") * MEBIBYTE,
            "gpu": cards * milli,
        }
    )
    if not amounts:
        raise BadTrace(f"{path.name} line {line} asks for nothing", "take the line out")
    models = "|".join(sorted(set(row["gpu_spec"].split("|")))) if row["gpu_spec"] else ""
    return Arrival(
        row["name"],
        Request(amounts, select={MODEL: models} if models else None),
        _time(path, line, row, "creation_time"),
        _time(path, line, row, "deletion_time"),
    )


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise BadTrace(
                f"{path.name} has no column {', '.join(missing)}",
                "give a file in the openb format, or another --format",
            )
        for row in reader:
            if None in row or None in row.values():
                raise BadTrace(
                    f"{path.name} line {reader.line_num} has another number of fields than the head",
                    "mend the line or take it out",
                )
            yield reader.line_num, row


def _whole(path: Path, line: int, row: dict[str, str], column: str) -> int:
    text = row[column]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadTrace(
            f"{path.name} line {line}: {column} is {text!r}, not a whole number",
            "mend the line or take it out",
        )
    return int(text)


def _time(path: Path, line: int, row: dict[str, str], column: str) -> int | None:
    return _whole(path, line, row, column) if row.get(column) else None


def _amounts(amounts: Amounts) -> Amounts:
    return {resource: amount for resource, amount in amounts.items() if amount}
