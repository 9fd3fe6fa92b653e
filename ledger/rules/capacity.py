"""Capacity on one node: what is free, whether amounts fit, on which cards, and short by what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ledger.nodes import Node
from ledger.quick import maker
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Devices, Placement

_placement = maker(Placement)


def free(node: Node, resource: str) -> int:
    """Base units of a resource that the node could still give (never below 0)."""
    taken = node.in_use.get(resource, 0) + node.outside.get(resource, 0)
    return max(0, node.capacity.get(resource, 0) - taken)


def left(node: Node, resource: str) -> int:
    """Base units of a resource that nobody uses; below 0 where more is used than there is."""
    taken = node.in_use.get(resource, 0) + node.outside.get(resource, 0)
    return node.capacity.get(resource, 0) - taken


MILLION = 1_000_000
# A share in millionths is a product; with more bits than this it would not fit into 64 of them.
_BITS = 43


def scale_of(whole: int) -> tuple[int, int]:
    """How shares of a whole are taken: bits to leave out of an amount, and what to divide by."""
    shift = max(0, whole.bit_length() - _BITS)
    return shift, whole >> shift


def scaled(amount: int, whole: int) -> int:
    """An amount as a share of a whole, in whole millionths; 0 where there is no whole."""
    if whole <= 0:
        return 0
    shift, divisor = scale_of(whole)
    return (amount >> shift) * MILLION // divisor


def largest_of(nodes: Iterable[Node]) -> Amounts:
    """Resource → the largest capacity of one node."""
    largest: Amounts = {}
    for node in nodes:
        for resource, amount in node.capacity.items():
            if amount > largest.get(resource, 0):
                largest[resource] = amount
    return largest


def carries(node: Node, select: Mapping[str, str] | None) -> bool:
    """Whether the node has every wanted label; ``A|B`` as wanted value takes either."""
    if not select:
        return True
    labels = node.labels
    return all(labels.get(label) in wanted.split("|") for label, wanted in select.items())


def _pick_cards(
    node: Node, resource: str, amount: int, keep: Mapping[str, int]
) -> dict[str, int] | None:
    """Shares on cards for an amount, those in ``keep`` first, or None where no cards serve.

    Whole cards have to be entirely free. A share goes to the card with least left that has enough:
    so whole cards stay whole.
    """
    cards = node.cards.get(resource, {})
    used = node.cards_in_use.get(resource, {})
    if amount >= CARD:
        wanted, rest = divmod(amount, CARD)
        whole = [c for c, size in cards.items() if size == CARD and not used.get(c)]
        whole.sort(key=lambda card: (card not in keep, int(card)))
        return None if rest or len(whole) < wanted else dict.fromkeys(whole[:wanted], CARD)
    rooms = [(c not in keep, size - used.get(c, 0), int(c), c) for c, size in cards.items()]
    best = min((room for room in rooms if room[1] >= amount), default=None)
    return None if best is None else {best[3]: amount}


def place_on(node: Node, amounts: Amounts, keep: Devices | None = None) -> Placement | None:
    """The placement of ``amounts`` on this node, or None where they do not fit.

    ``keep`` names cards to stay on where that is possible (an allocation that is adjusted).
    """
    capacity, in_use, outside = node.capacity, node.in_use, node.outside
    after = {}
    devices: Devices | None = None
    for resource, amount in amounts.items():
        total = in_use.get(resource, 0) + amount
        if total > capacity.get(resource, 0):
            return None
        if outside and total + outside.get(resource, 0) > capacity.get(resource, 0):
            return None
        after[resource] = total
        if resource in CARD_RESOURCES:
            picked = _pick_cards(node, resource, amount, (keep or {}).get(resource, {}))
            if picked is None:
                return None
            devices = {**(devices or {}), resource: picked}
    return _placement(node.name, amounts, after, devices)


def fit_on(node: Node, parts: Iterable[Amounts]) -> bool:
    """Whether a node takes all of these, one after the other."""
    for part in parts:
        placed = place_on(node, part)
        if placed is None:
            return False
        node = node.plus(placed, 1)
    return True


def fits_empty(node: Node, amounts: Amounts) -> bool:
    """Whether the amounts would fit if nothing were in use."""
    capacity = node.capacity
    for resource, amount in amounts.items():
        if amount > capacity.get(resource, 0):
            return False
    if CARD_RESOURCES.isdisjoint(amounts):
        return True
    empty = Node(node.name, node.capacity, node.labels, node.cards, {}, {})
    return place_on(empty, amounts) is not None


def fits_beside_others(node: Node, amounts: Amounts) -> bool:
    """Whether the amounts would fit if nothing were in use but what is used outside."""
    if not node.outside:
        return fits_empty(node, amounts)
    return place_on(node.empty().seen(outside=node.outside), amounts) is not None


def _obtainable(node: Node, resource: str, amount: int) -> int:
    """How much of an amount the node could give now, counting cards where there are cards."""
    plain = min(amount, free(node, resource))
    if resource not in CARD_RESOURCES:
        return plain
    used = node.cards_in_use.get(resource, {})
    left = [size - used.get(card, 0) for card, size in node.cards.get(resource, {}).items()]
    if amount < CARD:
        return min(plain, max(left, default=0), amount)
    whole = CARD * sum(1 for size in left if size == CARD)
    return min(amount, plain // CARD * CARD, whole)


def short_by(node: Node, amounts: Amounts) -> Amounts:
    """Resource → base units that are missing on this node for the amounts to fit now."""
    missing = {}
    for resource, amount in amounts.items():
        lack = amount - _obtainable(node, resource, amount)
        if lack > 0:
            missing[resource] = lack
    return missing


def fits_now(node: Node, amounts: Amounts) -> Amounts:
    """The largest part of the amounts that the node could give now (resources with 0 left out)."""
    parts = {r: _obtainable(node, r, a) for r, a in amounts.items()}
    return {resource: amount for resource, amount in parts.items() if amount}
