"""Comparing strategies (or any other grouping) by what became of their requests: A/B for policies.

Each grant records the strategy that placed it, so a roll-out's share can be set beside the rest. What
nobody waited for, or nobody measured, is missing, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from ledger.events import Adjusted, Allocated, Event, Reserved
from reports.efficiency import rows_of, uses_of
from reports.efficiency_uses import Use, begun_within, note_kind

KEYS: Final = ("strategy", "pool", "tenant", "holder", "task")


@dataclass(slots=True)
class Comparison:
    """One group's grants: how many, how long they waited, where they landed, how they ended.

    ``waits_s`` are those of requests that waited; ``nodes`` counts grants per node; ``adjusted`` counts
    changes by the ledger itself (elastic requests).
    """

    key: str | None
    granted: int = 0
    waits_s: list[float] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)
    adjusted: int = 0

    def to_json(self) -> dict[str, Any]:
        """The row, with quantiles of the waits (None where nobody waited)."""
        waits = sorted(self.waits_s)
        return {
            "granted": self.granted,
            "waited": len(waits),
            "wait_s_median": median(waits) if waits else None,
            "wait_s_max": waits[-1] if waits else None,
            "nodes": len(self.nodes),
            "grants_on_busiest_node": max(self.nodes.values(), default=0),
            "adjusted_by_ledger": self.adjusted,
        }


def _key_of(event: Event, by: str) -> str | None:
    if by == "strategy":
        body = event.body
        return body.strategy if isinstance(body, Allocated | Reserved) else None
    value: str | None = getattr(event, by)
    return value


def compare(
    events: Iterable[Event],
    by: str = "strategy",
    *,
    now: int,
    since: int | None = None,
    until: int | None = None,
) -> list[dict[str, Any]]:
    """One row for each group, in order of name: what was granted, waited, placed, and its efficiency.

    Of observed pools counts what is known of those that began between ``since`` and ``until`` (ns
    UTC), as :func:`reports.efficiency.efficiency_by` does. Raises ValueError for another ``by``.
    """
    if by not in KEYS:
        raise ValueError(f"a comparison goes by {', '.join(KEYS)}, not by {by!r}")
    kept = list(events)
    uses = begun_within(uses_of(kept).values(), since, until)
    groups = _granted(kept, by)
    for use in uses:
        if use.observed:
            _observed(groups.setdefault(use.key(by), Comparison(use.key(by))), use)
    measured = {row.key[by]: row for row in rows_of(uses, by, now=now)}
    rows = []
    for key, group in sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or "")):
        found = measured.get(key)
        rows.append(
            {
                by: key,
                **group.to_json(),
                "efficiency": None if found is None else found.efficiency,
                "coverage": None if found is None else found.coverage,
                "ended_by": {} if found is None else dict(found.ended_by),
            }
        )
    return rows


def _observed(row: Comparison, use: Use) -> None:
    """Count what an observed pool is known to have held."""
    row.granted += 1
    row.nodes.update(use.nodes)
    if use.requested_at is not None and use.granted_at is not None:
        row.waits_s.append(max(0, use.granted_at - use.requested_at) / 1e9)


def _granted(events: Iterable[Event], by: str) -> dict[str | None, Comparison]:
    """The grants of managed pools."""
    groups: dict[str | None, Comparison] = {}
    group_of: dict[str, Comparison] = {}
    observed: set[str] = set()
    for event in events:
        note_kind(observed, event)
        if event.pool in observed:
            continue
        body = event.body
        if isinstance(body, Allocated | Reserved) and event.allocation is not None:
            key = _key_of(event, by)
            row = groups.setdefault(key, Comparison(key))
            row.granted += 1
            row.nodes.update(p.node for p in body.placements)
            if body.queued_at is not None:
                row.waits_s.append((event.at - body.queued_at) / 1e9)
            group_of[event.allocation] = row
        elif isinstance(body, Adjusted) and body.by == "ledger" and event.allocation in group_of:
            group_of[event.allocation].adjusted += 1
    return groups
