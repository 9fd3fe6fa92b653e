"""Resizing what stands on a node: more or less of it, on the same node and, where it can, cards."""

from __future__ import annotations

from ledger.nodes import Node
from ledger.requests import CARD, Amounts, Devices, Placement
from ledger.rules.capacity import place_on


def place_again(
    node: Node, old: Placement, wanted: Amounts, *, keep: Devices | None = None
) -> Placement | None:
    """The new placement on the node that holds the old one, on the old one's cards.

    None where what grows does not fit, or could only grow by moving to other cards. Of what shrinks,
    the cards in ``keep`` stay where not all can. What does not grow always fits, also on a node that a
    resize, or use outside the ledger, has left over-committed: only then can it heal.
    """
    still = {
        resource for resource, amount in wanted.items() if amount <= old.amounts.get(resource, 0)
    }
    cards = dict(old.devices or {})
    first = {**cards, **{r: on for r, on in (keep or {}).items() if r in still}}
    placed = place_on(_roomy(node, old, still), wanted, first)
    return None if placed is None or _moved(old, placed) else placed


def _moved(old: Placement, new: Placement) -> bool:
    """Whether a resource that the allocation keeps has left one of its cards for another."""
    for resource, shares in (old.devices or {}).items():
        there = (new.devices or {}).get(resource, {})
        kept = shares.keys() & there.keys()
        if len(kept) < min(len(shares), len(there)):
            return True
    return False


def _roomy(node: Node, old: Placement, still: set[str]) -> Node:
    """The node without the old placement, and with room for what is ``still`` to lie there, on its
    cards alone.
    """
    without = node.plus(old, -1)
    capacity, cards = dict(node.capacity), dict(node.cards)
    for resource in still:
        taken = node.in_use[resource] + node.outside.get(resource, 0)
        capacity[resource] = max(capacity.get(resource, 0), taken)
        if old.devices and resource in old.devices:
            cards[resource] = dict.fromkeys(old.devices[resource], CARD)
    return Node(
        node.name,
        capacity,
        node.labels,
        cards,
        without.in_use,
        without.cards_in_use,
        node.cordoned,
        node.outside,
        node.outside_basis,
    )
