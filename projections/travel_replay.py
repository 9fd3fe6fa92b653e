"""Replay: the events of a stretch of a log, one after the other, each with the state that it left.

The record is played as it was written, so what was found late comes when it was found. What observed
pools held comes at its own times, since it may have been written long after.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ledger.book import Allocation, Pool
from ledger.codec import from_row
from ledger.events import Event, NodeJoined, PoolOpened
from ledger.evolve import evolve
from ledger.nodes import Node
from ledger.requests import Amounts
from projections.travel import Moment, Travel
from projections.travel_history import (
    Tale,
    known_at,
    put_allocation,
    put_pool,
    take_away,
    unknown_capacity,
)

Played = tuple[int, int, Event, Tale | None]
"""When an event is played, its position, the event, and all that is known of its allocation."""


@dataclass(frozen=True, slots=True)
class NodePicture:
    """One node: capacity and use in base units, and whether it takes anything new."""

    name: str
    capacity: Amounts
    in_use: Amounts
    cordoned: bool


@dataclass(frozen=True, slots=True)
class PoolPicture:
    """One pool after an event: its sums in base units, its nodes, who holds and who waits.

    ``unknown`` are the resources of which some are in use where nobody said how much there is.
    """

    name: str
    kind: str
    capacity: Amounts
    in_use: Amounts
    nodes: tuple[NodePicture, ...]
    held: int
    waiting: int
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a replay and the state after it.

    ``at`` is the time of the replay (ns UTC): when it was written, or happened in an observed pool.
    ``allocation`` is the one that the event is about, as the event left it, or as it was before its
    end. ``queue`` are the first who wait.
    """

    event: Event
    at: int
    pools: tuple[PoolPicture, ...]
    queue: tuple[Allocation, ...]
    allocation: Allocation | None


QUEUE_SHOWN = 20
"""How many who wait a frame names; each pool's ``waiting`` counts them all."""


