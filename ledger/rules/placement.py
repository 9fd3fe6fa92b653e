"""Placement: on which node a request lands. A request lands whole on one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ledger.book import Node
from ledger.requests import Amounts, Placement, Request
from ledger.rules.capacity import carries, fits_empty, place_on


def eligible(nodes: Iterable[Node], request: Request) -> Iterable[Node]:
    """The nodes that a request may land on, in the pool's order, whatever they have in use."""
    select = request.select
    if not select:
        return (node for node in nodes if not node.cordoned)
    return (node for node in nodes if not node.cordoned and carries(node, select))


def first_fit(nodes: Iterable[Node], amounts: Amounts) -> Placement | None:
    """The first node, in the pool's order, on which the amounts fit."""
    for node in nodes:
        placement = place_on(node, amounts)
        if placement is not None:
            return placement
    return None


def best_fit(nodes: Iterable[Node], amounts: Amounts) -> Placement | None:
    """The node that would have least left, as a share of its capacity, summed over resources.

    Compared exactly, as whole millionths; equal ones go to the node whose name sorts first.
    """
    best: tuple[int, str] | None = None
    chosen: Placement | None = None
    for node in nodes:
        placement = place_on(node, amounts)
        if placement is None:
            continue
        left = sum(
            (node.capacity[r] - in_use) * 1_000_000 // node.capacity[r]
            for r, in_use in placement.in_use.items()
        )
        if best is None or (left, node.name) < best:
            best, chosen = (left, node.name), placement
    return chosen


STRATEGIES: dict[str, Callable[[Iterable[Node], Amounts], Placement | None]] = {
    "first_fit": first_fit,
    "best_fit": best_fit,
}


def place(
    nodes: Iterable[Node], request: Request, amounts: Amounts, strategy: str
) -> tuple[Placement, ...] | None:
    """Where the amounts go under a strategy, or None where they fit nowhere now."""
    placement = STRATEGIES[strategy](eligible(nodes, request), amounts)
    return None if placement is None else (placement,)


def could_ever_fit(nodes: Iterable[Node], request: Request) -> bool:
    """Whether some node, cordoned or not, is large enough if nothing were in use."""
    select, amounts = request.select, request.amounts
    return any(carries(node, select) and fits_empty(node, amounts) for node in nodes)
