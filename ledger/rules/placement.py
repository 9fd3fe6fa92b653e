"""Placement: on which node a request lands, or on which nodes where it asks to spread.

A strategy (:mod:`ledger.rules.strategies`) answers one question: which of the eligible nodes takes
these amounts. Which one is asked comes from the request, else from the pool's policy and its
roll-out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

from ledger.mix import Mix
from ledger.nodes import Node
from ledger.policy import Policy
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Placement, Request
from ledger.rules.capacity import carries, fits_empty, free, place_on
from ledger.rules.strategies import STRATEGIES, Wish, eligible
from ledger.spaces import Space

__all__ = [
    "STRATEGIES",
    "Wish",
    "could_ever_fit",
    "eligible",
    "on_node",
    "place",
    "runs_of",
    "seed_for",
    "seed_of",
    "shares_of",
    "strategy_for",
]


def seed_of(command: str) -> int:
    """A number from a command's id: the first 8 bytes of its SHA-256."""
    return int.from_bytes(sha256(command.encode()).digest()[:8], "big")


def seed_for(request: Request, policy: Policy, command: str) -> int:
    """:func:`seed_of` where something is drawn by it; 0 where nothing is, which saves a hash."""
    if policy.rollout_strategy is None and "random" not in (request.strategy, policy.strategy):
        return 0
    return seed_of(command)


def strategy_for(request: Request, policy: Policy, seed: int) -> str:
    """A request's own strategy, else the roll-out's for its share of them, else the pool's."""
    if request.strategy is not None:
        return request.strategy
    if policy.rollout_strategy is not None and seed % 1000 < policy.rollout_permille:
        return policy.rollout_strategy
    return policy.strategy


def _one(space: Space, mix: Mix, wish: Wish, amounts: Amounts) -> Placement | None:
    """The amounts on one node: a preferred one where it takes them, else as the strategy says."""
    for name in wish.prefer:
        placement = on_node(space, name, wish, amounts)
        if placement is not None:
            return placement
    return STRATEGIES[wish.strategy](space, mix, wish, amounts)


def on_node(space: Space, name: str, wish: Wish, amounts: Amounts) -> Placement | None:
    """The amounts on this node, or None where the wish may not land there or it lacks room."""
    node = space.nodes.get(name)
    if node is None or not any(eligible((node,), wish)):
        return None
    return place_on(node, amounts)


def place(
    space: Space, mix: Mix, wish: Wish, amounts: Amounts | None = None
) -> tuple[Placement, ...] | None:
    """Where a wish goes now, or None where it fits nowhere. ``amounts``: others than it asks for."""
    wanted = wish.request.amounts if amounts is None else amounts
    spread = wish.request.spread
    if spread is None:
        placement = _one(space, mix, wish, wanted)
        return None if placement is None else (placement,)
    for count in [spread] if spread else _counts_now(space, wish, wanted):
        found = _spread_over(space, mix, wish, wanted, count)
        if found is not None:
            return found
    return None


def shares_of(amounts: Amounts, count: int) -> list[Amounts] | None:
    """Amounts in ``count`` parts as even as whole units (whole cards) allow; None where one is empty.

    Equal parts are one object.
    """
    runs = runs_of(amounts, count)
    if runs is None:
        return None
    parts: list[Amounts] = []
    for part, times in runs:
        parts += [part] * times
    return parts


