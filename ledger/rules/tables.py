"""Tables: what is left on every node of a large space, as arrays, so that one decision is quick.

A cache and no part of the book: whoever decides with a table arrives at the same node as whoever
looks at the nodes one by one. A table keeps the nodes that it was made of. Nodes are replaced, never
changed, so whatever is another object is read anew; :class:`~ledger.spaces.Space` lists them as they
are replaced. A copy of a space gets a copy of the table.

Importing numpy takes longer than looking through a pool by hand many times over; so a process makes
tables only once it has looked at :data:`PATIENCE` nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ledger.nodes import Node
from ledger.requests import CARD, CARD_RESOURCES, Amounts
from ledger.rules.capacity import MILLION, carries, largest_of, left, scale_of
from ledger.spaces import Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

NODES_LEAST = 64
"""Smaller spaces have no table, unless looking at a node takes long."""
PATIENCE = 30_000
GRADIENT_WEIGHT = 20
"""How many times longer a look at a node takes when its fragmentation is worked out."""
TABLES_MAX = 8
MASKS_MAX = 256
"""The most selectors whose nodes are remembered."""
BARRED_LEAST = 8
"""Shorter lists of nodes that are kept for others are looked up each time."""

(CARDS,) = CARD_RESOURCES
_Select = tuple[tuple[str, str], ...]


class Table:
    """The nodes of one space as columns; row i is the i-th node in the pool's order.

    ``left``: resource → what nobody uses (−1: less than nothing). ``open``: not cordoned.
    ``scale``: see :func:`~ledger.rules.capacity.scale_of`. ``rank``: the place of its name among
    all names, sorted. ``cards``: what is idle on each card, as many columns as the node with most
    cards has; ``names`` of the cards, by node, in that order. ``derived`` and ``stale``: what
    others worked out of the columns, and the rows that changed since.
    """

    def __init__(self, nodes: dict[str, Node]) -> None:
        import numpy

        self.np = numpy
        self.nodes = list(nodes.values())
        self.row = {name: row for row, name in enumerate(nodes)}
        count = len(nodes)
        self.rank = numpy.empty(count, numpy.int64)
        self.rank[[self.row[name] for name in sorted(nodes)]] = numpy.arange(count)
        resources = {resource for node in self.nodes for resource in node.capacity}
        self.left: dict[str, Numbers] = {r: numpy.zeros(count, numpy.int64) for r in resources}
        self.scale = {r: scale_of(amount) for r, amount in largest_of(self.nodes).items()}
        self.open: Flags = numpy.ones(count, numpy.bool_)
        self.names = [sorted(n.cards.get(CARDS, {}), key=int) for n in self.nodes]
        width = max(len(names) for names in self.names)
        self.cards: Numbers = numpy.zeros((count, width), numpy.int64)
        self.outside_on_cards = False
        self.masks: dict[_Select, Flags] = {}
        self.barred: dict[frozenset[str], Numbers] = {}
        self.derived: dict[str, Any] = {}
        self.stale: set[int] = set()
        for row, node in enumerate(self.nodes):
            self._read(row, node)

    def copy(self) -> Table:
        """A table of its own, for a copy of the space."""
        other = Table.__new__(Table)
        other.__dict__.update(self.__dict__)
        other.nodes = self.nodes.copy()
        other.left = {resource: column.copy() for resource, column in self.left.items()}
        other.open = self.open.copy()
        other.cards = self.cards.copy()
        other.masks = self.masks.copy()
        other.barred = {}
        other.derived = {}
        other.stale = set()
        return other

    def _read(self, row: int, node: Node) -> None:
        for resource, column in self.left.items():
            column[row] = max(-1, left(node, resource))
        self.open[row] = not node.cordoned
        cards = node.cards.get(CARDS)
        if cards:
            used = node.cards_in_use.get(CARDS, {})
            names = self.names[row]
            self.cards[row, : len(names)] = [cards[c] - used.get(c, 0) for c in names]
            self.outside_on_cards |= bool(node.outside.get(CARDS))

    def update(self, row: int, node: Node) -> None:
        """Read a node anew if it was replaced."""
        old = self.nodes[row]
        if old is node:
            return
        if old.labels is not node.labels and old.labels != node.labels:
            self.masks = {}
        self.nodes[row] = node
        self._read(row, node)
        self.stale.add(row)

    def fits(
        self, select: Mapping[str, str] | None, barred: Collection[str], amounts: Amounts
    ) -> Flags:
        """Of each node, whether it may be used and the amounts fit on it now."""
        fits = self.open & self.mask(select) if select else self.open.copy()
        for resource, amount in amounts.items():
            column = self.left.get(resource)
            if column is None:
                fits[:] = False
                return fits
            fits &= column >= amount
            if resource == CARDS:
                if amount < CARD:
                    fits &= (self.cards >= amount).any(axis=1)
                elif amount % CARD:
                    fits[:] = False
                else:
                    fits &= (self.cards == CARD).sum(axis=1) >= amount // CARD
        if barred:
            fits[self._rows_of(barred)] = False
        return fits

    def _rows_of(self, names: Collection[str]) -> list[int] | Numbers:
        """The rows of nodes by their names; what is asked again and again is remembered."""
        if len(names) < BARRED_LEAST or not isinstance(names, frozenset):
            return [self.row[name] for name in names if name in self.row]
        found = self.barred.get(names)
        if found is None:
            if len(self.barred) >= MASKS_MAX:
                self.barred = {}
            rows = [self.row[name] for name in names if name in self.row]
            found = self.barred[names] = self.np.array(rows, self.np.int64)
        return found

    def mask(self, select: Mapping[str, str]) -> Flags:
        """Of each node, whether it has the wanted labels."""
        key = tuple(sorted(select.items()))
        found = self.masks.get(key)
        if found is None:
            if len(self.masks) >= MASKS_MAX:
                self.masks = {}
            carrying = [carries(node, select) for node in self.nodes]
            found = self.masks[key] = self.np.array(carrying, self.np.bool_)
        return found

    def first(
        self, select: Mapping[str, str] | None, barred: Collection[str], amounts: Amounts
    ) -> str | None:
        """The first node in the pool's order on which the amounts fit."""
        fits = self.fits(select, barred, amounts)
        row = int(fits.argmax())
        return self.nodes[row].name if fits[row] else None

    def any(
        self,
        select: Mapping[str, str] | None,
        barred: Collection[str],
        amounts: Amounts,
        seed: int,
    ) -> str | None:
        """One of the nodes on which the amounts fit, drawn by the seed."""
        rows = self.np.flatnonzero(self.fits(select, barred, amounts))
        return self.nodes[int(rows[seed % len(rows)])].name if len(rows) else None

    def extreme(
        self,
        select: Mapping[str, str] | None,
        barred: Collection[str],
        amounts: Amounts,
        resources: Iterable[str],
        sign: int,
    ) -> str | None:
        """The node that would have least of some resources left (``sign`` 1), or most (−1)."""
        rows = self.np.flatnonzero(self.fits(select, barred, amounts))
        if not len(rows):
            return None
        total = self.np.zeros(len(rows), self.np.int64)
        for resource in resources:
            rest = self.left[resource][rows] - amounts.get(resource, 0)
            total += self.share(resource, rest)
        return self.least(rows, total * sign)

    def nearest(
        self, select: Mapping[str, str] | None, amounts: Amounts, examined: int
    ) -> Node | None:
        """The open node, of the first ``examined``, that lacks least of the amounts, as shares of them.

        None where no node is open. The amounts are below 2**43 each.
        """
        fits = self.open & self.mask(select) if select else self.open
        rows = self.np.flatnonzero(fits[:examined])
        if not len(rows):
            return None
        lacking = self.np.zeros(len(rows), self.np.int64)
        for resource, amount in amounts.items():
            there = self._obtainable(resource, amount, rows)
            lacking += self.np.maximum(amount - there, 0) * MILLION // amount
        return self.nodes[self.row[self.least(rows, lacking)]]

    def _obtainable(self, resource: str, amount: int, rows: Numbers) -> Numbers:
        column = self.left.get(resource)
        if column is None:
            nothing: Numbers = self.np.zeros(len(rows), self.np.int64)
            return nothing
        there: Numbers = self.np.clip(column[rows], 0, amount)
        if resource == CARDS:
            cards = self.cards[rows]
            if amount >= CARD:
                there = self.np.minimum(there // CARD, (cards == CARD).sum(axis=1)) * CARD
            else:
                there = self.np.minimum(there, cards.max(axis=1, initial=0))
        return there

    def share(self, resource: str, amounts: Numbers) -> Numbers:
        """Amounts as shares of the largest node's capacity, in whole millionths; 0 below 0."""
        shift, whole = self.scale[resource]
        shares: Numbers = (self.np.maximum(amounts, 0) >> shift) * MILLION // whole
        return shares

    def least(self, rows: Numbers, values: Numbers) -> str:
        """The node with the least value; of equal ones the one whose name sorts first."""
        ties = rows[values == values.min()]
        return self.nodes[int(ties[self.rank[ties].argmin()])].name


# The latest tables, each with the list of replaced nodes that belongs to its space and how far that
# was read. Two spaces never have the same list, so it tells them apart.
_latest: tuple[_Kept, ...] = ()
_looked_at = 0


class _Kept:
    __slots__ = ("changed", "read", "table")

    def __init__(self, changed: list[str], table: Table) -> None:
        self.changed = changed
        self.read = len(changed)
        self.table = table


def of(space: Space, weight: int = 1) -> Table | None:
    """The table of a space as it is now; None where looking at the nodes themselves is better."""
    global _looked_at
    if len(space.nodes) * weight < NODES_LEAST:
        return None
    for kept in _latest:
        if kept.changed is space.changed:
            _catch_up(kept, space)
            return kept.table
    if _looked_at < PATIENCE:
        _looked_at += len(space.nodes) * weight
        return None
    return _remember(space)


def _catch_up(kept: _Kept, space: Space) -> None:
    changed, table = kept.changed, kept.table
    if kept.read < len(changed):
        for name in set(changed[kept.read :]):
            table.update(table.row[name], space.nodes[name])
        kept.read = len(changed)


def _remember(space: Space) -> Table | None:
    global _latest
    try:
        table = _similar(space) or Table(space.nodes)
    except ImportError:
        return None
    _latest = (_Kept(space.changed, table), *_latest[: TABLES_MAX - 1])
    return table


def _similar(space: Space) -> Table | None:
    """A copy of a table of the same nodes at another time, brought up to date; or None."""
    for kept in _latest:
        if len(kept.table.row) != len(space.nodes) or list(kept.table.row) != list(space.nodes):
            continue
        nodes = space.nodes.values()
        if all(a.capacity is b.capacity for a, b in zip(kept.table.nodes, nodes, strict=True)):
            table = kept.table.copy()
            for row, node in enumerate(nodes):
                table.update(row, node)
            return table
    return None
