"""Utilization: how much of what there was, was held; per day or hour, pool, node, tenant and so on.

It reads the projection tables, so it must be caught up first. All sums are whole nanoseconds times
whole base units and are divided once, at the end, so that no bucket drifts. For one bucket [s, e)::

    granted_seconds  = sum over spans of amount × overlap of the span with [s, e)
    held_s           = sum over allocations of the overlap of the time they held anything
    nodes_seconds    = the same, times the number of different nodes held at that time
    capacity_seconds = sum over nodes of capacity × overlap of the time it was known
    wait_s           = sum over allocations started in [s, e) of start − request

``allocations_running`` counts those that touch the bucket: from the one they started in to the one
they ended in, zero-length ones too. An allocation that draws on another's capacity lies within that
one's grant, so neither its amounts nor itself are counted beside it. A managed lease that is over
counts as ended at its end, written down or not. An observed allocation without an end holds until it
was last known to (or, where nothing says so, until the report's end) and stays open.

Memory goes with the number of rows of the report, not with the number of allocations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ledger.errors import InvalidInput
from ledger.requests import Amounts
from reports.buckets import NS_PER_S, UNITS_NS, Buckets, seconds
from reports.capacity import FOREVER, Capacity, Key, Over, Stretch
from reports.lives import Held, Life, lives

PLACES: Final = ("pool", "node")
"""Groups that have capacity of their own."""
CHANGING: Final = frozenset({"node", "holder", "task"})
"""Groups that an allocation can leave for others while it lasts."""
GROUPS: Final = (*PLACES, "tenant", "holder", "task", "strategy", "priority", "allocation")
KEYS: Final = (*UNITS_NS, *GROUPS)
"""What a report can go by; at most one of day and hour."""
NEEDS: Final = ("allocations", "pools")
"""The projections that it is made of."""
ROWS_MAX: Final = 500_000
EARLIEST: Final = -(2**63)

Group = tuple[str | None, ...]


@dataclass(slots=True)
class Tally:
    """One row while it adds up. Times in ns, amounts in base units × ns."""

    granted: Amounts = field(default_factory=dict)
    capacity: Amounts = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    over: dict[str, Over] = field(default_factory=dict)
    held_ns: int = 0
    nodes_ns: int = 0
    started: int = 0
    ended: int = 0
    running: int = 0
    wait_ns: int = 0

    def take(self, ns: int, nodes: Iterable[Amounts]) -> None:
        """Add what was held for so long, node by node."""
        self.held_ns += ns
        granted = self.granted
        for amounts in nodes:
            self.nodes_ns += ns
            for resource, amount in amounts.items():
                granted[resource] = granted.get(resource, 0) + amount * ns

    def known_capacity(self) -> dict[str, int] | None:
        """Resource → base units × seconds; None where the capacity of no resource is known."""
        known = {r: c // NS_PER_S for r, c in self.capacity.items() if r not in self.unknown}
        return known or None


@dataclass(frozen=True, slots=True)
class Utilization:
    """The report: its rows in order of bucket and group, and how many allocations are still open."""

    by: tuple[str, ...]
    rows: list[dict[str, Any]]
    open: int

    def headline(self) -> str:
        """The report in one line."""
        if not self.rows:
            return "nothing was held in this time"
        parts = [_total(self.rows), f"in {len(self.rows)} rows"]
        over = sum(bool(row["over_capacity"]) for row in self.rows)
        if over:
            parts.append(f"over capacity in {over}")
        if self.open:
            parts.append(f"{self.open} without a known end")
        return "; ".join(parts)


def checked_keys(by: Sequence[str]) -> tuple[str, ...]:
    """What a report goes by, in the order of its columns. Raises InvalidInput."""
    strange = [key for key in by if key not in KEYS]
    if strange:
        raise InvalidInput(
            f"utilization does not go by {strange[0][:40]!r}", f"choose of {', '.join(KEYS)}"
        )
    if {"day", "hour"} <= set(by):
        raise InvalidInput("utilization goes by day or by hour, not by both", "leave one out")
    return tuple(dict.fromkeys(by))


def utilization(
    views: Any,
    by: Sequence[str] = ("day", "pool"),
    *,
    now: int,
    since: int | None = None,
    until: int | None = None,
) -> Utilization:
    """The report over the tables of a views file (``views`` is a connection to it), caught up.

    Times are ns UTC; ``until`` defaults to everything there is, and what is open lasts until the
    earlier of it and ``now``. Raises InvalidInput for another ``by``, a window that ends before it
    begins, and a report of more than ``ROWS_MAX`` rows.
    """
    keys = checked_keys(by)
    if since is not None and until is not None and until <= since:
        raise InvalidInput("the window ends before it begins", "give --since before --until")
    unit = next((key for key in keys if key in UNITS_NS), None)
    groups = tuple(key for key in keys if key in GROUPS)
    window = (EARLIEST if since is None else since, FOREVER if until is None else until)
    report = _Report(groups, Buckets(unit), *window, now)
    with _one_state(views):
        report.capacity = Capacity.of(views)
        for life in lives(views, *window, now):
            report.take(life)
        if set(groups) <= set(PLACES):
            report.take_capacity(views)
    return Utilization(keys, report.rows(), report.open)


@contextlib.contextmanager
def _one_state(views: Any) -> Iterator[None]:
    """All that is read within sees the tables as of one moment, whatever catches up meanwhile."""
    if views.in_transaction:
        yield
        return
    views.execute("BEGIN")
    try:
        yield
    finally:
        views.execute("ROLLBACK")


class _Report:
    """The rows that add up: bucket and group → tally, within a window [since, until)."""

    def __init__(
        self, groups: tuple[str, ...], buckets: Buckets, since: int, until: int, now: int
    ) -> None:
        self.groups = groups
        self.buckets = buckets
        self.since = since
        self.until = until
        self.now = now
        self.open = 0
        self.capacity = Capacity()
        self.first: int | None = None
        self.last = 0
        self.by_node = "node" in groups
        self._changing = not CHANGING.isdisjoint(groups)
        self._tallies: dict[tuple[Any, ...], Tally] = {}

    def tally(self, bucket: int, group: Group) -> Tally:
        """The row of a bucket and a group, made where it is new. Raises InvalidInput."""
        key = (bucket, *group)
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= ROWS_MAX:
                raise InvalidInput(
                    f"the report has more than {ROWS_MAX:,} rows",
                    "narrow it with --since and --until, or go by day instead of by hour",
                )
            tally = self._tallies[key] = Tally()
        return tally

    def take(self, life: Life) -> None:
        """Add one allocation."""
        if life.until < self.since or life.began >= self.until:
            return
        began = max(life.began, self.since)
        self.first = began if self.first is None else min(self.first, began)
        self.last = max(self.last, min(life.until, self.until))
        self.open += life.open
        if not self._changing:
            group = tuple(life.key[name] for name in self.groups)
            self._count(life, group, life.began, life.until, life.ended)
            for held in life.held:
                self._add(life, held, group)
            return
        for group, parts in self._parts(life).items():
            # It began where it was first, and ended where it was last.
            first, last = parts[0][0] == 0, parts[-1][0] + 1 == len(life.held)
            began, until = parts[0][1].since, parts[-1][1].until
            self._count(life, group, began, until, life.ended if last else None, started=first)
            for _, held in parts:
                self._add(life, held, group)

    def _parts(self, life: Life) -> dict[Group, list[tuple[int, Held]]]:
        """What of an allocation belongs to which group: its numbered stretches, in order."""
        parts: dict[Group, list[tuple[int, Held]]] = {}
        for number, held in enumerate(life.held):
            key = {**life.key, "holder": held.holder, "task": held.task}
            if not self.by_node:
                parts.setdefault(tuple(key[n] for n in self.groups), []).append((number, held))
                continue
            for node, amounts in held.nodes.items():
                key["node"] = node
                there = replace(held, nodes={node: amounts})
                parts.setdefault(tuple(key[n] for n in self.groups), []).append((number, there))
        return parts

    def _count(
        self,
        life: Life,
        group: Group,
        began: int,
        until: int,
        ended: int | None,
        *,
        started: bool = True,
    ) -> None:
        if until < self.since or began >= self.until:
            return
        index = self.buckets.index
        if started and began >= self.since:
            row = self.tally(index(began), group)
            row.started += 1
            row.wait_ns += life.waited_ns
        if ended is not None and self.since <= ended < self.until:
            self.tally(index(ended), group).ended += 1
        for bucket in self.buckets.range(max(began, self.since), min(until, self.until - 1)):
            self.tally(bucket, group).running += 1

    def _add(self, life: Life, held: Held, group: Group) -> None:
        pool = str(life.key["pool"])
        for bucket, since, until in self.buckets.pieces(
            max(held.since, self.since), min(held.until, self.until)
        ):
            row = self.tally(bucket, group)
            row.take(until - since, held.nodes.values())
            for node, amounts in held.nodes.items():
                for resource in amounts:
                    if not self.capacity.knows(pool, node, resource, since, until):
                        row.unknown.add(resource)

    def take_capacity(self, views: Any) -> None:
        """Add what the pools had, and where more than that was held."""
        window = self.since, self.until
        for key, part in self.capacity.stretches(by_node=self.by_node):
            low, high = self._shown(key[0])
            for row, ns in self._rows_of(key, part, low, high):
                row.capacity[key[2]] = row.capacity.get(key[2], 0) + part[2] * ns
        for key, part in self.capacity.excesses(views, *window, self.now):
            for row, ns in self._rows_of(key, part, *window):
                row.over.setdefault(key[2], Over(key[1])).take(key[1], part[2], ns)

    def _rows_of(self, key: Key, part: Stretch, low: int, high: int) -> Iterator[tuple[Tally, int]]:
        """The rows of a place that a stretch overlaps between two times, and for how long."""
        place = tuple(key[0] if name == "pool" else key[1] for name in self.groups)
        for bucket, since, until in self.buckets.pieces(max(part[0], low), min(part[1], high)):
            yield self.tally(bucket, place), until - since

    def _shown(self, pool: str) -> tuple[int, int]:
        """From when to when a pool's capacity is shown, whether or not anything was held.

        A managed pool is there until now. An observed one has no present of its own: it is shown for
        as long as anything is known of what it held, in whole buckets.
        """
        if pool not in self.capacity.observed:
            return self.since, max(self.last, min(self.now, self.until))
        if self.first is None:
            return 0, 0
        length = self.buckets.length_ns
        if length is None:
            return self.first, self.last
        last = self.buckets.index(min(self.last, self.until - 1))
        low, high = self.buckets.index(self.first) * length, (last + 1) * length
        return max(self.since, low), min(self.until, high)

    def rows(self) -> list[dict[str, Any]]:
        """The rows as the contract shows them."""
        order = sorted(
            self._tallies.items(),
            key=lambda item: (item[0][0], *((name is None, name or "") for name in item[0][1:])),
        )
        return [self._row(key[0], key[1:], tally) for key, tally in order]

    def _row(self, bucket: int, group: Group, row: Tally) -> dict[str, Any]:
        name = self.buckets.text(bucket)
        placed = set(self.groups) <= set(PLACES)
        over = {r: over.to_json() for r, over in sorted(row.over.items())}
        return {
            **({} if name is None else {"bucket": name}),
            **dict(zip(self.groups, group, strict=True)),
            "capacity_seconds": row.known_capacity() if placed else None,
            "granted_seconds": {r: a // NS_PER_S for r, a in sorted(row.granted.items())},
            "held_s": seconds(row.held_ns),
            "nodes_seconds": seconds(row.nodes_ns),
            "allocations_started": row.started,
            "allocations_ended": row.ended,
            "allocations_running": row.running,
            "wait_s": seconds(row.wait_ns),
            "over_capacity": over if row.capacity else None,
        }


def _total(rows: list[dict[str, Any]]) -> str:
    """How much of what was there was held, as far as both are known; else for how long."""
    held = sum(row["held_s"] for row in rows)
    capacity: Amounts = {}
    granted: Amounts = {}
    for row in rows:
        for resource, amount in (row["capacity_seconds"] or {}).items():
            capacity[resource] = capacity.get(resource, 0) + amount
            more = row["granted_seconds"].get(resource, 0)
            granted[resource] = granted.get(resource, 0) + more
    shares = [f"{r} {granted[r] / c:.1%}" for r, c in sorted(capacity.items()) if c]
    return f"held of capacity: {', '.join(shares)}" if shares else f"held for {held / 3600:.1f} h"