def runs_of(amounts: Amounts, count: int) -> list[tuple[Amounts, int]] | None:
    """:func:`shares_of` with each part once and how many there are of it, the largest first.

    No part has more of anything than the one before it, and there are no more runs than resources and
    one: the parts of each resource differ by one unit at most, and the larger come first.
    """
    shares = []
    for resource, amount in amounts.items():
        unit = _unit(resource)
        each, rest = divmod(amount // unit, count)
        if amount % unit or not each:
            return None
        shares.append((resource, unit, each, rest))
    runs: list[tuple[Amounts, int]] = []
    since = 0
    for until in sorted({rest for *_, rest in shares if rest} | {count}):
        part = {r: (each + (since < rest)) * unit for r, unit, each, rest in shares}
        runs.append((part, until - since))
        since = until
    return runs


def _unit(resource: str) -> int:
    """The least amount that a part may have: cards are not split between nodes."""
    return CARD if resource in CARD_RESOURCES else 1


def _units_empty(node: Node, resource: str) -> int:
    """How many units of a resource the node could give if nothing were in use."""
    capacity = node.capacity.get(resource, 0)
    if resource not in CARD_RESOURCES:
        return capacity
    whole = sum(size == CARD for size in node.cards.get(resource, {}).values())
    return min(capacity // CARD, whole)


def _units_now(node: Node, resource: str) -> int:
    """How many units of a resource the node could give now."""
    if resource not in CARD_RESOURCES:
        return free(node, resource)
    used = node.cards_in_use.get(resource, {})
    cards = node.cards.get(resource, {}).items()
    whole = sum(size == CARD and not used.get(card) for card, size in cards)
    return min(free(node, resource) // CARD, whole)


def _counts(asked: list[int], nodes: Iterable[list[int]], counts: range) -> Iterator[int]:
    """Of these numbers of parts (rising), those for which enough nodes take the parts at both ends.

    ``asked`` and what each of the ``nodes`` has are units, by resource: as many nodes as there are
    parts have to take the smallest of them, and as many as there are of the largest that one. Of u
    units the smallest of c parts has ⌊u ∕ c⌋ and the largest ⌈u ∕ c⌉, so a node that has k takes the
    smallest from c = ⌊u ∕ (k + 1)⌋ + 1 parts on and the largest from ⌈u ∕ k⌉ on. Sorted, these say for
    each c how many nodes do, without a look at each node for each c.
    """
    small, large = [], []
    for has in nodes:
        pairs = list(zip(asked, has, strict=True))
        small.append(max(u // (k + 1) + 1 for u, k in pairs))
        if all(has):
            large.append(max(-(-u // k) for u, k in pairs))
    small.sort()
    large.sort()
    takes_small = takes_large = 0
    for count in counts[: max(0, min(asked) + 1 - counts.start)]:
        while takes_small < len(small) and small[takes_small] <= count:
            takes_small += 1
        while takes_large < len(large) and large[takes_large] <= count:
            takes_large += 1
        if takes_small >= count:
            largest = min((rest for u in asked if (rest := u % count)), default=count)
            if takes_large >= largest:
                yield count


def _asked_units(amounts: Amounts) -> list[int] | None:
    """Amounts in units, or None where they cannot be split: a share of a card is not."""
    if any(amount % _unit(resource) for resource, amount in amounts.items()):
        return None
    return [amount // _unit(resource) for resource, amount in amounts.items()]


def _counts_now(space: Space, wish: Wish, amounts: Amounts) -> Iterator[int]:
    """Over how many nodes to try to spread, the fewest first: as many as may take the parts now."""
    # One node is mostly enough, and no other need be looked at then.
    yield 1
    asked = _asked_units(amounts)
    if asked is None:
        return
    nodes = eligible(space.nodes.values(), wish)
    has = ([_units_now(node, resource) for resource in amounts] for node in nodes)
    yield from _counts(asked, has, range(2, len(space.nodes) + 1))


def _spread_over(
    space: Space, mix: Mix, wish: Wish, amounts: Amounts, count: int
) -> tuple[Placement, ...] | None:
    """One part on each of ``count`` different nodes, or None."""
    parts = shares_of(amounts, count)
    if parts is None or count > len(space.nodes):
        return None
    used = set(wish.barred)
    placed = []
    for part in parts:
        on = Wish(wish.request, wish.strategy, wish.seed, used, wish.prefer)
        placement = _one(space, mix, on, part)
        if placement is None:
            return None
        used.add(placement.node)
        placed.append(placement)
    return tuple(placed)


def could_ever_fit(nodes: Iterable[Node], request: Request) -> bool:
    """Whether the nodes, cordoned or not, are large enough if nothing were in use."""
    if request.spread is None:
        select, amounts = request.select, request.amounts
        return any(fits_empty(node, amounts) for node in nodes if carries(node, select))
    asked = _asked_units(request.amounts)
    if asked is None:
        return False
    fitting = [node for node in nodes if carries(node, request.select)]
    most = request.spread or len(fitting)
    has = ([_units_empty(node, resource) for resource in request.amounts] for node in fitting)
    # No part has more of anything than the one before it: the nodes that take the larger are among
    # those that take the smaller, so counting both is enough.
    return any(_counts(asked, has, range(request.spread or 1, most + 1)))
