"""Resizing what stands on a node: more or less of it, on the same node and, where it can, cards."""

from __future__ import annotations

from ledger.nodes import Node
from ledger.requests import CARD, Amounts, Devices, Placement
from ledger.rules.capacity import place_on


def place_again(
    node: Node,
    old: Placement,
    wanted: Amounts,
    *,
    shrinking: bool,
    keep: Devices | None = None,
) -> Placement | None:
    """The new placement on the node that holds the old one, on the old one's cards.

    None where it does not fit, or could only grow by moving to other cards. Of a shrinking one, those
    in ``keep`` stay where not all can. What does not grow always fits, also on a node that a resize
    has left over-committed: only then can it heal.
    """
    without = node.plus(old, -1)
    if shrinking:
        return place_on(_roomy(without, node.in_use, old), wanted, keep or old.devices)
    still = {r: node.in_use[r] for r, a in wanted.items() if a <= old.amounts.get(r, 0)}
    capacity = {r: max(c, still.get(r, 0)) for r, c in without.capacity.items()}
    placed = place_on(without.sized(capacity), wanted, old.devices)
    return None if placed is None or _moved(old, placed) else placed


def _moved(old: Placement, new: Placement) -> bool:
    """Whether a resource that the allocation keeps has left one of its cards for another."""
    for resource, shares in (old.devices or {}).items():
        there = (new.devices or {}).get(resource, {})
        kept = shares.keys() & there.keys()
        if len(kept) < min(len(shares), len(there)):
            return True
    return False


def _roomy(node: Node, in_use: Amounts, old: Placement) -> Node:
    capacity = {r: max(node.capacity.get(r, 0), amount) for r, amount in in_use.items()}
    cards = {
        resource: dict.fromkeys(shares, CARD) for resource, shares in (old.devices or {}).items()
    }
    return Node(
        node.name, capacity, node.labels, cards, node.in_use, node.cards_in_use, node.cordoned
    )
