"""Measures: what a run of events comes to, the same for the recorded ones and the simulated ones.

Only managed pools count: what was imported of others happened whatever our rules say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ledger.advance import ENDS, GRANTS
from ledger.amounts import format_amounts
from ledger.book import LIVE, Book
from ledger.events import (
    Adjusted,
    Allocated,
    Ending,
    Event,
    NodeJoined,
    NodeLeft,
    PoolOpened,
    PoolResized,
    Queued,
    Refused,
    Reserved,
)
from ledger.requests import Amounts, NodeSpec

SECOND_NS = 1_000_000_000
PERCENTILE = 95


@dataclass(slots=True)
class Fate:
    """What became of one request. Times are ns UTC; ``wait_ns`` counts for what was granted."""

    asked_at: int
    holder: str
    task: str | None
    pool: str
    state: str = "waiting"
    granted_at: int | None = None
    ended_at: int | None = None
    nodes: tuple[str, ...] = ()

    @property
    def wait_ns(self) -> int | None:
        """How long it waited for its grant; None where it never came."""
        return None if self.granted_at is None else self.granted_at - self.asked_at


class _Level:
    """An amount over time: its integral from ``since`` on."""

    def __init__(self, since: int, until: int) -> None:
        self._since, self._until = since, until
        self.total = 0

    def add(self, amount: int, at: int) -> None:
        """The amount changes by this much at a time."""
        self.total += amount * max(0, self._until - min(max(at, self._since), self._until))


@dataclass(slots=True)
class Measures:
    """What happened between two times (ns UTC), counted event by event."""

    since: int
    until: int
    counts: Counter[str] = field(default_factory=Counter)
    waits: list[int] = field(default_factory=list)
    fates: dict[str, Fate] = field(default_factory=dict)
    unmet: dict[str, Amounts] = field(default_factory=dict)
    _held: dict[str, tuple[str, Amounts]] = field(default_factory=dict)
    _levels: dict[tuple[str, str, str], _Level] = field(default_factory=dict)
    _nodes: dict[tuple[str, str], Amounts] = field(default_factory=dict)
    _asked: dict[str, Amounts] = field(default_factory=dict)
    _children: set[str] = field(default_factory=set)
    _elsewhere: set[str] = field(default_factory=set)

    def begin(self, book: Book) -> None:
        """What is there when it begins. Only managed pools are looked at."""
        self._elsewhere = {pool.name for pool in book.pools.values() if pool.kind == "observed"}
        for pool in book.pools.values():
            if pool.kind == "managed":
                for node in pool.space.nodes.values():
                    self._capacity(pool.name, NodeSpec(node.name, dict(node.capacity)), self.since)
        for a in book.allocations.values():
            fate = Fate(a.requested_at, a.holder, a.task, a.pool)
            self.fates[a.id] = fate
            self._asked[a.id] = a.request.amounts
            if a.request.parent is not None:
                self._children.add(a.id)
            if a.state in LIVE:
                fate.state, fate.granted_at = "active", a.granted_at or a.requested_at
                fate.nodes = tuple(p.node for p in a.placements)
                self._hold(a.id, a.pool, a.amounts, self.since)

    def take(self, events: Iterable[Event]) -> Measures:
        """All that happened next."""
        for event in events:
            self._one(event)
        return self

    def finish(self) -> Measures:
        """That was all: what is told at the end."""
        for name, fate in self.fates.items():
            if fate.granted_at is None:
                total = self.unmet.setdefault(fate.pool, {})
                for resource, amount in self._asked[name].items():
                    total[resource] = total.get(resource, 0) + amount
        self.counts["still_waiting"] = sum(f.state == "waiting" for f in self.fates.values())
        return self

    # --- events ----------------------------------------------------------------------------------

    def _one(self, event: Event) -> None:
        body, name, pool = event.body, event.allocation, event.pool
        if isinstance(body, PoolOpened) and body.kind == "observed" and pool is not None:
            self._elsewhere.add(pool)
        if pool in self._elsewhere:
            return
        opened = isinstance(body, PoolOpened) and body.kind == "managed"
        if pool is not None and (opened or isinstance(body, PoolResized)):
            assert isinstance(body, PoolOpened | PoolResized)
            for spec in body.nodes:
                self._capacity(pool, spec, event.at)
        elif isinstance(body, NodeJoined) and pool is not None:
            self._capacity(pool, body.node, event.at)
        elif isinstance(body, NodeLeft) and pool is not None:
            self._capacity(pool, NodeSpec(body.node, {}), event.at)
        elif isinstance(body, Refused):
            self._refused(event, body)
        elif name is not None and pool is not None:
            self._of_allocation(event, name, pool)

    def _refused(self, event: Event, body: Refused) -> None:
        if body.repeats_of is not None:
            self.counts["repeated_refusals"] += body.repeats
        elif body.request is None or event.pool is None:
            self.counts["refused_otherwise"] += 1
        else:
            self.counts["asked"] += 1
            self.counts["refused"] += 1
            fate = Fate(event.at, event.holder or "", event.task, event.pool, "refused")
            fate.ended_at = event.at
            self.fates[f"R{event.position}"] = fate
            self._asked[f"R{event.position}"] = body.request.amounts

    def _of_allocation(self, event: Event, name: str, pool: str) -> None:
        body = event.body
        if isinstance(body, (Allocated, Reserved, Queued)) and name not in self.fates:
            self.counts["asked"] += 1
            self.fates[name] = Fate(event.at, event.holder or "", event.task, pool)
            self._asked[name] = body.request.amounts
            if body.request.parent is not None:
                self._children.add(name)
            if isinstance(body, Queued):
                self.counts["waited"] += 1
        fate = self.fates.get(name)
        if fate is None:
            return
        if isinstance(body, GRANTS):
            self.counts["granted"] += 1
            fate.state, fate.granted_at = "active", event.at
            fate.nodes = tuple(p.node for p in body.placements)
            self.waits.append(event.at - fate.asked_at)
            self._hold(name, pool, body.amounts, event.at)
        elif isinstance(body, Adjusted):
            self._let_go(name, event.at)
            self._hold(name, pool, body.amounts, event.at)
        elif isinstance(body, Ending):
            self.counts["preempted"] += body.cause == "preempted"
        elif isinstance(body, ENDS):
            cause = getattr(body, "cause", None) or event.type
            if not (cause == "preempted" and getattr(body, "by", "") != "ledger"):
                self.counts[f"ended_{cause}"] += 1
            if cause == "preempted" and "preempted_by" in getattr(body, "evidence", {}):
                self.counts["preempted"] += 1
            fate.state, fate.ended_at = cause, event.at
            self._let_go(name, event.at)

    # --- amounts over time -----------------------------------------------------------------------

    def _level(self, what: str, pool: str, resource: str) -> _Level:
        key = (what, pool, resource)
        if key not in self._levels:
            self._levels[key] = _Level(self.since, self.until)
        return self._levels[key]

    def _capacity(self, pool: str, spec: NodeSpec, at: int) -> None:
        before = self._nodes.get((pool, spec.name), {})
        for resource in before.keys() | spec.capacity.keys():
            change = spec.capacity.get(resource, 0) - before.get(resource, 0)
            self._level("capacity", pool, resource).add(change, at)
        self._nodes[pool, spec.name] = dict(spec.capacity)

    def _hold(self, name: str, pool: str, amounts: Amounts, at: int) -> None:
        if name in self._children:
            return
        self._held[name] = (pool, amounts)
        for resource, amount in amounts.items():
            self._level("held", pool, resource).add(amount, at)

    def _let_go(self, name: str, at: int) -> None:
        pool, amounts = self._held.pop(name, ("", {}))
        for resource, amount in amounts.items():
            self._level("held", pool, resource).add(-amount, at)

    # --- the answer ------------------------------------------------------------------------------

    def utilization(self) -> dict[str, dict[str, float]]:
        """Pool → resource → share of the capacity that was held, over the whole time."""
        found: dict[str, dict[str, float]] = {}
        for (what, pool, resource), level in sorted(self._levels.items()):
            if what == "capacity" and level.total > 0:
                held = self._levels.get(("held", pool, resource))
                share = 0.0 if held is None else held.total / level.total
                found.setdefault(pool, {})[resource] = round(share, 6)
        return found

    def to_json(self) -> dict[str, Any]:
        """The figures. Waits are of all that was granted, 0 for what was granted at once."""
        waits = sorted(self.waits)
        count = self.counts
        return {
            "asked": count["asked"],
            "granted": count["granted"],
            "waited": count["waited"],
            "refused": count["refused"],
            "timed_out": count["ended_timed_out"],
            "withdrawn": count["ended_withdrawn"],
            "still_waiting": count["still_waiting"],
            "expired": count["ended_expired"],
            "preempted": count["preempted"],
            "wait_s_median": _percentile(waits, 50),
            "wait_s_p95": _percentile(waits, PERCENTILE),
            "wait_s_max": waits[-1] / SECOND_NS if waits else None,
            "utilization": self.utilization(),
            "unmet": {pool: format_amounts(amounts) for pool, amounts in self.unmet.items()},
        }


def _percentile(ordered: list[int], percent: int) -> float | None:
    """The nearest-rank percentile, in seconds; None of nothing."""
    if not ordered:
        return None
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, rank - 1)] / SECOND_NS
