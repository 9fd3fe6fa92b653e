"""What happened elsewhere, by its own times: what observed pools held at a moment.

Their events may be written years after they happened, late and out of order. So an allocation there is
folded from its own events alone, in the order of their ``at``, as far as they were recorded by then.
Which allocations to look at is told by the projections' tables where there are some, else by the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.advance import ENDS, GRANTS
from ledger.book import LIVE, Allocation, Book, Pool
from ledger.codec import from_row
from ledger.events import (
    Allocated,
    Corrected,
    Event,
    NodeJoined,
    NodeLeft,
    PoolOpened,
    PoolResized,
    Queued,
    Reserved,
)
from ledger.log import Row
from ledger.nodes import Node, node_from
from ledger.quick import dataclass, replace
from ledger.requests import Amounts, NodeSpec, Placement, Request
from ledger.rules.history import Life, amounts_of

if TYPE_CHECKING:
    from projections.past import Readable

UNPLACED = "unplaced"
"""The node that stands for "somewhere in this pool", where a source does not say on which node."""

_END_TYPES = frozenset(body.TYPE for body in ENDS)
_NODE_TYPES = frozenset(body.TYPE for body in (PoolOpened, PoolResized, NodeJoined, NodeLeft))
_GRANT_TYPES = frozenset(body.TYPE for body in GRANTS)


# --- one allocation ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Observed(Allocation):
    """An allocation of an observed pool, which nothing here ends.

    Its ``lease_until`` is when it was last known to hold, by all that is known: its end where there is
    one, else the latest sighting (None: nobody saw it after it began).
    """


class Tale:
    """What is known of one allocation of an observed pool: its :class:`~ledger.rules.history.Life`,
    asked for a time."""

    __slots__ = ("_request", "_tenant", "life")

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.life = Life()
        self._request: Request | None = None
        self._tenant = ""
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take one more event in, in the order of positions."""
        self.life.apply(event)
        body = event.body
        if isinstance(body, Queued | Allocated | Reserved):
            self._request, self._tenant = body.request, event.tenant

    def at(self, time: int) -> Allocation | None:
        """The allocation as it was at a time (ns UTC): held or waiting; None before and after."""
        life = self.life
        begun = life.granted_at
        ended = life.ended_at
        if ended is not None and max(ended, begun or ended) <= time:
            return None
        if begun is not None and begun <= time:
            return self._made("active", time)
        if life.requested_at is not None and life.requested_at <= time:
            return self._made("waiting", time)
        return None

    @property
    def last(self) -> Allocation | None:
        """The allocation as it is in the end; None where nothing is known of it."""
        life = self.life
        if not life.first:
            return None
        if life.ended_at is not None:
            return self._made("ended", life.ended_at)
        return self._made("waiting" if life.granted_at is None else "active", None)

    def _made(self, state: str, time: int | None) -> Allocation | None:
        life = self.life
        if self._request is None:
            return None
        moved = [at for at in life.moves if time is None or at <= time]
        placements = life.moves[max(moved)] if moved else life.placements
        asked = life.requested_at if life.requested_at is not None else life.granted_at
        waits = state == "waiting" or life.granted_at is None
        seen = life.held_until if life.ended_at is None else life.ended_at
        if seen is not None and life.granted_at is not None:
            seen = max(seen, life.granted_at)
        return Observed(
            life.allocation,
            life.first,
            state,
            self._tenant,
            life.holder,
            life.task,
            life.pool,
            self._request,
            asked if asked is not None else life.ended_at or 0,
            self._request.amounts if waits else amounts_of(placements) or life.amounts,
            () if waits else placements,
            0 if waits else life.start,
            None if waits else life.granted_at,
            None if waits else seen,
            ended_at=life.ended_at if state == "ended" else None,
            ended_by=life.ended_by if state == "ended" else None,
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What was known of one allocation of an observed pool at a position of the log (``upto``).

    ``told`` is all of it as it was recorded. ``events`` leave out corrections, and stand in the order in
    which they happened, at the times that corrections give them.
    """

    tale: Tale
    told: tuple[Event, ...]
    events: tuple[Event, ...]
    upto: int


def known_at(rows: Iterable[Row], upto: int) -> Known:
    """What the rows of one allocation of an observed pool say, as far as a position."""
    events = [from_row(row) for row in rows if row.position <= upto]
    tale = Tale(events)
    granted = max((e.position for e in events if isinstance(e.body, GRANTS)), default=0)
    # An end that was recorded before it was known that it had held is not the end of that.
    kept = [e for e in events if not (isinstance(e.body, ENDS) and e.position < granted)]
    timed = [_retimed(e, tale.life) for e in kept if not isinstance(e.body, Corrected)]
    return Known(tale, tuple(events), tuple(sorted(timed, key=_order)), upto)


def _retimed(event: Event, life: Life) -> Event:
    """The event at the time that is known by now."""
    body = event.body
    at: int | None = None
    if isinstance(body, GRANTS):
        at = life.granted_at
    elif isinstance(body, Queued):
        at = life.requested_at
    elif isinstance(body, ENDS):
        at = life.ended_at
    return event if at is None or at == event.at else replace(event, at=at)


def _order(event: Event) -> tuple[int, int, int]:
    body = event.body
    rank = 2
    if isinstance(body, Queued):
        rank = 0
    elif isinstance(body, GRANTS):
        rank = 1
    elif isinstance(body, ENDS):
        rank = 3
    return event.at, rank, event.position


Sizes = dict[str, Amounts | None]
"""Node → capacity at a time; None where it had left. What is not there is not known at that time."""


# --- into a book ---------------------------------------------------------------------------------


def put_pool(book: Book, later: Pool, sizes: Sizes) -> None:
    """Let a book know of an observed pool as it is known ``later``, with the nodes it had by then.

    The pool is what history is about: when its name was written down says nothing of when it was
    there. A node of which nothing is said at that time is taken to have been as it is known.
    """
    pool = book.pools.get(later.name)
    if pool is None:
        pool = book.pools[later.name] = later.fork()
    nodes: dict[str, Node] = {}
    for name, node in later.space.nodes.items():
        size = sizes.get(name, node.capacity)
        if size is not None:
            nodes[name] = node.sized(size)
    for name, size in sizes.items():
        if size is not None and name not in nodes:
            nodes[name] = node_from(NodeSpec(name, size))
    pool.space.nodes = nodes
    pool.space.count_up()


def put_allocation(book: Book, a: Allocation) -> None:
    """Let a book hold what an observed pool held. Beyond a node's capacity is recorded as it was."""
    book.allocations[a.id] = a
    space = book.pools[a.pool].space
    if a.state == "waiting":
        space.waiting[a.id] = None
    elif a.state in LIVE:
        for placement in _placed(a):
            space.nodes[placement.node] = _with(space.nodes.get(placement.node), placement)


def take_away(book: Book, a: Allocation) -> None:
    """The opposite of :func:`put_allocation`."""
    book.allocations.pop(a.id, None)
    space = book.pools[a.pool].space
    space.waiting.pop(a.id, None)
    if a.state in LIVE:
        for placement in _placed(a):
            space.nodes[placement.node] = space.nodes[placement.node].plus(placement, -1)


def _placed(a: Allocation) -> tuple[Placement, ...]:
    """Where it stands; what no record places on a node is somewhere in the pool nevertheless."""
    if a.placements or not a.amounts:
        return a.placements
    return (Placement(UNPLACED, a.amounts, {}),)


def unknown_capacity(pool: Pool) -> frozenset[str]:
    """The resources of an observed pool of which some are in use where nobody said how much there is."""
    return frozenset(r for node in pool.space.nodes.values() for r in unsaid(pool.kind, node))


def unsaid(kind: str, node: Node) -> list[str]:
    """The resources in use on a node of an observed pool whose capacity nobody gave: it stands as 0."""
    if kind != "observed":
        return []
    return [r for r, used in node.in_use.items() if used and not node.capacity.get(r)]


def _with(node: Node | None, placement: Placement) -> Node:
    node = node or Node(placement.node, {}, {}, {}, {}, {})
    unknown = placement.amounts.keys() - node.capacity.keys()
    if unknown:
        # It stands as 0 where nobody said how much there is: see :func:`unsaid`.
        node = node.sized(node.capacity | dict.fromkeys(sorted(unknown), 0))
    return node.plus(placement, 1)


# --- which allocations to look at ----------------------------------------------------------------


class History:
    """Finds the allocations of observed pools that may have lived in an interval of ``at``.

    It may name some that did not; it leaves none out. This one looks through the log once.
    """

    def __init__(self, log: Readable) -> None:
        self._log = log
        self._upto = 0
        self._pools: frozenset[str] = frozenset()
        self._lives: dict[str, _Span] = {}
        self._nodes: list[Row] = []

    def ids(self, pools: frozenset[str], since: int, until: int, known: int) -> list[str]:
        """Allocations of ``pools`` that lived between two times, as far as was recorded at ``known``
        or since (all ns UTC)."""
        self._look_through(pools)
        return [
            name
            for name, life in self._lives.items()
            if life.loose
            or (
                life.begun <= until
                and (life.ended is None or life.ended > since or life.ended_recorded > known)
            )
        ]

    def earliest(self, pools: frozenset[str]) -> int | None:
        """When the first of them began or was asked for; None where there is none."""
        self._look_through(pools)
        return min((life.begun for life in self._lives.values()), default=None)

    def sizes(self, pools: frozenset[str], time: int, known: int) -> dict[str, Sizes]:
        """What nodes of ``pools`` had at a time (ns UTC), going by what was recorded by position
        ``known``."""
        self._look_through(pools)
        told: dict[str, dict[str, list[tuple[int, Amounts | None]]]] = {}
        opened: dict[str, int] = {}
        for row in self._nodes:
            if row.position <= known:
                if row.type == PoolOpened.TYPE:
                    opened[row.pool or ""] = row.at
                _resize(told.setdefault(row.pool or "", {}), from_row(row))
        return {pool: _sizes_at(told.get(pool, {}), time, opened.get(pool, time)) for pool in pools}

    def _look_through(self, pools: frozenset[str]) -> None:
        if pools != self._pools:
            self._pools, self._upto, self._lives, self._nodes = pools, 0, {}, []
        for row in self._log.read(self._upto):
            self._upto = row.position
            if row.allocation is not None and row.pool in pools:
                self._lives.setdefault(row.allocation, _Span(row.at)).add(row)
            elif row.type in _NODE_TYPES and row.pool in pools:
                self._nodes.append(row)


def _sizes_at(told: dict[str, list[tuple[int, Amounts | None]]], time: int, opened: int) -> Sizes:
    """What nodes had at a time.

    Where an inventory told of others by then, what later ones name (before the pool was opened here, at
    ``opened``) was not there. What the pool was opened with may have been.
    """
    then = {name: [size for since, size in sizes if since <= time] for name, sizes in told.items()}
    if not any(then.values()):
        return {}
    return {
        name: sizes[-1] if sizes else None
        for name, sizes in then.items()
        if sizes or told[name][0][0] < opened
    }


def _resize(told: dict[str, list[tuple[int, Amounts | None]]], event: Event) -> None:
    """Note from when on nodes have which capacity. Who speaks last is right from its time on."""
    body = event.body
    sizes: Sizes = {}
    if isinstance(body, PoolOpened | PoolResized):
        sizes = {spec.name: spec.capacity for spec in body.nodes}
    elif isinstance(body, NodeJoined):
        sizes = {body.node.name: body.node.capacity}
    elif isinstance(body, NodeLeft):
        sizes = {body.node: None}
    for name, size in sizes.items():
        before = [each for each in told.get(name, ()) if each[0] < event.at]
        if size is not None and before:
            size = {**(before[-1][1] or {}), **size}
        told[name] = [*before, (event.at, size)]


class _Span:
    """From when to when one allocation lived, roughly. ``loose``: corrections make it uncertain."""

    __slots__ = ("begun", "ended", "ended_recorded", "loose")

    def __init__(self, begun: int) -> None:
        self.begun = begun
        self.ended: int | None = None
        self.ended_recorded = 0
        self.loose = False

    def add(self, row: Row) -> None:
        self.begun = min(self.begun, row.at)
        if row.type in _GRANT_TYPES:
            body = from_row(row).body
            assert isinstance(body, Allocated | Reserved)
            self.begun = min(self.begun, row.at if body.queued_at is None else body.queued_at)
        elif row.type in _END_TYPES:
            self.ended = row.at if self.ended is None else max(row.at, self.ended)
            self.ended_recorded = row.recorded_at
        elif row.type == Corrected.TYPE:
            self.loose = True
            body = from_row(row).body
            assert isinstance(body, Corrected)
            told = [body.facts.get(name) for name in ("granted_at", "requested_at")]
            self.begun = min([self.begun, *(at for at in told if at is not None)])


class TabledHistory(History):
    """The same, from table ``allocations`` of the projections; from the log where that fails."""

    def __init__(self, log: Readable, views: Path) -> None:
        super().__init__(log)
        self._views = views

    def ids(self, pools: frozenset[str], since: int, until: int, known: int) -> list[str]:
        """As :meth:`History.ids`."""
        marks = ", ".join("?" * len(pools))
        found = self._select(
            "SELECT id FROM allocations"
            f" WHERE pool IN ({marks}) AND (corrections > 0 OR"
            " (min(coalesce(requested_at, granted_at), coalesce(granted_at, requested_at)) <= ?"
            " AND (ended_at IS NULL OR ended_at > ? OR ended_recorded_at > ?)))"
            " ORDER BY first_position",
            (*sorted(pools), until, since, known),
        )
        if found is None:
            return super().ids(pools, since, until, known)
        return [name for (name,) in found]

    def earliest(self, pools: frozenset[str]) -> int | None:
        """As :meth:`History.earliest`."""
        marks = ", ".join("?" * len(pools))
        found = self._select(
            "SELECT min(min(coalesce(requested_at, granted_at),"
            " coalesce(granted_at, requested_at))) FROM allocations"
            f" WHERE pool IN ({marks})",
            tuple(sorted(pools)),
        )
        if found is None:
            return super().earliest(pools)
        earliest: int | None = found[0][0]
        return earliest

    def sizes(self, pools: frozenset[str], time: int, known: int) -> dict[str, Sizes]:
        """As :meth:`History.sizes`. The tables say what is known now, and nothing of before."""
        marks = ", ".join("?" * len(pools))
        found = None
        if known >= self._log.head().position:
            found = self._select(
                "SELECT pool, node, resource, amount, since_at, until_at, opened_at"
                f" FROM capacity JOIN pools USING (pool) WHERE pool IN ({marks}) ORDER BY since_at",
                tuple(sorted(pools)),
            )
        if found is None:
            return super().sizes(pools, time, known)
        sizes: dict[str, Sizes] = {name: {} for name in pools}
        told: set[str] = set()
        for pool, node, resource, amount, since, until, opened in found:
            if since <= time:
                told.add(pool)
            if since <= time and (until is None or until > time):
                sizes[pool][node] = {**(sizes[pool].get(node) or {}), resource: amount}
            elif since <= time or since < opened:
                sizes[pool].setdefault(node, None)
        return {pool: nodes if pool in told else {} for pool, nodes in sizes.items()}

    def _select(self, sql: str, parameters: tuple[Any, ...]) -> list[Any] | None:
        # The tables may be deleted, rebuilt or broken at any time: the log knows as much.
        with contextlib.suppress(Exception):
            from projections.engine import Engine

            head = self._log.head().position
            with Engine(self._log, self._views) as engine:
                reached = engine.catch_up()
                if reached.position < head or "allocations" in reached.failed:
                    return None
                with contextlib.closing(engine.connect()) as connection:
                    rows: list[Any] = connection.execute(sql, parameters).fetchall()
                    return rows
        return None
