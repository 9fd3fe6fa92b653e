"""Fragmentation: how much of what is idle is of no use to what is usually asked.

After "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent"
(USENIX ATC 2023). The typical shapes are those of the recent mix: all of them, where the paper leaves
the rarest twentieth out. In its traces the rare ones ask for twice the cards of the others, and room has
to be kept for them: with all of them more is handed out on two of its workloads (docs/whatif.md). The
fragmentation F of a node is the mean over them, by how often they are asked for, of

- with cards: all that is idle on its cards, where the shape asks for no card or cannot run there;
  else what is idle on cards that have less left than the shape needs of one.
- without cards: what would be left, of the resources the shape asks for, once the node were filled
  up with that shape. Each resource counts as a share of the largest node's capacity, in millionths.

``frontier`` changes one thing where there are cards. In the paper a node with eight idle cards and
processors for one more request counts as eight useful cards. Here, useful is no more than what the
other resources let run: they run out first on many nodes, and so requests that need no card, or many
processors, go where processors are left over.

A request goes where F grows least. With cards growth is scored as in the paper, and equal scores
go to the node whose name sorts first, its smallest card number first: the whole part of
100 × sigmoid((F before − F after) ÷ 1000), F in thousandths of a card. The coarse score is part of
the method: it packs nodes in the order of their names wherever the difference is small. Without
cards the growth itself is compared.

All arithmetic is on whole numbers: F is kept times the number of typical requests, and the sigmoid is
a table of 99 bounds. So the same book leads to the same placement on every machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import log

from ledger.mix import Mix, Shape
from ledger.nodes import Node
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Placement
from ledger.rules.capacity import MILLION, carries, largest_of, left, place_on, scaled
from ledger.spaces import Space

# The gradient is written for one resource that comes in cards; a second one would need a sum.
(CARDS,) = CARD_RESOURCES

# score ≥ k exactly where the fall of F is at least 1000 × ln(k ÷ (100 − k)). Rounded to millionths,
# the bounds are the same wherever logarithms differ in their last digit.
_BOUNDS = tuple(round(1000 * log(k / (100 - k)) * MILLION) for k in range(1, 100))


@dataclass(frozen=True, slots=True)
class TypicalShape:
    """A shape that is often asked for: how often, how much of what, on nodes with which labels.

    ``card`` is what it needs on each card it uses, 0 where it needs none; ``cards`` that times the
    number of cards.
    """

    count: int
    amounts: Amounts
    select: dict[str, str]
    card: int
    cards: int


@dataclass(frozen=True, slots=True)
class Typical:
    """The typical shapes, most frequent first, and how many requests they are in all."""

    shapes: tuple[TypicalShape, ...]
    total: int


def typical_of(mix: Mix) -> Typical | None:
    """The typical shapes of a mix; None where nothing was asked for yet."""
    global _latest
    if not mix.counts:
        return None
    counts, latest = _latest
    if latest is None or counts != mix.counts:
        latest = _typical(mix)
        _latest = (mix.counts.copy(), latest)
    return latest


# The latest answer: requests often come with no other in between.
_latest: tuple[dict[Shape, int], Typical | None] = ({}, None)


def _typical(mix: Mix) -> Typical:
    ordered = sorted(mix.counts, key=lambda each: (-mix.counts[each], each))
    shapes = tuple(_typical_shape(shape, mix.counts[shape]) for shape in ordered)
    return Typical(shapes, sum(mix.counts.values()))


def _typical_shape(shape: Shape, count: int) -> TypicalShape:
    amounts, select = shape
    needs = dict(amounts)
    cards = needs.get(CARDS, 0)
    return TypicalShape(count, needs, dict(select), min(cards, CARD), cards)


def bounds_of(total: int) -> list[int]:
    """What a fall of F, times ``total``, has to reach for the scores 1 to 99."""
    return [-(-bound * total // MILLION) for bound in _BOUNDS]


def score(fall: int, total: int) -> int:
    """The whole part of 100 × sigmoid(fall ÷ total ÷ 1000)."""
    return bisect_right(bounds_of(total), fall)


def cards_left(node: Node) -> dict[str, int]:
    """Card → what is idle on it, in the order of the cards' numbers."""
    used = node.cards_in_use.get(CARDS, {})
    cards = node.cards.get(CARDS, {})
    return {card: cards[card] - used.get(card, 0) for card in sorted(cards, key=int)}


