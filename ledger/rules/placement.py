"""Placement: on which node a request lands, or on which nodes where it asks to spread.

A strategy (:mod:`ledger.rules.strategies`) answers one question: which of the eligible nodes takes
these amounts. Which one is asked comes from the request, else from the pool's policy and its
roll-out.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from ledger.mix import Mix
from ledger.nodes import Node
from ledger.policy import Policy
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Placement, Request
from ledger.rules.capacity import carries, fits_empty, place_on
from ledger.rules.strategies import STRATEGIES, Wish, eligible
from ledger.spaces import Space

__all__ = [
    "STRATEGIES",
    "Wish",
    "could_ever_fit",
    "eligible",
    "on_node",
    "place",
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
    if spread:
        return _spread_over(space, mix, wish, wanted, spread)
    for count in range(1, len(space.nodes) + 1):
        shares = shares_of(wanted, count)
        if shares is None:
            continue
        found = _spread_over(space, mix, wish, wanted, count)
        if found is not None:
            return found
    return None


def shares_of(amounts: Amounts, count: int) -> list[Amounts] | None:
    """Amounts in ``count`` parts as even as whole units (whole cards) allow; None where one is empty."""
    parts: list[Amounts] = [{} for _ in range(count)]
    for resource, amount in amounts.items():
        unit = CARD if resource in CARD_RESOURCES else 1
        if amount % unit:
            return None
        each, rest = divmod(amount // unit, count)
        if not each:
            return None
        for index, part in enumerate(parts):
            part[resource] = (each + (index < rest)) * unit
    return parts


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
    fitting = [node for node in nodes if carries(node, request.select)]
    counts = [request.spread] if request.spread else range(1, len(fitting) + 1)
    for count in counts:
        parts = shares_of(request.amounts, count)
        # Parts differ by one unit at most and the larger come first: the nodes that take the larger
        # are among those that take the smaller, so counting both is enough.
        if (
            parts is not None
            and sum(fits_empty(n, parts[-1]) for n in fitting) >= count
            and sum(fits_empty(n, parts[0]) for n in fitting) >= sum(p == parts[0] for p in parts)
        ):
            return True
    return False
