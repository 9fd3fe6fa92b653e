"""Gradients: :mod:`ledger.rules.fragmentation` over a table of nodes at once, to the same result.

What is idle is useful to a shape that runs on a node as far as it lies on cards with enough left for
it. F, times the number of typical requests, is idle × total − the sum of what is useful; and what is
idle falls by the same amount wherever a request lands. So the gain of what is useful decides.

Numbers are whole throughout, and no product of matrices is made: those run on threads of their own,
which on a busy machine cost more than they save.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ledger.requests import CARD, Amounts, Placement
from ledger.rules.capacity import place_on
from ledger.rules.fragmentation import CARDS, Typical, bounds_of
from ledger.rules.tables import Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]


def grows_least_in(
    table: Table,
    typical: Typical,
    select: Mapping[str, str] | None,
    barred: Collection[str],
    amounts: Amounts,
    filled: bool,
) -> Placement | None:
    """The placement where fragmentation grows least, or None where the amounts fit nowhere."""
    rows = table.np.flatnonzero(table.fits(select, barred, amounts))
    if not len(rows):
        return None
    if CARDS not in table.left:
        growth = _stranded(table, typical, rows, amounts) - _stranded(table, typical, rows, {})
        return place_on(table.nodes[table.row[table.least(rows, growth)]], amounts)
    gains = (_FilledGains if filled else _Gains)(table, typical, rows, amounts)
    shares = 0 < amounts.get(CARDS, 0) < CARD
    return gains.best_share(amounts) if shares else gains.best_node(amounts)


def _stranded(table: Table, typical: Typical, rows: Numbers, taken: Amounts) -> Numbers:
    """F of nodes without cards, times the number of typical requests."""
    np = table.np
    total: Numbers = np.zeros(len(rows), np.int64)
    nothing = np.zeros(len(rows), np.int64)
    idle = {
        resource: np.maximum(0, column[rows] - taken.get(resource, 0))
        for resource, column in table.left.items()
    }
    for shape in typical.shapes:
        needs = shape.amounts.items()
        times = np.stack([idle.get(r, nothing) // amount for r, amount in needs]).min(axis=0)
        if shape.select:
            times = times * table.mask(shape.select)[rows]
        for resource, amount in needs:
            if resource in table.scale:
                rest = idle[resource] - times * amount
                total += shape.count * table.share(resource, rest)
    return total


class _Kinds:
    """Typical shapes by what they need of cards, as arrays. One for a mix, whatever the request.

    Shapes of one kind stand together, from ``starts`` on. ``steps[x, k]`` is what of a card with x
    idle is useful to kind k: all of it, or nothing.
    """

    def __init__(self, table: Table, typical: Typical) -> None:
        np = table.np
        shapes = [shape for shape in typical.shapes if shape.cards]
        shapes.sort(key=lambda shape: (shape.card, shape.cards))
        of_shapes = [(shape.card, shape.cards) for shape in shapes]
        kinds = sorted(set(of_shapes))
        self.total = typical.total
        self.card = np.array([card for card, _ in kinds], np.int64)
        self.cards = np.array([cards for _, cards in kinds], np.int64)
        idle = np.arange(CARD + 1, dtype=np.int64)[:, None]
        self.steps: Numbers = np.where(idle >= self.card, idle, 0)
        self.counts = np.array([shape.count for shape in shapes], np.int64)
        self.starts = np.array([of_shapes.index(kind) for kind in kinds], np.int64)
        self.kind = np.array([kinds.index(kind) for kind in of_shapes], np.int64)
        self.needs: dict[str, Numbers] = {}
        for resource in {resource for shape in shapes for resource in shape.amounts}:
            if resource != CARDS or table.outside_on_cards:
                needs = [shape.amounts.get(resource, 0) for shape in shapes]
                self.needs[resource] = np.array(needs, np.int64)
        self.selects = [shape.select for shape in shapes]
        self.bounds = np.array(bounds_of(typical.total), np.int64)


def _kinds(table: Table, typical: Typical) -> _Kinds:
    """What was worked out for these typical shapes, as long as they stay the same."""
    kept: tuple[Typical, bool, _Kinds] | None = table.derived.get("kinds")
    if kept is not None and kept[0] is typical and kept[1] == table.outside_on_cards:
        return kept[2]
    kinds = _Kinds(table, typical)
    table.derived["kinds"] = (typical, table.outside_on_cards, kinds)
    return kinds


def _useful(table: Table, kinds: _Kinds) -> Numbers:
    """Node × kind: what is idle on cards that have enough left. Only replaced nodes are read anew."""
    shown = (tuple(kinds.card), tuple(kinds.cards))
    kept: tuple[Any, Numbers] | None = table.derived.get("useful")
    if kept is None or kept[0] != shown:
        useful: Numbers = kinds.steps[table.cards].sum(axis=1)
        table.derived["useful"] = (shown, useful)
    else:
        useful = kept[1]
        for row in table.stale:
            useful[row] = kinds.steps[table.cards[row]].sum(axis=0)
    table.stale.clear()
    return useful


def _masks(table: Table, kinds: _Kinds) -> Any:
    """Node × shape: whether the node has the labels that the shape wants; None where all do."""
    if not any(kinds.selects):
        return None
    kept = table.derived.get("masks")
    if kept is None or kept[0] is not kinds or kept[1] is not table.masks:
        np = table.np
        everywhere = np.ones(len(table.nodes), np.bool_)
        columns = [table.mask(each) if each else everywhere for each in kinds.selects]
        kept = table.derived["masks"] = (kinds, table.masks, np.stack(columns, axis=1))
    return kept[2]


class _Gains:
    """For one request: how much less useful, to what is usually asked, each node would become.

    ``after``: node × kind, how often what then runs there, but for the cards, is asked for.
    ``before``: how useful each node is now.
    """

    def __init__(self, table: Table, typical: Typical, rows: Numbers, amounts: Amounts) -> None:
        self.table = table
        self.rows = rows
        self.kinds = _kinds(table, typical)
        self.idle = _useful(table, self.kinds)[rows]
        masks = _masks(table, self.kinds)
        self.masks = None if masks is None else masks[rows]
        self.before = self._sum(self.idle, self._reach({}))
        self.after = self._reach(amounts)

    def _left(self, resource: str, taken: Amounts) -> Numbers:
        column = self.table.left.get(resource)
        if column is None:
            nothing: Numbers = self.table.np.zeros((len(self.rows), 1), self.table.np.int64)
            return nothing
        left: Numbers = (column[self.rows] - taken.get(resource, 0))[:, None]
        return left

    def _reach(self, taken: Amounts) -> Numbers:
        np, kinds = self.table.np, self.kinds
        runs: Any = self.masks
        for resource, needs in kinds.needs.items():
            enough = self._left(resource, taken) >= needs
            runs = enough if runs is None else runs & enough
        counts = kinds.counts if runs is None else runs * kinds.counts
        weights: Numbers = np.add.reduceat(np.atleast_2d(counts), kinds.starts, axis=1)
        spread: Numbers = np.broadcast_to(weights, self.idle.shape)
        return spread

    def _sum(self, idle: Numbers, reach: Numbers) -> Numbers:
        """Of each node, what is useful, times how often it was asked for."""
        total: Numbers = (idle * (idle >= self.kinds.cards) * reach).sum(axis=1)
        return total

    def _scores(self, fall: Numbers) -> Numbers:
        scores: Numbers = self.table.np.searchsorted(self.kinds.bounds, fall, side="right")
        return scores

    def best_node(self, amounts: Amounts) -> Placement | None:
        """Where no card, or whole cards, are asked for: whole ones are alike."""
        taken = amounts.get(CARDS, 0)
        after = self._sum(self.idle - taken, self.after)
        scores = self._scores(self.kinds.total * taken + after - self.before)
        table = self.table
        return place_on(table.nodes[table.row[table.least(self.rows, -scores)]], amounts)

    def best_share(self, amounts: Amounts) -> Placement | None:
        """Where a share of a card is asked for: each card that has less or more left is another case."""
        table, np, kinds = self.table, self.table.np, self.kinds
        share = amounts[CARDS]
        cards = table.cards[self.rows]
        at, column = np.nonzero(cards >= share)
        left = cards[at, column]
        _, first = np.unique(at * (CARD + 1) + left, return_index=True)
        at, column, left = at[first], column[first], left[first]
        idle = self.idle[at] + kinds.steps[left - share] - kinds.steps[left]
        after = self._sum(idle, self.after[at])
        scores = self._scores(kinds.total * share + after - self.before[at])
        best = np.flatnonzero(scores == scores.max())
        ranks = table.rank[self.rows[at[best]]]
        best = best[ranks == ranks.min()]
        chosen = best[column[best].argmin()]
        row = int(self.rows[at[chosen]])
        card = table.names[row][int(column[chosen])]
        return place_on(table.nodes[row], amounts, {CARDS: {card: CARD}})


class _FilledGains(_Gains):
    """The same for ``frontier``: useful is no more than what else is left lets run.

    ``after``: node × shape, how many times it could then run there but for the cards.
    """

    def _reach(self, taken: Amounts) -> Numbers:
        np, kinds = self.table.np, self.kinds
        most = CARD * self.table.cards.shape[1]
        times: Numbers = np.full((len(self.rows), len(kinds.counts)), most)
        for resource, needs in kinds.needs.items():
            left = self._left(resource, taken)
            if resource == CARDS:
                times *= left >= needs
            else:
                reach = np.maximum(left, 0) // np.maximum(needs, 1)
                times = np.minimum(times, np.where(needs > 0, reach, most))
        return times if self.masks is None else times * self.masks

    def _sum(self, idle: Numbers, reach: Numbers) -> Numbers:
        np, kinds = self.table.np, self.kinds
        cards = kinds.cards[kinds.kind]
        on_cards = idle[:, kinds.kind]
        useful = np.minimum(on_cards, reach * cards) * (on_cards >= cards)
        total: Numbers = (useful * kinds.counts).sum(axis=1)
        return total
