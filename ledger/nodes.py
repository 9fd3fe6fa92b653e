"""Nodes: the indivisible places of a pool, as values that events replace and never change."""

from __future__ import annotations

from ledger.requests import CARD, CARD_RESOURCES, Amounts, Devices, NodeSpec, Placement

_NOTHING: Amounts = {}
_UNSAID: dict[str, str] = {}
_new = object.__new__


class Node:
    """A place in a space: capacity, what is in use, and which cards. Replaced, never changed.

    ``outside`` is what others were seen to use of it without asking the ledger: it is not handed out.
    ``outside_basis`` says for each of those resources whose it is and how that is known, in words.
    """

    __slots__ = (
        "capacity",
        "cards",
        "cards_in_use",
        "cordoned",
        "in_use",
        "labels",
        "name",
        "outside",
        "outside_basis",
    )

    def __init__(
        self,
        name: str,
        capacity: Amounts,
        labels: dict[str, str],
        cards: Devices,
        in_use: Amounts,
        cards_in_use: Devices,
        cordoned: bool = False,
        outside: Amounts = _NOTHING,
        outside_basis: dict[str, str] = _UNSAID,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.labels = labels
        self.cards = cards
        self.in_use = in_use
        self.cards_in_use = cards_in_use
        self.cordoned = cordoned
        self.outside = outside
        self.outside_basis = outside_basis

    def plus(self, placement: Placement, sign: int) -> Node:
        """This node with a placement taken (``sign`` 1) or given back (−1)."""
        in_use = self.in_use.copy()
        for resource, amount in placement.amounts.items():
            in_use[resource] = in_use.get(resource, 0) + sign * amount
        cards_in_use = self.cards_in_use
        if placement.devices:
            cards_in_use = cards_in_use.copy()
            for resource, shares in placement.devices.items():
                used = dict(cards_in_use.get(resource, {}))
                for card, amount in shares.items():
                    left = used.get(card, 0) + sign * amount
                    if left:
                        used[card] = left
                    else:
                        used.pop(card, None)
                cards_in_use[resource] = used
        # Not by way of __init__, which takes twice the time: each grant and each release is here.
        node: Node = _new(Node)
        node.name = self.name
        node.capacity = self.capacity
        node.labels = self.labels
        node.cards = self.cards
        node.in_use = in_use
        node.cards_in_use = cards_in_use
        node.cordoned = self.cordoned
        node.outside = self.outside
        node.outside_basis = self.outside_basis
        return node

    def spending(self, amounts: Amounts, sign: int) -> Node:
        """This node with a consumable spent for good (``sign`` 1), or refilled (−1)."""
        return self.plus(Placement(self.name, amounts, {}), sign)

    def resized(self, spec: NodeSpec) -> Node:
        """This node with another capacity; labels stay where the spec names none."""
        capacity = {**self.capacity, **spec.capacity}
        return Node(
            self.name,
            capacity,
            self.labels if spec.labels is None else spec.labels,
            cards_of(capacity),
            self.in_use,
            self.cards_in_use,
            self.cordoned,
            self.outside,
            self.outside_basis,
        )

    def sized(self, capacity: Amounts) -> Node:
        """This node with another capacity, and the cards that it has."""
        return Node(
            self.name,
            capacity,
            self.labels,
            self.cards,
            self.in_use,
            self.cards_in_use,
            self.cordoned,
            self.outside,
            self.outside_basis,
        )

    def seen(
        self,
        *,
        cordoned: bool | None = None,
        outside: Amounts | None = None,
        basis: dict[str, str] | None = None,
    ) -> Node:
        """This node, cordoned or not, with other outside use; ``basis`` goes with ``outside``."""
        return Node(
            self.name,
            self.capacity,
            self.labels,
            self.cards,
            self.in_use,
            self.cards_in_use,
            self.cordoned if cordoned is None else cordoned,
            self.outside if outside is None else outside,
            self.outside_basis if outside is None else basis or _UNSAID,
        )

    def empty(self) -> Node:
        """This node with nothing in use, neither by holders nor outside."""
        return Node(self.name, self.capacity, self.labels, self.cards, {}, {})


def cards_of(capacity: Amounts) -> Devices:
    """The cards that a capacity stands for, numbered from 0, each of :data:`CARD` base units."""
    return {
        resource: {str(index): CARD for index in range(amount // CARD)}
        for resource, amount in capacity.items()
        if resource in CARD_RESOURCES
    }


def node_from(spec: NodeSpec) -> Node:
    """A fresh node from its announcement."""
    return Node(spec.name, spec.capacity, spec.labels or {}, cards_of(spec.capacity), {}, {})


def lending(placement: Placement) -> Node:
    """The node that an allocation is to what draws on it: its own share, nothing of it lent yet."""
    return Node(placement.node, placement.amounts, {}, placement.devices or {}, {}, {})