class Replay:
    """The frames between two moments: events after ``since`` up to and with ``until``.

    ``pool`` keeps to the events and the state of one pool. ``by_time`` plays observed pools by ``at``;
    without it everything comes as it was written.
    """

    def __init__(
        self,
        travel: Travel,
        since: Moment,
        until: Moment,
        *,
        pool: str | None = None,
        by_time: bool = True,
    ) -> None:
        self._travel = travel
        self._since = since
        self._until = until
        self._pool = pool
        self._book = travel.past.book_at(since.position)
        self._by_time = by_time
        self._known = travel.head()
        self._observed: frozenset[str] = frozenset()
        self._begin()
        self._counts: Counter[tuple[str, bool]] = Counter()
        for a in self._book.allocations.values():
            self._counts[a.pool, a.state == "waiting"] += 1
        self._nodes: dict[tuple[str, str], tuple[Node, NodePicture]] = {}
        self._pictures: dict[str, PoolPicture] = {}
        self._tales: dict[str, Tale] = {}

    def _begin(self) -> None:
        self._observed = self._travel.observed(self._known)
        if self._observed and self._by_time:
            present = self._travel.past.book_at(self._known.position)
            sizes = self._travel.sizes(self._observed, self._since)
            for name in sorted(self._observed & present.pools.keys()):
                put_pool(self._book, present.pools[name], sizes[name])
            # What they held at the beginning.
            for a in self._travel.state(self._since).book.allocations.values():
                if a.pool in self._observed:
                    put_allocation(self._book, a)

    def frames(self) -> Iterator[Frame]:
        """Each event with the state after it, in order of time. Constant memory but for the state."""
        recorded = self._recorded()
        happened = iter(()) if not self._by_time else self._happened()
        for at, _, event, tale in heapq.merge(recorded, happened, key=lambda each: each[:2]):
            before = self._book.allocations.get(event.allocation or "")
            self._take(event, tale)
            after = self._book.allocations.get(event.allocation or "")
            # Every event is about one allocation at most, and about the nodes of one pool.
            for a, sign in ((before, -1), (after, 1)):
                if a is not None:
                    self._counts[a.pool, a.state == "waiting"] += sign
            self._pictures.pop(event.pool or "", None)
            if self._pool in (None, event.pool):
                pools = tuple(self._pools())
                yield Frame(event, at, pools, tuple(self._queue()), after or before)

    def _recorded(self) -> Iterator[Played]:
        for row in self._travel.past.log.read(self._since.position, self._until.position):
            elsewhere = row.pool in self._observed and row.allocation is not None
            if not (elsewhere and self._by_time):
                yield row.recorded_at, row.position, from_row(row), None

    def _happened(self) -> Iterator[Played]:
        """The events of observed pools by their own times, as far as is known now."""
        found: list[Played] = []
        pools = self._observed if self._pool is None else self._observed & {self._pool}
        since, until = self._since.time, self._until.time
        for rows in self._travel.history_rows(pools, since, until) if pools else ():
            known = known_at(rows, self._known.position)
            for event in known.events:
                if since < event.at <= until:
                    found.append((event.at, event.position, event, known.tale))
        return iter(sorted(found, key=lambda each: each[:2]))

    def _take(self, event: Event, tale: Tale | None) -> None:
        book = self._book
        if event.pool in self._observed and event.allocation is not None:
            before = book.allocations.get(event.allocation)
            if before is not None:
                take_away(book, before)
            after = self._told(event) if tale is None else tale.at(event.at)
            if after is not None and after.state != "ended":
                put_allocation(book, after)
            return
        # Between two of them may be what is played at another time, or was already.
        book.position = event.position - 1
        known = event.pool in self._observed and self._by_time
        if known and isinstance(event.body, PoolOpened | NodeJoined):
            # What history is about was there before anybody wrote so.
            book.position = event.position
            return
        evolve(book, event)

    def _told(self, event: Event) -> Allocation | None:
        """What an event of an observed pool makes of its allocation, in the order of the record."""
        assert event.allocation is not None
        tale = self._tales.get(event.allocation)
        if tale is None:
            rows = self._travel.past.log.rows_of_allocation(event.allocation)
            tale = self._tales[event.allocation] = known_at(rows, event.position - 1).tale
        tale.apply(event)
        return tale.last

    def _queue(self) -> Iterator[Allocation]:
        count = 0
        for space in self._book.spaces():
            for name in space.waiting:
                a = self._book.allocations[name]
                if self._pool in (None, a.pool):
                    if count >= QUEUE_SHOWN:
                        return
                    count += 1
                    yield a

    def _pools(self) -> Iterator[PoolPicture]:
        for name, pool in self._book.pools.items():
            if self._pool in (None, name):
                if name not in self._pictures:
                    self._pictures[name] = self._picture(pool)
                yield self._pictures[name]

    def _picture(self, pool: Pool) -> PoolPicture:
        nodes = tuple(self._node(pool.name, node) for node in pool.space.nodes.values())
        return PoolPicture(
            pool.name,
            pool.kind,
            _summed(node.capacity for node in nodes),
            _summed(node.in_use for node in nodes),
            nodes,
            self._counts[pool.name, False],
            self._counts[pool.name, True],
            unknown_capacity(pool),
        )

    def _node(self, pool: str, node: Node) -> NodePicture:
        """Nodes are replaced and never changed, so the picture of the same one is the same."""
        drawn = self._nodes.get((pool, node.name))
        if drawn is None or drawn[0] is not node:
            drawn = node, NodePicture(node.name, node.capacity, node.in_use, node.cordoned)
            self._nodes[pool, node.name] = drawn
        return drawn[1]


def _summed(each: Iterator[Amounts]) -> Amounts:
    total: Amounts = {}
    for amounts in each:
        for resource, amount in amounts.items():
            total[resource] = total.get(resource, 0) + amount
    return total
