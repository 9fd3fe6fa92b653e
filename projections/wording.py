"""Wording: amounts, times, durations, places and people as the sentences of a story write them.

What came from outside is shown with :func:`plain`, so that no name can act on a terminal or end a
line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ledger.amounts import format_amounts
from ledger.identity import ProcessIdentity
from ledger.requests import Amounts, NodeSpec, Placement
from ledger.times import rfc3339

NAMED_MAX = 6
"""How many of a list are named before the rest is only counted."""

_SECOND = 1_000_000_000


def plain(text: object) -> str:
    """Text on one line, what a terminal would act on written out: ``\\x1b``."""
    joined = " ".join(str(text).split())
    return joined if joined.isprintable() else "".join(map(_printable, joined))


def _printable(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def moment_text(time_ns: int) -> str:
    """A time in UTC for a reader: ``2026-11-22 06:49:00``."""
    return rfc3339(time_ns)[:19].replace("T", " ")


def lasting(ns: int) -> str:
    """A duration for a reader: ``27 ms``, ``4.5 s``, ``3 min 9 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if ns < 0:
        return "-" + lasting(-ns)
    if ns < _SECOND:
        return f"{ns / 1e6:.3g} ms" if ns >= 1_000 else f"{ns} ns"
    if ns < 120 * _SECOND:
        return f"{ns / 1e9:.3g} s"
    if ns < 600 * _SECOND:
        minutes, seconds = divmod(round(ns / _SECOND), 60)
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    minutes = round(ns / (60 * _SECOND))
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def amounts_text(amounts: Amounts) -> str:
    """``cpu=2 memory=4Gi``; ``nothing`` where there are none."""
    return " ".join(f"{r}={text}" for r, text in format_amounts(amounts).items()) or "nothing"


def some(values: Iterable[object]) -> str:
    """``a, b and c``; beyond :data:`NAMED_MAX` the rest is counted."""
    named = [plain(value) for value in values]
    if len(named) > NAMED_MAX:
        named = [*named[:NAMED_MAX], f"{len(named) - NAMED_MAX} more"]
    return " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]]))


def many(count: int, one: str, more: str | None = None) -> str:
    """``1 event``, ``3 events``."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def words(name: object) -> str:
    """A name of ours as words: ``insufficient_capacity`` → ``insufficient capacity``."""
    return plain(name).replace("_", " ")


def where(placements: Sequence[Placement]) -> str:
    """``n1``, ``n2 (gpu 0, 3)``; of many nodes the first ones and how many more."""
    parts = []
    for placed in placements:
        cards = "; ".join(
            f"{resource} {', '.join(shares)}" for resource, shares in (placed.devices or {}).items()
        )
        parts.append(placed.node + (f" ({cards})" if cards else ""))
    return some(parts)


def node_text(node: NodeSpec) -> str:
    """``n1 with cpu=64 gpu=2 (model=T4)``."""
    labels = ", ".join(f"{name}={value}" for name, value in (node.labels or {}).items())
    return f"{node.name} with {amounts_text(node.capacity)}" + (f" ({labels})" if labels else "")


def nodes_text(nodes: Sequence[NodeSpec]) -> str:
    """The nodes, each with its size; of many alike, how many there are."""
    if len(nodes) <= 3:
        return "; ".join(plain(node_text(node)) for node in nodes) or "no node"
    total: Amounts = {}
    for node in nodes:
        for resource, amount in node.capacity.items():
            total[resource] = total.get(resource, 0) + amount
    return f"{len(nodes):,} nodes ({some(n.name for n in nodes)}), {amounts_text(total)} together"


def process_text(process: ProcessIdentity) -> str:
    """``process 42 on host``."""
    return f"process {process.pid} on {plain(process.host.partition('#')[0])}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings of a policy: ``strategy best_fit, ageing 5 min``; ``_ns`` is read as a duration."""
    parts = []
    for name, value in settings.items():
        if name.endswith("_ns") and isinstance(value, int):
            parts.append(f"{words(name.removesuffix('_ns'))} {lasting(value)}")
        elif name == "refill_from" and isinstance(value, int):
            parts.append(f"refill from {moment_text(value)}")
        elif isinstance(value, dict) and all(isinstance(v, int) for v in value.values()):
            parts.append(f"{words(name)} {amounts_text(value)}")
        else:
            parts.append(f"{words(name)} {'none' if value is None else plain(value)}")
    return ", ".join(parts)


def facts_text(facts: Mapping[str, Any]) -> str:
    """Facts of any kind: ``ended by: released, granted at: 2026-11-22 06:49:00``.

    Names that end in ``_at``, ``_before`` or ``until`` hold times (ns UTC), those in ``_ns`` durations.
    """
    return ", ".join(f"{words(name)}: {_fact(name, value)}" for name, value in facts.items())


def _fact(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith(("_at", "_before", "until", "since", "deadline")):
            return moment_text(value)
        if name.endswith("_ns"):
            return lasting(value)
    if isinstance(value, list | tuple):
        return some(value)
    if isinstance(value, dict):
        return "{" + facts_text(value) + "}"
    return plain(value)
