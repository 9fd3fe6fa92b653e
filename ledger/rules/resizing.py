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
    """The new placement on the node that holds the old one, on the old one's cards where it can.

    Where not all of them stay, those in ``keep`` do. A shrinking allocation always succeeds, also on
    a node that a resize has left over-committed: only then can it heal. So it is placed as if the
    node had grown to fit.
    """
    without = node.plus(old, -1)
    if shrinking:
        without = _roomy(without, node.in_use, old)
    return place_on(without, wanted, keep if shrinking and keep else old.devices)


def _roomy(node: Node, in_use: Amounts, old: Placement) -> Node:
    capacity = {r: max(node.capacity.get(r, 0), amount) for r, amount in in_use.items()}
    cards = {
        resource: dict.fromkeys(shares, CARD) for resource, shares in (old.devices or {}).items()
    }
    return Node(
        node.name, capacity, node.labels, cards, node.in_use, node.cards_in_use, node.cordoned
    )