def fragments(
    node: Node, cards: Iterable[int], taken: Amounts, typical: Typical, *, filled: bool = False
) -> int:
    """F of a node with cards, times ``typical.total``, once ``taken`` were taken of it.

    ``cards`` is what is idle on each card then. ``filled``: as ``frontier`` measures it.
    """
    idle = [each for each in cards if each > 0]
    useful = 0
    for shape in typical.shapes:
        if shape.cards and carries(node, shape.select):
            on_cards = sum(each for each in idle if each >= shape.card)
            rest = {r: left(node, r) - taken.get(r, 0) for r in shape.amounts}
            if on_cards < shape.cards or any(rest[r] < a for r, a in shape.amounts.items()):
                continue
            if filled:
                for resource, amount in shape.amounts.items():
                    if resource != CARDS:
                        on_cards = min(on_cards, rest[resource] // amount * shape.cards)
            useful += shape.count * on_cards
    return typical.total * sum(idle) - useful


def stranded(node: Node, taken: Amounts, typical: Typical, largest: Amounts) -> int:
    """F of a node without cards, times ``typical.total``, once ``taken`` were taken of it."""
    sum_ = 0
    for shape in typical.shapes:
        idle = {r: max(0, left(node, r) - taken.get(r, 0)) for r in shape.amounts}
        times = 0
        if carries(node, shape.select):
            times = min(idle[r] // amount for r, amount in shape.amounts.items())
        for resource, amount in shape.amounts.items():
            rest = idle[resource] - times * amount
            sum_ += shape.count * scaled(rest, largest.get(resource, 0))
    return sum_


def grows_least(
    space: Space, nodes: Iterable[Node], typical: Typical, amounts: Amounts, *, filled: bool
) -> Placement | None:
    """The placement on one of ``nodes``, all of ``space``, where fragmentation grows least; or None."""
    if CARDS in space.totals:
        return _best_scored(nodes, typical, amounts, filled)
    largest = largest_of(space.nodes.values())
    best: tuple[int, str] | None = None
    chosen: Placement | None = None
    for node in nodes:
        placement = place_on(node, amounts)
        if placement is None:
            continue
        growth = stranded(node, amounts, typical, largest) - stranded(node, {}, typical, largest)
        if best is None or (growth, node.name) < best:
            best, chosen = (growth, node.name), placement
    return chosen


def _best_scored(
    nodes: Iterable[Node], typical: Typical, amounts: Amounts, filled: bool
) -> Placement | None:
    bounds = bounds_of(typical.total)
    best: tuple[int, str] | None = None
    chosen: Placement | None = None
    for node in nodes:
        placement = place_on(node, amounts)
        if placement is None:
            continue
        before = fragments(node, cards_left(node).values(), {}, typical, filled=filled)
        for option in _options(node, placement):
            after = fragments(node, _after(node, option), amounts, typical, filled=filled)
            points = bisect_right(bounds, before - after)
            if best is None or (-points, node.name) < best:
                best, chosen = (-points, node.name), option
    return chosen


def _options(node: Node, placement: Placement) -> list[Placement]:
    """The placements on a node that differ for what is left: a share may go to any card with room."""
    amount = placement.amounts.get(CARDS, 0)
    if not 0 < amount < CARD:
        return [placement]
    alike: dict[int, str] = {}
    for card, idle in cards_left(node).items():
        if idle >= amount:
            alike.setdefault(idle, card)
    options = [place_on(node, placement.amounts, {CARDS: {c: CARD}}) for c in alike.values()]
    return [option for option in options if option is not None]


def _after(node: Node, placement: Placement) -> list[int]:
    taken = (placement.devices or {}).get(CARDS, {})
    return [idle - taken.get(card, 0) for card, idle in cards_left(node).items()]
