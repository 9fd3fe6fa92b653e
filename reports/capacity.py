"""What pools had over time, and where more than that was held.

Capacity is known per node and resource from one time to another. What is not known is unknown, not
zero: a row whose holdings stood on a node of unknown capacity has no capacity to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from reports.buckets import NS_PER_S, seconds
from reports.lives import UNPLACED, end_of

FOREVER: Final = 2**63 - 1

Key = tuple[str, str, str]
"""Pool, node, resource."""
Stretch = tuple[int, int, int]
"""(since, until, amount), ns UTC and base units."""

_CAPACITY: Final = "SELECT pool, node, resource, amount, since_at, until_at FROM capacity"
_SPANS: Final = (
    # Only of what still holds the allocation has to be known too.
    "SELECT s.pool, s.node, s.resource, s.amount, s.since_at, s.until_at, "
    "a.kind, a.state, a.expires_at, a.ended_at "
    "FROM spans s LEFT JOIN allocations a ON s.until_at IS NULL AND a.id = s.allocation "
    "WHERE s.since_at < :until AND (s.until_at IS NULL OR s.until_at > :since) "
    "ORDER BY s.pool, s.node, s.resource, s.since_at"
)


@dataclass(slots=True)
class Over:
    """How far above its capacity something was: ``node`` is where it was worst."""

    node: str
    most: int = 0
    over_ns: int = 0
    excess_base_ns: int = 0

    def take(self, node: str, excess: int, ns: int) -> None:
        """Add a time in which a node held ``excess`` base units more than it had."""
        if excess > self.most:
            self.node, self.most = node, excess
        self.over_ns += ns
        self.excess_base_ns += excess * ns

    def to_json(self) -> dict[str, Any]:
        """``most`` in base units, ``over_s`` summed over nodes, ``excess_seconds`` base units × s."""
        return {
            "node": self.node,
            "most": self.most,
            "over_s": seconds(self.over_ns),
            "excess_seconds": self.excess_base_ns // NS_PER_S,
        }


@dataclass(slots=True)
class Capacity:
    """The capacity of every node over time. ``observed`` are the pools that only record."""

    known: dict[Key, list[Stretch]] = field(default_factory=dict)
    observed: set[str] = field(default_factory=set)
    _pooled: dict[tuple[str, str], list[Stretch]] = field(default_factory=dict)

    @classmethod
    def of(cls, views: Any) -> Capacity:
        """The capacity that a views file tells of."""
        capacity = cls()
        for pool, node, resource, amount, since, until in views.execute(_CAPACITY):
            stretches = capacity.known.setdefault((pool, node, resource), [])
            stretches.append((since, FOREVER if until is None else until, amount))
        for stretches in capacity.known.values():
            stretches.sort()
        for pool, kind in views.execute("SELECT pool, kind FROM pool_kinds"):
            if kind == "observed":
                capacity.observed.add(pool)
        for (pool, resource), parts in capacity._by_pool().items():
            capacity._pooled[pool, resource] = _sum(parts)
        return capacity

    def __bool__(self) -> bool:
        return bool(self.known)

    def knows(self, pool: str, node: str, resource: str, since: int, until: int) -> bool:
        """Whether the capacity behind a holding is known for all of its time."""
        stretches = self.of_node(pool, node, resource)
        return bool(stretches) and stretches[0][0] <= since and until <= stretches[-1][1]

    def of_node(self, pool: str, node: str, resource: str) -> list[Stretch]:
        """The capacity of a node over time, in order; of the whole pool for what is unplaced."""
        if node == UNPLACED and (pool, node, resource) not in self.known:
            return self._pooled.get((pool, resource), [])
        return self.known.get((pool, node, resource), [])

    def stretches(self, *, by_node: bool) -> Iterator[tuple[Key, Stretch]]:
        """Every stretch of capacity, node by node, or summed for each pool (the node is then empty)."""
        if by_node:
            for key, parts in self.known.items():
                yield from ((key, part) for part in parts)
            return
        for (pool, resource), parts in self._pooled.items():
            yield from (((pool, "", resource), part) for part in parts)

    def excesses(
        self, views: Any, since: int, until: int, now: int
    ) -> Iterator[tuple[Key, Stretch]]:
        """Every time in which more was held on a node than it had, with how much more.

        All of what may touch a window is looked at; what comes out may reach beyond it.
        """
        if not self.known:
            return
        horizon = min(until, now)
        spans = views.execute(_SPANS, {"since": since, "until": until})
        for place, rows in groupby(spans, key=itemgetter(0, 1, 2)):
            key: Key = (place[0], place[1] or UNPLACED, place[2])
            parts = self.of_node(*key)
            if parts:
                for found in _excess(_holdings(rows, horizon), parts):
                    yield key, found

    def _by_pool(self) -> dict[tuple[str, str], list[Stretch]]:
        pools: dict[tuple[str, str], list[Stretch]] = {}
        for (pool, _, resource), parts in self.known.items():
            pools.setdefault((pool, resource), []).extend(parts)
        return pools


def _sum(parts: list[Stretch]) -> list[Stretch]:
    """Overlapping stretches as one course over time, without those in which nothing is known."""
    changes: dict[int, tuple[int, int]] = {}
    for since, until, amount in parts:
        for at, more, count in ((since, amount, 1), (until, -amount, -1)):
            before = changes.get(at, (0, 0))
            changes[at] = (before[0] + more, before[1] + count)
    found: list[Stretch] = []
    level = known = 0
    last = 0
    for at in sorted(changes):
        if known and at > last:
            found.append((last, at, level))
        level, known, last = level + changes[at][0], known + changes[at][1], at
    return found


def _holdings(rows: Any, horizon: int) -> Iterator[Stretch]:
    """The spans of one node and resource as stretches, in order of their beginning."""
    for _, _, _, amount, since, until, kind, state, expires, ended in rows:
        if until is None:
            _, until, _ = end_of(kind, state, expires, ended, horizon)
        if until > since:
            yield since, until, amount


def _excess(holdings: Iterator[Stretch], parts: list[Stretch]) -> Iterator[Stretch]:
    """Where the sum of holdings lies above the capacity, while that is known."""
    least = min(amount for _, _, amount in parts)
    ends: list[tuple[int, int]] = []
    level = cursor = 0
    for since, until, amount in holdings:
        while ends and ends[0][0] <= since:
            end, gone = heappop(ends)
            if level > least:
                yield from _above(cursor, end, level, parts)
            cursor, level = end, level - gone
        if level > least:
            yield from _above(cursor, since, level, parts)
        cursor, level = since, level + amount
        heappush(ends, (until, amount))
    while ends:
        end, gone = heappop(ends)
        if level > least:
            yield from _above(cursor, end, level, parts)
        cursor, level = end, level - gone


def _above(since: int, until: int, level: int, parts: list[Stretch]) -> Iterator[Stretch]:
    for start, stop, amount in parts:
        low, high = max(since, start), min(until, stop)
        if level > amount and low < high:
            yield low, high, level - amount
