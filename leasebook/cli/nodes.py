"""Nodes as they are typed: one by one, as a range, as a CSV file, or as this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from leasebook.cli.options import amounts_in, pairs_in
from ledger.errors import InvalidInput

if TYPE_CHECKING:
    from ledger.requests import NodeSpec

NODES_IN_RANGE_MAX = 20_000
CSV_BYTES_MAX = 16 * 1024 * 1024

_RANGE = re.compile(r"(.*?)(\d{1,12})\.\.(\d{1,12})\Z", re.DOTALL)


class Nodes(NamedTuple):
    """Nodes as they were typed: name → resource → text, and name → label → value."""

    capacity: dict[str, dict[str, Any]]
    labels: dict[str, dict[str, str]]

    def add(self, name: str, amounts: dict[str, Any], labels: dict[str, str]) -> None:
        """Take one more node. Raises InvalidInput where it was given before."""
        if name in self.capacity:
            raise InvalidInput(f"node {name[:40]!r} was given twice", "name each node once")
        self.capacity[name] = amounts
        if labels:
            self.labels[name] = labels


def host_amounts() -> tuple[dict[str, Any], str]:
    """This machine's size with a tenth kept free, as ``run`` takes it; and where it comes from."""
    from leasebook.run.sizing import machine_pool
    from ledger.amounts import format_amounts

    capacity, basis = machine_pool()
    return {**format_amounts(capacity)}, basis


def checked(pool: str, many: Nodes) -> list[NodeSpec]:
    """The nodes of a pool as announcements. Raises InvalidInput, before a ledger is made for them."""
    from leasebook.mapping import node_in
    from ledger.amounts import check_name
    from ledger.rules.validity import check_nodes

    check_name("pool", pool)
    specs = [node_in(name, size, many.labels.get(name)) for name, size in many.capacity.items()]
    check_nodes(tuple(specs))
    return specs


def nodes_in(given: Iterable[str]) -> Nodes:
    """Nodes from ``n1:cpu=64,gpu=2,label:model=T4`` and ``3100..3199:port=1``. Raises InvalidInput."""
    found = Nodes({}, {})
    for text in given:
        name, colon, rest = text.partition(":")
        if not colon or not name:
            raise InvalidInput(
                f"--node {text[:40]!r} is no node", "write NAME:RESOURCE=AMOUNT,… as n1:cpu=64"
            )
        parts = [part for part in rest.split(",") if part]
        labels = [p.removeprefix("label:") for p in parts if p.startswith("label:")]
        amounts = amounts_in(p for p in parts if not p.startswith("label:"))
        for one in _names(name):
            found.add(one, amounts, pairs_in("label:", labels))
    return found


def _names(name: str) -> list[str]:
    """The names that a range stands for, ``p08..p12`` with its zeros; one name is itself."""
    match = _RANGE.match(name)
    if match is None:
        return [name]
    first, last = int(match[2]), int(match[3])
    if not 0 <= last - first < NODES_IN_RANGE_MAX:
        raise InvalidInput(
            f"the nodes {name[:40]!r} are {max(0, last - first + 1)} nodes",
            f"give 1 to {NODES_IN_RANGE_MAX}, the lower number first",
        )
    width = len(match[2]) if match[2].startswith("0") else 0
    return [f"{match[1]}{number:0{width}}" for number in range(first, last + 1)]


def read_nodes(file: str, found: Nodes) -> None:
    """Add the nodes of a CSV file. Raises InvalidInput where it cannot be read as one."""
    import csv
    import io
    from pathlib import Path

    from leasebook.schemas import node_row

    try:
        path = Path(file)
        if path.stat().st_size > CSV_BYTES_MAX:
            raise InvalidInput(f"{file} is larger than 16 MiB", "split it into several pools")
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
        raise InvalidInput(f"{file} cannot be read: {why}", "name a CSV file") from None
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InvalidInput(f"{file} is no CSV table: {error}", "mend it") from None
    if not rows:
        raise InvalidInput(f"{file} has no nodes", "give a head with a column name, and rows")
    for line, row in enumerate(rows, 2):
        if None in row:
            raise InvalidInput(f"line {line} of {file} has more cells than the head", "mend it")
        filled = {str(k).strip(): v.strip() for k, v in row.items() if v is not None and v.strip()}
        node = node_row(filled, line)
        amounts: dict[str, Any] = {}
        labels: dict[str, str] = {}
        for column, value in (node.model_extra or {}).items():
            if column.startswith("label:"):
                labels[column.removeprefix("label:")] = value
            else:
                amounts[column] = value
        found.add(node.name, amounts, labels)
