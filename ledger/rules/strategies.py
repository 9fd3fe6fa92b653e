"""Strategies: which of the nodes with room takes a request.

======================= =========================================================================
``first_fit``           the first in the pool's order
``best_fit``            the one that would have least left, summed over the resources that count
                        (:func:`counted`)
``worst_fit``           the one that would have most left
``random``              any, each equally likely, drawn by the digest of the command's id
``fragmentation_aware`` the one where what is left stays most useful for what is usually asked
                        (:mod:`ledger.rules.fragmentation`)
``frontier``            the same, but a card that nothing else is left for counts as useless
``adaptive``            one of these, from the pool's state (:func:`adapted`)
======================= =========================================================================

Equal ones go to the node whose name sorts first. Each strategy is written down here node by node;
in large pools that are asked often a table of the same numbers (:mod:`ledger.rules.tables`) gives
the same answer sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from ledger.amounts import MILLI_RESOURCES
from ledger.mix import Mix
from ledger.nodes import Node
from ledger.quick import dataclass
from ledger.requests import CARD_RESOURCES, Amounts, Placement, Request
from ledger.rules import tables
from ledger.rules.capacity import carries, free, largest_of, left, place_on, scaled
from ledger.rules.fragmentation import grows_least, typical_of
from ledger.spaces import Space


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be placed, and how.

    ``seed`` comes from the command's id, so that a randomised choice is decided again the same way.
    ``barred`` are nodes kept for others; ``prefer`` are nodes to be tried first, in order.
    """

    request: Request
    strategy: str
    seed: int = 0
    barred: Collection[str] = ()
    prefer: tuple[str, ...] = ()


def eligible(nodes: Iterable[Node], wish: Wish) -> Iterable[Node]:
    """The nodes that a wish may land on, in the pool's order, whatever they have in use."""
    select, barred = wish.request.select, wish.barred
    if not select and not barred:
        return (node for node in nodes if not node.cordoned)
    return (
        node
        for node in nodes
        if not node.cordoned and node.name not in barred and carries(node, select)
    )


def _fitting(space: Space, wish: Wish, amounts: Amounts) -> Iterator[tuple[Node, Placement]]:
    for node in eligible(space.nodes.values(), wish):
        placement = place_on(node, amounts)
        if placement is not None:
            yield node, placement


def _placed(space: Space, amounts: Amounts, name: str | None) -> Placement | None:
    return None if name is None else place_on(space.nodes[name], amounts)


def first_fit(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """The first node, in the pool's order, on which the amounts fit."""
    table = tables.of(space)
    if table is not None:
        return _placed(space, amounts, table.first(wish.request.select, wish.barred, amounts))
    return next((placement for _, placement in _fitting(space, wish, amounts)), None)


def counted(space: Space, amounts: Amounts) -> tuple[str, ...]:
    """The resources by which ``best_fit`` and ``worst_fit`` tell how much would be left of a node.

    In a space with cards processors and cards, asked for or not: so a request without cards goes
    where few cards are idle, and memory, of which there is mostly enough, does not outweigh them.
    This is the measure of the best-fit policy in "Beware of Fragmentation". In others, the resources
    asked for. Each counts as a share of the largest node's capacity.
    """
    there = {resource for resource, total in space.totals.items() if total}
    if CARD_RESOURCES.isdisjoint(there):
        return tuple(sorted(amounts))
    return tuple(sorted(MILLI_RESOURCES & there))


def best_fit(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """The node that would have least left; equal ones go to the node whose name sorts first."""
    return _extreme(space, wish, amounts, 1)


def worst_fit(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """The node that would have most left; equal ones go to the node whose name sorts first."""
    return _extreme(space, wish, amounts, -1)


def _extreme(space: Space, wish: Wish, amounts: Amounts, sign: int) -> Placement | None:
    resources = counted(space, amounts)
    table = tables.of(space)
    if table is not None:
        name = table.extreme(wish.request.select, wish.barred, amounts, resources, sign)
        return _placed(space, amounts, name)
    largest = largest_of(space.nodes.values())
    best: tuple[int, str] | None = None
    chosen: Placement | None = None
    for node, placement in _fitting(space, wish, amounts):
        rest = sum(scaled(max(0, left(node, r) - amounts.get(r, 0)), largest[r]) for r in resources)
        if best is None or (sign * rest, node.name) < best:
            best, chosen = (sign * rest, node.name), placement
    return chosen


def random_fit(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """Any node with room, each equally likely, drawn by the wish's seed."""
    table = tables.of(space)
    if table is not None:
        name = table.any(wish.request.select, wish.barred, amounts, wish.seed)
        return _placed(space, amounts, name)
    fitting = [placement for _, placement in _fitting(space, wish, amounts)]
    return fitting[wish.seed % len(fitting)] if fitting else None


def fragmentation_aware(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """The node, and the card, where fragmentation grows least; ``best_fit`` where nothing was asked."""
    return _least_growth(space, mix, wish, amounts, filled=False)


def frontier(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """As ``fragmentation_aware``, but a card that nothing is left to run with counts as useless."""
    return _least_growth(space, mix, wish, amounts, filled=True)


def _least_growth(
    space: Space, mix: Mix, wish: Wish, amounts: Amounts, *, filled: bool
) -> Placement | None:
    typical = typical_of(mix)
    if typical is None:
        return best_fit(space, mix, wish, amounts)
    table = tables.of(space, weight=tables.GRADIENT_WEIGHT)
    if table is not None:
        from ledger.rules.gradients import grows_least_in

        select, barred = wish.request.select, wish.barred
        return grows_least_in(table, typical, select, barred, amounts, filled)
    nodes = eligible(space.nodes.values(), wish)
    return grows_least(space, nodes, typical, amounts, filled=filled)


HALF = 500
"""Thousandths: below this share of use a pool counts as roomy."""


def adapted(space: Space, mix: Mix, amounts: Amounts) -> str:
    """The strategy that ``adaptive`` uses now; version 1 of the rule.

    1. All that is usually asked has one shape, or nothing was asked yet: ``first_fit``. Whatever
       is left takes the next one or does not.
    2. There are cards: ``fragmentation_aware``.
    3. Less than half is in use of every resource asked for: ``worst_fit``. There is room to spare,
       and neighbours are kept apart.
    4. No shape makes up half of what is usually asked: ``fragmentation_aware``, else ``best_fit``.
    """
    typical = typical_of(mix)
    if typical is None or len(typical.shapes) == 1:
        return "first_fit"
    if not CARD_RESOURCES.isdisjoint(space.totals):
        return "fragmentation_aware"
    if all(_in_use(space, resource) < HALF for resource in amounts):
        return "worst_fit"
    if 2 * typical.shapes[0].count < typical.total:
        return "fragmentation_aware"
    return "best_fit"


def _in_use(space: Space, resource: str) -> int:
    """Thousandths of a resource that cannot be given out, over all nodes."""
    total = space.totals.get(resource, 0)
    if not total:
        return 1000
    return 1000 - 1000 * sum(free(node, resource) for node in space.nodes.values()) // total


def adaptive(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """As the strategy says that fits the pool's state (:func:`adapted`)."""
    return STRATEGIES[adapted(space, mix, amounts)](space, mix, wish, amounts)


Strategy = Callable[[Space, Mix, Wish, Amounts], Placement | None]
STRATEGIES: dict[str, Strategy] = {
    "first_fit": first_fit,
    "best_fit": best_fit,
    "worst_fit": worst_fit,
    "random": random_fit,
    "fragmentation_aware": fragmentation_aware,
    "frontier": frontier,
    "adaptive": adaptive,
}
